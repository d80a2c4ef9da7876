"""Where everything in a drawing of a genotype goes, and the page under it; in points (1/72 inch), y pointing down.

Cells are staircases. Every edge has a lane of its own: it leaves its source downwards, turns right once, and runs
through its label into its target. A node stands left of all later lanes and above them, so no edge can meet a node that
is not its own, and the lines to the output run free above the staircase. The layouts are pure geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..genotype import DENSE_NODES, DENSE_OPERATIONS, Cell, Channels

if TYPE_CHECKING:
    import numpy as np

Point = tuple[float, float]

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
LABEL_SIZE = 8.0
LANE = 23.0
LABEL_HEIGHT = 15.0
BLOCK = 34.0
BLOCK_HEIGHT = 104.0
BLOCK_TOP = 54.0
ROW_GAP = 26.0
TEXT_LINE = 11.0
ROW_WIDTH = 900.0
MARGIN = 22.0
INK, GREY, PAPER = "#1d2733", "#66717d", "#ffffff"


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


@dataclass(frozen=True)
class Connection:
    """One operation from state `source` to state `target` of a cell (0 and 1 are the inputs)."""

    op: str
    source: int
    target: int


@dataclass(frozen=True)
class EdgeLayout:
    """A connection, the box of its label, and its orthogonal way from the source's bottom to the target's left side."""

    connection: Connection
    label: Box
    route: tuple[Point, ...]


@dataclass(frozen=True)
class CellLayout:
    """A cell: boxes of its states by number, the output's box, edges, and the way of each concatenated state."""

    width: float
    height: float
    states: tuple[Box, ...]
    output: Box
    edges: tuple[EdgeLayout, ...]
    outputs: tuple[tuple[int, tuple[Point, ...]], ...]


