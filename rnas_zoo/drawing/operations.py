"""How drawings name operations, and the line each family of them is drawn with."""

from __future__ import annotations

from dataclasses import dataclass

LABELS = {
    "none": "none",
    "max_pool_3x3": "max pool 3x3",
    "avg_pool_3x3": "avg pool 3x3",
    "skip_connect": "skip",
    "sep_conv_3x3": "sep conv 3x3",
    "sep_conv_5x5": "sep conv 5x5",
    "dil_conv_3x3": "dil conv 3x3",
    "dil_conv_5x5": "dil conv 5x5",
    "sep_conv_3x3 + skip_connect": "sep conv 3x3 + skip",
}


@dataclass(frozen=True)
class Family:
    """How edges of a family of operations look: colour, width and dashes (in points), each telling them apart alone."""

    name: str
    color: str
    width: float = 1.7
    dashes: tuple[float, ...] = ()


FAMILIES = {
    "sep": Family("separable convolution", "#08519c"),
    "dil": Family("dilated convolution", "#d95f0e", dashes=(5.0, 2.0)),
    "pool": Family("pooling", "#009e73", dashes=(1.6, 1.6)),
    "skip": Family("identity (skip)", "#8b949e", width=1.3),
    "both": Family("separable convolution + identity", "#7b3294", width=2.8),
    "none": Family("no operation", "#c2c8cf", dashes=(1.0, 2.5)),
}


def family(op: str) -> str:
    """The key in `FAMILIES` of a primitive or a dense operation."""
    if "+" in op:
        return "both"
    return "pool" if "pool" in op else op.split("_", 1)[0]
