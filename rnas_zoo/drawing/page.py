"""The page of a drawing of boxes and lines; in points (1/72 inch), y pointing down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Point = tuple[float, float]

LABEL_SIZE = 8.0
MARGIN = 22.0
INK, GREY, PAPER = "#1d2733", "#66717d", "#ffffff"


def text_width(text: str, size: float = LABEL_SIZE) -> float:
    """An upper estimate of the width in points of a text in DejaVu Sans of `size` points."""
    return 0.63 * size * len(text)


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, width and height in points."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def center(self) -> Point:
        return self.left + self.width / 2, self.top + self.height / 2


class Page:
    """A white figure of `width` x `height` points and a margin all round, with y pointing down."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        full = width + 2 * MARGIN, height + 2 * MARGIN
        self.figure = Figure(figsize=(full[0] / 72, full[1] / 72), facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1), frameon=False)
        self.axes.set_axis_off()
        self.axes.set(xlim=(-MARGIN, width + MARGIN), ylim=(height + MARGIN, -MARGIN))

    def text(
        self, at: Point, text: str, size: float = LABEL_SIZE, *, color: str = INK, bold: bool = False,
        align: str = "center", level: int = 6,
    ) -> None:  # fmt: skip
        """Write one line, vertically centred at a point; nothing if it is empty."""
        if not text:
            return
        weight = "bold" if bold else "normal"
        style: dict[str, Any] = {"fontsize": size, "color": color, "fontweight": weight, "ha": align}
        self.axes.text(*at, printable(text), va="center_baseline", parse_math=False, zorder=level, **style)

    def box(
        self, box: Box, fill: str = PAPER, edge: str = INK, *, width: float = 1.0, radius: float = 4.0, level: int = 4
    ) -> None:
        """Draw a rounded rectangle."""
        from matplotlib.patches import FancyBboxPatch

        style = f"round,pad=0,rounding_size={min(radius, box.width / 2, box.height / 2)}"
        corner = (box.left, box.top)
        patch = FancyBboxPatch(
            corner, box.width, box.height, boxstyle=style, fc=fill, ec=edge, lw=width, zorder=level, clip_on=False
        )
        self.axes.add_patch(patch)

    def image(self, box: Box, pixels: np.ndarray) -> None:
        """Draw an image of shape (h, w, 3), floats in 0..1, each pixel a sharp rectangle."""
        from matplotlib.image import AxesImage

        image = AxesImage(self.axes, interpolation="nearest", extent=(box.left, box.right, box.bottom, box.top))
        image.set_data(pixels)
        self.axes.add_image(image)

    def line(
        self, points: Sequence[Point], color: str, width: float = 1.5, dashes: tuple[float, ...] = (), *,
        arrow: bool = True, casing: bool = True, level: float = 2,
    ) -> None:  # fmt: skip
        """Draw an orthogonal line with rounded corners; its white casing bridges the lines drawn before it."""
        from matplotlib.patches import PathPatch, Polygon
        from matplotlib.path import Path as Outline

        (x, y), before = points[-1], points[-2]
        if arrow:
            dx, dy = ((x > before[0]) - (x < before[0]), (y > before[1]) - (y < before[1]))
            wings = [(x - 6 * dx - 3 * dy, y - 6 * dy - 3 * dx), (x - 6 * dx + 3 * dy, y - 6 * dy + 3 * dx)]
            self.axes.add_patch(Polygon([(x, y), *wings], closed=True, fc=color, ec="none", zorder=level + 0.5))
            points = [*points[:-1], (x - 5 * dx, y - 5 * dy)]
        outline = _rounded(points, 7.0)
        path = Outline([p for p, _ in outline], [code for _, code in outline])
        if casing:
            self.axes.add_patch(PathPatch(path, fc="none", ec=PAPER, lw=width + 3, zorder=level, capstyle="butt"))
        style = (0, dashes) if dashes else "solid"
        self.axes.add_patch(PathPatch(path, fc="none", ec=color, lw=width, ls=style, zorder=level, capstyle="butt"))


def _rounded(points: Sequence[Point], radius: float) -> list[tuple[Point, int]]:
    move, line, curve = 1, 2, 3
    outline = [(points[0], move)]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for other in (before, after):
            length = abs(other[0] - corner[0]) + abs(other[1] - corner[1])
            share = min(radius, length / 2) / length if length else 0.0
            ends.append((corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share))
        outline += [(ends[0], line), (corner, curve), (ends[1], curve)]
    return [*outline, (points[-1], line)]


def printable(text: str, limit: int = 200) -> str:
    """The text without control characters, shortened to `limit` characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