def cell_connections(cell: Cell) -> list[Connection]:
    """The edges of a cell: edges 2i and 2i + 1 end in node i + 2."""
    return [Connection(edge.op, edge.source, 2 + i // 2) for i, edge in enumerate(cell.edges)]


def dense_pairs() -> list[tuple[int, int]]:
    """(source, target) of the 14 edges of a dense cell in the order of its code."""
    return [(source, target) for target in range(2, 2 + DENSE_NODES) for source in range(target)]


def dense_connections(code: Sequence[str]) -> list[Connection]:
    """The edges of a dense cell; the absent ones (code 00) are left out."""
    pairs = zip(code, dense_pairs(), strict=True)
    return [Connection(DENSE_OPERATIONS[bits], *pair) for bits, pair in pairs if bits != "00"]


def layout_cell(connections: Sequence[Connection], nodes: int, concat: Sequence[int]) -> CellLayout:
    """Lay a cell out as a staircase.

    Args:
        connections: its edges, in any order.
        nodes: the number of intermediate nodes; their states are 2 to nodes + 1.
        concat: the states that the output concatenates.
    """
    states = range(2 + nodes)
    # The later source takes the upper lane: its drop then ends before it could cross the other lane of the same node.
    by_source = sorted(range(len(connections)), key=lambda i: -connections[i].source)
    arriving = [[i for i in by_source if connections[i].target == state] for state in states]
    leaving = [[i for lanes in arriving for i in lanes if connections[i].source == state] for state in states]
    boxes: list[Box] = []
    labels: dict[int, Box] = {}
    x, y = 0.0, 34.0
    for state in states:
        width = max(54.0 if state > 1 else 62.0, 9.0 * (1 + len(leaving[state])))
        if state < 2:
            boxes.append(Box(x, 0, width, 24))
            x += width + 14
            continue
        widths = [text_width(LABELS[connections[i].op]) + 10 for i in arriving[state]]
        column = max(*widths, text_width("sep conv 3x3") + 10, 0.0)
        left = x + column + 20
        height = LANE * max(1, len(widths))
        boxes.append(Box(left, y, width, height - 4))
        for lane, (i, own) in enumerate(zip(arriving[state], widths, strict=True)):
            middle = y - 2 + LANE * (lane + 0.5)
            labels[i] = Box(left - 18 - (column + own) / 2, middle - LABEL_HEIGHT / 2, own, LABEL_HEIGHT)
        x, y = left + width + 14, y + height + 4
    edges = []
    for i, connection in enumerate(connections):
        source, lane_y, siblings = boxes[connection.source], labels[i].center[1], leaving[connection.source]
        # The upper lanes leave on the right, so that edges of one source nest instead of crossing.
        port = source.right - source.width * (siblings.index(i) + 1) / (len(siblings) + 1)
        route = ((port, source.bottom), (port, lane_y), (boxes[connection.target].left, lane_y))
        edges.append(EdgeLayout(connection, labels[i], route))
    x += 10
    top, bottom = boxes[min(concat)].top, boxes[max(concat)].bottom
    output = Box(x, top, 54, bottom - top)
    outputs = tuple((s, ((boxes[s].right, boxes[s].center[1]), (x, boxes[s].center[1]))) for s in sorted(concat))
    return CellLayout(output.right, max(output.bottom, y - 8), tuple(boxes), output, tuple(edges), outputs)


@dataclass(frozen=True)
class BlockLayout:
    """One box of a chain: its texts go into `label` below it; blocks with a residual connection have a stride of 1."""

    box: Box
    label: Box
    texts: tuple[str, ...]
    role: str
    stride: int = 1
    residual: bool = False


@dataclass(frozen=True)
class Band:
    """A group of blocks: the area behind them and the lines of its heading."""

    box: Box
    heading: tuple[str, ...]


@dataclass(frozen=True)
class ChainLayout:
    """A chain of blocks in rows, in the order of the data, grouped into bands; `links` are the ways between them."""

    width: float
    height: float
    blocks: tuple[BlockLayout, ...]
    bands: tuple[Band, ...]
    links: tuple[tuple[Point, ...], ...]


def layout_chain(structure: Channels, image: int = 32) -> ChainLayout:
    """Lay a compact student out as rows of blocks as high as their output is wide, a stage never split needlessly.

    Args:
        structure: the student.
        image: height and width in pixels of the image that the resolutions in the headings are for.
    """
    tutors = list(structure.tutors or ())
    size = -(-image // structure.stem_stride)
    width = structure.stem_width
    stem_texts = (f"3→{width}", f"stride {structure.stem_stride}", *_tutors(tutors, 0, 1))
    stem = (width, stem_texts, "stem", structure.stem_stride, False)
    groups: list[tuple[Any, list[Any]]] = [(("stem", "conv 3x3", f"{size}×{size}"), [stem])]
    convolutions = 1
    for number, stage in enumerate(structure.stages, 1):
        size = -(-size // stage.stride)
        blocks = []
        for i, out in enumerate(stage.widths):
            stride = stage.stride if i == 0 else 1
            texts = (f"{width}→{out}", "stride 2" if stride == 2 else "", *_tutors(tutors, convolutions, 3))
            blocks.append((out, texts, "block", stride, stride == 1 and width == out))
            width, convolutions = out, convolutions + 3
        groups.append(((f"stage {number}", f"stride {stage.stride}", f"{size}×{size}"), blocks))
    head = [(width, ("average",), "pool", 1, False), (width, (f"{width}→", "classes"), "linear", 1, False)]
    groups.append((("head", "pool, linear", "1×1"), head))
    below = [text for _, blocks in groups for block in blocks for text in block[1]]
    pitch = max(BLOCK + 24, 6 + max(map(text_width, below)))
    lines = 3 if structure.tutors else 2
    highest = max(out for _, blocks in groups for out, *_ in blocks)
    placed, bands, y, extent = [], [], 0.0, 0.0
    for row in _rows(groups, max(1, int(ROW_WIDTH // pitch)), pitch):
        space = BLOCK_HEIGHT / highest * max(out for _, blocks in row for out, *_ in blocks)
        row_height, x = BLOCK_TOP + space + 6 + TEXT_LINE * lines + 6, 0.0
        for heading, blocks in row:
            bands.append(Band(Box(x, y, pitch * len(blocks), row_height), heading))
            for out, texts, role, stride, residual in blocks:
                height = BLOCK_HEIGHT * out / highest
                box = Box(x + (pitch - BLOCK) / 2 + 2, y + BLOCK_TOP + (space - height) / 2, BLOCK, height)
                label = Box(x + 2, y + BLOCK_TOP + space + 6, pitch - 2, TEXT_LINE * lines)
                placed.append(BlockLayout(box, label, texts, role, stride, residual))
                x += pitch
            extent, x = max(extent, x), x + 8
        y += row_height + ROW_GAP
    links = tuple(_link(before, after) for before, after in pairwise(placed))
    return ChainLayout(extent, y - ROW_GAP, tuple(placed), tuple(bands), links)


def _link(before: BlockLayout, after: BlockLayout) -> tuple[Point, ...]:
    """From the right of one block to the left of the next, through the gap between the rows where a new row begins."""
    start, end = (before.box.right, before.box.center[1]), (after.box.left, after.box.center[1])
    if start[0] < end[0]:
        return start, (end[0], start[1])
    turn, between = start[0] + 22, before.label.bottom + 6 + ROW_GAP / 2
    return start, (turn, start[1]), (turn, between), (-11.0, between), (-11.0, end[1]), end


def _rows(groups: Sequence[tuple[Any, list[Any]]], per_row: int, pitch: float) -> list[list[tuple[Any, list[Any]]]]:
    """Whole groups into rows; a group longer than a row is split, and its heading repeated."""
    rows: list[list[tuple[Any, list[Any]]]] = []
    used = ROW_WIDTH
    for heading, blocks in groups:
        for start in range(0, len(blocks), per_row):
            part = blocks[start : start + per_row]
            if used + 8 + pitch * len(part) > ROW_WIDTH:
                rows.append([])
                used = -8.0
            used += 8 + pitch * len(part)
            rows[-1].append((heading if start == 0 else (heading[0], "continued", heading[2]), part))
    return rows


def _tutors(tutors: Sequence[int], start: int, count: int) -> tuple[str, ...]:
    return (" ".join(map(str, tutors[start : start + count])),) if tutors else ()


def family(op: str) -> str:
    """The key in `FAMILIES` of a primitive or a dense operation."""
    if "+" in op:
        return "both"
    return "pool" if "pool" in op else op.split("_", 1)[0]


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
