"""Threat models: what an adversary may change."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Threat:
    """Perturbations of norm at most `eps`, in pixels of [0, 1], that leave the image inside [0, 1].

    Args:
        norm: `linf` or `l2`.
        eps: a number, text such as `8/255`, or one size per image as a floating-point tensor (N,).

    Raises:
        UsageError: unknown norm, or eps outside its range.

    Example:
        import rnas_zoo

        assert rnas_zoo.Threat("linf", "8/255").eps == 8 / 255
        assert str(rnas_zoo.Threat("l2", 0.5)) == "L2 0.5"
    """

    norm: str = "linf"
    eps: Any = 8 / 255

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UsageError(f"unknown norm {self.norm!r}, known are {', '.join(NORMS)}")
        if self.per_image:
            return self._check_per_image()
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.norm == "linf" and self.eps > 1:
            raise UsageError(f"eps={self.eps:g} is outside [0, 1]: pixels lie in [0, 1], so write {self.eps:g}/255")

    @property
    def per_image(self) -> bool:
        """Whether every image has its own ε."""
        return hasattr(self.eps, "shape") and len(self.eps.shape) > 0

    def _check_per_image(self) -> None:
        eps = self.eps
        if len(eps.shape) != 1 or not eps.is_floating_point():
            raise UsageError(f"one eps per image is a floating-point tensor (N,), got {eps.dtype} {tuple(eps.shape)}")
        if not bool(((eps >= 0) & (eps < float("inf"))).all()):
            raise UsageError("every eps must be a finite number >= 0")
        if self.norm == "linf" and bool((eps > 1).any()):
            raise UsageError("an eps is above 1: pixels lie in [0, 1], so divide by 255")

    def scaled(self, factor: Tensor) -> Threat:
        """The threat model with ε times a factor in [0, 1], a tensor without dimensions.

        Nothing is read on the host, so that a captured CUDA graph sees the factor change.
        """
        found = object.__new__(Threat)
        object.__setattr__(found, "norm", self.norm)
        object.__setattr__(found, "eps", self.eps * factor)
        return found

    def take(self, rows: Tensor) -> Threat:
        """The threat model of some of the images, by their `rows` in the batch, integers (M,)."""
        return Threat(self.norm, self.eps[rows]) if self.per_image else self

    @property
    def radius(self) -> Any:
        """ε to multiply a batch (N, C, H, W) with: a number, or a tensor (N, 1, 1, 1)."""
        return self.eps[:, None, None, None] if self.per_image else self.eps

    @property
    def eps_text(self) -> str:
        """`8/255` for L∞ where eps is a multiple of 1/510, else decimal digits; `parse_eps` reads both back."""
        if self.per_image:
            return f"{float(self.eps.min()):.4g} to {float(self.eps.max()):.4g}"
        halves = round(self.eps * 510)
        if self.norm == "linf" and halves / 510 == self.eps:
            return f"{halves // 2}{'.5' if halves % 2 else ''}/255"
        return repr(self.eps)

    def __str__(self) -> str:
        return f"{'L∞' if self.norm == 'linf' else 'L2'} {self.eps_text}"

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Norms of the differences of two batches x and y (N, C, H, W), shape (N,), in pixels of [0, 1]."""
        difference = (x - y).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else difference.norm(dim=1)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Of images x_adv the nearest ones in the ball around x, clamped to [0, 1]; (N, C, H, W) each."""
        delta = x_adv - x
        if self.norm == "linf":
            delta = delta.clamp(-self.radius, self.radius)
        else:
            norms = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            delta = delta * (self.eps / norms).clamp_max(1.0)[:, None, None, None]
        return (x + delta).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Steepest ascent direction of unit size of a gradient (N, C, H, W): its sign, or the gradient normalised."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def parse_eps(value: float | str) -> float:
    """A perturbation size from a number, `8/255`, `0.5/255`, or decimal text.

    Raises:
        UsageError: no number, negative, or not finite.
    """
    try:
        if isinstance(value, str):
            over, slash, under = value.partition("/")
            eps = float(Fraction(over) / Fraction(under) if slash else Fraction(over))
        else:
            eps = float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"cannot read eps {value!r}; write 8/255 or 0.031") from error
    if not 0 <= eps < float("inf"):
        raise UsageError(f"eps must be a finite number >= 0, got {value!r}")
    return eps
