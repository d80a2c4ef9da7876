"""What all pictures share: their style, their colours, and how a figure becomes a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..files import atomic_path
from .page import GREY, PAPER, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_COLORS = ("#08519c", "#d95f0e", "#009e73", "#7b3294", "#3d4752", "#56b4e9", "#c23b75", "#a6761d")
CURVE_MARKERS = "osD^vPX*"
DPI = 160


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults with our fonts, whatever the user's matplotlibrc says."""
    from matplotlib import style as matplotlib_style

    fonts = ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"]
    ours = {
        "font.family": "sans-serif",
        "font.sans-serif": fonts,
        "svg.fonttype": "none",
        "svg.hashsalt": "rnas-zoo",
    }
    with matplotlib_style.context(["default", ours]):
        yield


def check_suffix(path: Path) -> str:
    """The kind of a picture, `svg` or `png`.

    Raises:
        UsageError: another suffix.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"cannot draw {path}: pictures are .svg or .png, so give the file one of these suffixes.")
    return path.suffix.lower()[1:]


def save(
    figure: Figure,
    path: Path,
    title: str,
    description: str | None = None,
    *,
    photographs: bool = False,
    **options: Any,
) -> Path:
    """Write a figure, the same one as the same bytes; the path.

    An .svg file says its title and description; a .png file has 256 colours unless it shows photographs.
    """
    kind = check_suffix(path)
    told = {"Date": None, "Creator": None, "Title": printable(title), "Description": description}
    metadata = told if kind == "svg" else {"Software": None}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata, facecolor=PAPER, **options)
        if kind == "png":
            _shrink(temporary, None if photographs else 256)
    return path


def _shrink(path: Path, colors: int | None) -> None:
    """Store a .png picture in as few bytes as PNG takes; a chart of 256 colours takes a third of those of all."""
    from PIL import Image

    with Image.open(path) as image:
        flat = image.convert("RGB")
    if colors:
        flat = flat.quantize(colors, dither=Image.Dither.NONE)
    flat.save(path, "png", optimize=True)


def quiet(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Leave of the frame of a chart its bottom line, faint grid lines, and labels without ticks."""
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.grid(axis=grid, color="#e6e9ed", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)


def spread(wanted: Sequence[float], distance: float, top: float) -> list[float]:
    """Positions in 0..`top` near the wanted ones, in the same order and at least `distance` apart (if that fits)."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    at = [0.0] * len(wanted)
    lowest = 0.0
    for i in order:
        at[i] = lowest = max(wanted[i], lowest)
        lowest += distance
    highest = max(top, distance * (len(wanted) - 1))
    for i in reversed(order):
        at[i] = highest = min(at[i], highest)
        highest -= distance
    return at
