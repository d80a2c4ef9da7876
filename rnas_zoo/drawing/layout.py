"""Where everything in a drawing of a genotype goes; in points (1/72 inch), y pointing down.

Cells are staircases. Every edge has a lane of its own: it leaves its source downwards, turns right once, and runs
through its label into its target. A node stands left of all later lanes and above them, so no edge can meet a node that
is not its own, and the lines to the output run free above the staircase. The layouts are pure geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..genotype import DENSE_NODES, DENSE_OPERATIONS, Cell, Channels
from .operations import LABELS
from .page import Box, Point, text_width

LANE = 23.0
LABEL_HEIGHT = 15.0
BLOCK = 34.0
BLOCK_HEIGHT = 104.0
BLOCK_TOP = 54.0
ROW_GAP = 26.0
TEXT_LINE = 11.0
ROW_WIDTH = 900.0


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
