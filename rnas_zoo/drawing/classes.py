"""Pictures of results: accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .canvas import check_suffix, quiet, save, style
from .page import INK, PAPER, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN_COLOR, ROBUST_COLOR = "#d5dae0", "#6baed6"
Bar = tuple[str, float, float, tuple[float, float]]


def draw_classes(bars: Sequence[Bar], path: str | Path, *, title: str) -> Path:
    """Draw clean and robust accuracy by class as bars, the interval of the robust one as a line.

    Args:
        bars: for each class its name, clean accuracy, robust accuracy and the interval of that, all in 0..1.
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, no classes, or numbers outside 0..1.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    if not bars:
        raise UsageError("a picture of classes needs at least one class, found none.")
    for name, clean, robust, (low, high) in bars:
        if not (0 <= low <= robust <= high <= 1 and 0 <= clean <= 1):
            raise UsageError(f"class {name!r}: accuracies must lie in 0..1 and inside their interval.")
    with style():
        return save(_figure(bars, title), path, title, bbox_inches="tight", pad_inches=0.15)


def _figure(bars: Sequence[Bar], title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.0 + 0.3 * len(bars)), facecolor=PAPER)
    axes = figure.add_axes((0.2, 0.5 / (1.0 + 0.3 * len(bars)), 0.75, 0.3 * len(bars) / (1.0 + 0.3 * len(bars))))
    places = range(len(bars))
    robust = [100 * bar[2] for bar in bars]
    axes.barh(places, [100 * bar[1] for bar in bars], height=0.7, color=CLEAN_COLOR, label="clean")
    axes.barh(places, robust, height=0.42, color=ROBUST_COLOR, label="robust, with 95 % interval")
    around = [[100 * (bar[2] - bar[3][0]) for bar in bars], [100 * (bar[3][1] - bar[2]) for bar in bars]]
    axes.errorbar(robust, places, xerr=around, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    axes.set(xlim=(0, 100), ylim=(len(bars) - 0.4, -0.6), yticks=list(places))
    axes.set_yticklabels([printable(bar[0], 24) for bar in bars], parse_math=False)
    axes.set_title(printable(title, 100), fontsize=11, fontweight="bold", color=INK, loc="left", pad=24)
    axes.set_xlabel("accuracy (%)", fontsize=10, color=INK)
    quiet(axes, grid="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    return figure
