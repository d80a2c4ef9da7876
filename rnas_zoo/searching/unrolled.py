"""The architecture gradient through one virtual weight step (Liu, Simonyan, Yang, ICLR 2019, equations 6 to 8).

    w' = w - ξ (μ m + ∇w L_in(w, α) + λ w)
    d/dα L_out(w', α) = ∇α L_out(w', α) - ξ · ∇α,w L_in(w, α) · v,   v = ∇w' L_out(w', α)

The matrix is never formed: its product with v is the difference of ∇α L_in at w + R v and w - R v over 2 R, with
R = 0.01 / |v|, all weights together. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RADIUS = 0.01

Loss = Callable[[], Tensor]
Gradients = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Virtual:
    """The state of the SGD whose next step is taken virtually.

    Attributes:
        learning_rate: ξ, a tensor without dimensions if it changes while a captured step is replayed.
        momentum, weight_decay: μ and λ.
        buffers: the momentum buffer m of each weight; None before its first step.
    """

    learning_rate: Tensor | float
    momentum: float
    weight_decay: float
    buffers: Sequence[Tensor | None]


@dataclass(frozen=True)
class Outer:
    """The α-gradient of one outer loss.

    Attributes:
        loss: L_out(w', α), detached.
        first: ∇α L_out(w', α), one tensor per architecture parameter.
        correction: ∇α,w L_in(w, α) · v, likewise; linear in the outer loss up to the finite difference.
        learning_rate: ξ.
    """

    loss: Tensor
    first: list[Tensor]
    correction: list[Tensor]
    learning_rate: Tensor | float

    @property
    def full(self) -> list[Tensor]:
        """The second-order gradient, first - ξ correction."""
        return [f - self.learning_rate * c for f, c in zip(self.first, self.correction, strict=True)]


@torch.no_grad()
def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(weights), list(values))
    torch.clear_autocast_cache()  # it holds half-precision copies of the weights as they were


@torch.no_grad()
def _step(weights: Sequence[Tensor], gradients: Sequence[Tensor], virtual: Virtual) -> Sequence[Tensor]:
    """The weights after the virtual step."""
    direction = torch._foreach_add(list(gradients), list(weights), alpha=virtual.weight_decay)
    if virtual.momentum:
        moving = [(d, m) for d, m in zip(direction, virtual.buffers, strict=True) if m is not None]
        if moving:
            torch._foreach_add_([d for d, _ in moving], [m for _, m in moving], alpha=virtual.momentum)
    return torch._foreach_sub(list(weights), torch._foreach_mul(direction, virtual.learning_rate))


def unrolled(
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    inner: Loss,
    outers: Sequence[Loss],
    virtual: Virtual,
    gradients: Gradients,
) -> list[Outer]:
    """Second-order α-gradients of several outer losses after one virtual step on the inner loss.

    The weights are changed in place while the losses are evaluated and hold their old values, bit for bit, when this
    returns or a callable raises. Running statistics of batch norms are the caller's affair. It costs one backward pass
    of the inner loss, and one of the outer and two of the inner loss for every outer loss.

    Args:
        weights, alphas: the parameters of both levels.
        inner: the training loss at the weights as they are; must give the same loss for the same weights.
        outers: validation losses, likewise.
        virtual: state of the weights' optimiser.
        gradients: gradients of a loss with respect to parameters, zeros for those without a part in it.

    Returns:
        One result per outer loss, all at the same w'.
    """
    saved = [weight.detach().clone() for weight in weights]
    try:
        _assign(weights, _step(weights, gradients(inner(), weights), virtual))
        at_step = []
        for outer in outers:
            loss = outer()
            found = list(gradients(loss, [*alphas, *weights]))
            at_step.append((loss.detach(), found[: len(alphas)], found[len(alphas) :]))
        results = []
        for loss, first, vector in at_step:
            norm = torch.stack(torch._foreach_norm(vector)).norm()
            norm = norm.clamp_min(torch.finfo(norm.dtype).tiny * 1e4)
            shift = torch._foreach_mul(vector, RADIUS / norm)
            _assign(weights, torch._foreach_add(saved, shift))
            plus = gradients(inner(), alphas)
            _assign(weights, torch._foreach_sub(saved, shift))
            minus = gradients(inner(), alphas)
            scale = norm / (2 * RADIUS)
            correction = [(p - m) * scale for p, m in zip(plus, minus, strict=True)]
            results.append(Outer(loss, first, correction, virtual.learning_rate))
        return results
    finally:
        _assign(weights, saved)
