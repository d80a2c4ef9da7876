"""What a model made by others expects of its input; the package itself always works on RGB in [0, 1], NCHW, float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UsageError

LAYOUTS = ("nchw", "nhwc")
RANGES = (1, 255)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels in [0, 1] become a foreign model's input, in this order:

    resize to `input_size` → x · `range` → (x − `mean`) / `std` → `layout`.

    A perturbation's size ε always lives in the images given, before all of this. None means what the model itself
    declares (timm's `pretrained_cfg`, the shape of an ONNX input), else mean 0, std 1, no resizing, NCHW.

    Attributes:
        mean, std: three numbers each, one per channel, in units of `range`: with range 1 pixels of [0, 1] (ImageNet's
            mean is 0.485, 0.456, 0.406), with range 255 pixels of 0 to 255 (123.675, 116.28, 103.53).
        input_size: height and width the images are resized to, bilinear, differentiable, antialiased where it shrinks
            them. Without it a model gets the images as they are.
        layout: `nchw` or `nhwc`.
        range: the value of a white pixel, 1 or 255.

    Raises:
        UsageError: a value out of its range, or mean and std in the units of another range.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input_size: tuple[int, int] | None = None
    layout: str | None = None
    range: int = 1

    def __post_init__(self) -> None:
        if self.range not in RANGES:
            raise UsageError(f"range is the value of a white pixel, 1 or 255, got {self.range!r}")
        if self.layout not in (None, *LAYOUTS):
            raise UsageError(f"layout is nchw or nhwc, got {self.layout!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if isinstance(values, str) or len(values) != 3 or not all(_is_finite(v) for v in values):
                raise UsageError(f"{name} is three finite numbers, one per channel R,G,B, got {values!r}")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"std must be above 0 in every channel, got {_text(self.std)}")
        if self.mean is not None:
            self._check_units(self.mean)
        size = self.input_size
        if size is not None:
            whole = not isinstance(size, str) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)
            if not whole:
                raise UsageError(f"input_size is height and width in pixels, such as (224, 224), got {size!r}")
            object.__setattr__(self, "input_size", tuple(size))

    def _check_units(self, mean: tuple[float, ...]) -> None:
        if max(mean) > self.range:
            fix = " for pixels of 0 to 255 give range 255 as well" if self.range == 1 else " check mean and range"
            raise UsageError(f"mean {_text(mean)} lies outside of pixels of 0 to {self.range}:{fix}")
        if self.range == 255 and 0 < max(mean) < 1 and (self.std is None or max(self.std) < 1):
            raise UsageError(
                f"mean {_text(mean)} is in units of [0, 1], but range 255 wants it in units of 0 to 255: multiply mean "
                "and std by 255, or leave the range at 1"
            )

    @classmethod
    def parse(
        cls,
        *,
        mean: str | None = None,
        std: str | None = None,
        input_size: str | None = None,
        layout: str | None = None,
        range: str | int | None = None,
    ) -> Preprocessing | None:
        """From text: `0.485,0.456,0.406` (or one number for all channels), `224` or `192x256` (height first).

        Returns:
            None if nothing is given.

        Raises:
            UsageError: text that cannot be read, or see `Preprocessing`.
        """
        if all(value is None for value in (mean, std, input_size, layout, range)):
            return None
        try:
            white = 1 if range is None else int(range)
        except ValueError as error:
            raise UsageError(f"range is the value of a white pixel, 1 or 255, got {range!r}") from error
        return cls(_channels("mean", mean), _channels("std", std), _size(input_size), layout, white)

    @property
    def changes_nothing(self) -> bool:
        """Whether images reach the model as they are."""
        values = (self.mean or (0.0,) * 3, self.std or (1.0,) * 3, self.input_size, self.layout or "nchw", self.range)
        return values == ((0.0,) * 3, (1.0,) * 3, None, "nchw", 1)

    def completed(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Preprocessing:
        """With what a model declares (in units of [0, 1]) in place of what was not given.

        Raises:
            UsageError: mean and std of the model are needed, but the range given is another one than theirs.
        """
        declared = Preprocessing(_triple(mean, 0.0), _triple(std, 1.0))
        incomplete = self.mean is None or self.std is None
        if self.range != 1 and incomplete and not declared.changes_nothing:
            known = f"mean {_text(declared.mean or ())} and std {_text(declared.std or ())}"
            raise UsageError(
                f"the model declares {known} for pixels of [0, 1]: with range {self.range} give both mean and std, "
                f"in units of 0 to {self.range}"
            )
        layout = self.layout or "nchw"
        return Preprocessing(self.mean or declared.mean, self.std or declared.std, self.input_size, layout, self.range)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, texts and numbers, for the evidence."""
        return {
            "mean": list(self.mean or (0.0,) * 3),
            "std": list(self.std or (1.0,) * 3),
            "input_size": list(self.input_size) if self.input_size else None,
            "layout": self.layout or "nchw",
            "range": self.range,
        }


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _triple(values: Sequence[float] | None, default: float) -> tuple[float, float, float]:
    found = tuple(values) if values is not None else (default,)
    return found * 3 if len(found) == 1 else found  # type: ignore[return-value]


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _channels(name: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        return _triple([float(part) for part in text.split(",")], 0.0)
    except ValueError as error:
        raise UsageError(f"{name} is three numbers such as 0.485,0.456,0.406, got {text!r}") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) > 2:
        raise UsageError(f"input_size is a number of pixels such as 224, or HEIGHTxWIDTH such as 192x256, got {text!r}")
    return int(parts[0]), int(parts[-1])
