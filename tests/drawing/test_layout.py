"""The geometry of cells and chains: nothing touches what it does not belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnas_zoo import genotype
from rnas_zoo.drawing import layout
from rnas_zoo.drawing.layout import CellLayout, Connection
from rnas_zoo.drawing.page import Box, Point

from ..genotype.objects import NAMES, raw

CELL_NAMES = [name for name in NAMES if genotype.named(name).kind in genotype.CELL_ROLES]
CHAINS = [name for name in NAMES if genotype.named(name).kind == "channels"]


def disjoint(one: Box, other: Box) -> bool:
    apart = one.left + one.width <= other.left or other.left + other.width <= one.left
    return apart or one.top + one.height <= other.top or other.top + other.height <= one.top


def enters(start: Point, end: Point, box: Box) -> bool:
    """Whether an axis-parallel segment passes through the inside of a box."""
    (x0, x1), (y0, y1) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    slack = 1e-6
    across = x1 > box.left + slack and x0 < box.left + box.width - slack
    return across and y1 > box.top + slack and y0 < box.top + box.height - slack


def overlap(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two axis-parallel segments run on top of each other for some length."""
    for axis in (0, 1):
        if len({*(round(point[axis], 6) for point in (*one, *other))}) == 1:
            (a, b), (c, d) = (sorted(point[1 - axis] for point in segment) for segment in (one, other))
            return min(b, d) - max(a, c) > 1e-6
    return False


def check_cell(layout: CellLayout, connections: Sequence[Connection], concat: Sequence[int]) -> None:
    page = Box(0, 0, layout.width, layout.height)
    boxes = [*layout.states, layout.output]
    labels = [edge.label for edge in layout.edges]
    assert all(disjoint(one, other) for one, other in combinations([*boxes, *labels], 2))
    for box in [*boxes, *labels]:
        assert box.left >= 0
        assert box.top >= 0
        assert box.left + box.width <= page.width
        assert box.top + box.height <= page.height
    assert Counter(edge.connection for edge in layout.edges) == Counter(connections)
    for edge in layout.edges:
        source, target = layout.states[edge.connection.source], layout.states[edge.connection.target]
        (x, y), (end_x, end_y) = edge.route[0], edge.route[-1]
        assert y == source.bottom
        assert source.left < x < source.right
        assert end_x == target.left
        assert target.top < end_y < target.bottom
        assert edge.route[-2][0] < end_x
        parts = list(pairwise(edge.route))
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in parts)
        assert any(enters(a, b, edge.label) for a, b in parts)
        foreign = [box for box in [*boxes, *labels] if box is not edge.label]
        assert not any(enters(a, b, box) for a, b in parts for box in foreign)
    assert [state for state, _ in layout.outputs] == sorted(concat)
    for state, (start, end) in layout.outputs:
        assert start[0] == layout.states[state].right
        assert end[0] == layout.output.left
        assert layout.output.top <= end[1] <= layout.output.bottom
        assert not any(enters(start, end, box) for box in [*boxes, *labels])
    ways = [route for _, route in layout.outputs] + [edge.route for edge in layout.edges]
    for one, other in combinations(ways, 2):
        assert not any(overlap(a, b) for a in pairwise(one) for b in pairwise(other))


def cell_of(value: dict[str, Any]) -> tuple[list[Connection], int, list[int]]:
    connections = [Connection(op, source, 2 + i // 2) for i, (op, source) in enumerate(value["edges"])]
    return connections, len(value["edges"]) // 2, value["concat"]


@pytest.mark.parametrize("name", CELL_NAMES)
def test_bundled_cells_are_laid_out_apart(name: str) -> None:
    for role, value in raw(name)["cells"].items():
        connections, nodes, concat = cell_of(value)
        structure = genotype.named(name).structure
        assert isinstance(structure, genotype.Cells)
        assert layout.cell_connections(structure[role]) == connections
        check_cell(layout.layout_cell(connections, nodes, concat), connections, concat)


@st.composite
def cells(drawn: st.DrawFn) -> tuple[list[Connection], int, list[int]]:
    nodes = drawn(st.integers(1, 7))
    ops = st.sampled_from(list(genotype.PRIMITIVES))
    edges = [[drawn(ops), drawn(st.integers(0, 1 + i // 2))] for i in range(2 * nodes)]
    concat = drawn(st.lists(st.integers(2, 1 + nodes), min_size=1, unique=True))
    return cell_of({"edges": edges, "concat": concat})


@settings(max_examples=60, deadline=None)
@given(cells())
def test_any_cell_is_laid_out_apart(cell: tuple[list[Connection], int, list[int]]) -> None:
    connections, nodes, concat = cell
    edges = tuple(genotype.Edge(connection.op, connection.source) for connection in connections)
    assert layout.cell_connections(genotype.Cell(edges, tuple(concat))) == connections
    check_cell(layout.layout_cell(connections, nodes, concat), connections, concat)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["00", "01", "10", "11"]), min_size=14, max_size=14))
def test_any_dense_cell_is_laid_out_apart(code: list[str]) -> None:
    connections = layout.dense_connections(code)
    pairs = ["02", "12", "03", "13", "23", "04", "14", "24", "34", "05", "15", "25", "35", "45"]
    present = [pair for bits, pair in zip(code, pairs, strict=True) if bits != "00"]
    assert [f"{c.source}{c.target}" for c in connections] == present
    check_cell(layout.layout_cell(connections, 4, (2, 3, 4, 5)), connections, (2, 3, 4, 5))


def check_chain(structure: genotype.Channels, image: int = 32) -> None:
    chain = layout.layout_chain(structure, image)
    blocks = [block for block in chain.blocks if block.role == "block"]
    widths = [width for stage in structure.stages for width in stage.widths]
    strides = [stage.stride if i == 0 else 1 for stage in structure.stages for i in range(len(stage.widths))]
    inputs = [structure.stem_width, *widths[:-1]]
    assert [block.role for block in chain.blocks] == ["stem", *["block"] * len(widths), "pool", "linear"]
    assert [block.texts[0] for block in blocks] == [f"{a}→{b}" for a, b in zip(inputs, widths, strict=True)]
    assert [block.stride for block in blocks] == strides
    expected = [s == 1 and a == b for s, a, b in zip(strides, inputs, widths, strict=True)]
    assert [block.residual for block in blocks] == expected
    heights = np.array([block.box.height for block in chain.blocks[: 1 + len(widths)]])
    np.testing.assert_allclose(heights / heights[0], np.array([structure.stem_width, *widths]) / structure.stem_width)
    boxes = [block.box for block in chain.blocks]
    solid = [*boxes, *(block.label for block in chain.blocks)]
    assert all(disjoint(one, other) for one, other in combinations(solid, 2))
    assert all(disjoint(one.box, other.box) for one, other in combinations(chain.bands, 2))
    assert all(box.left + box.width <= chain.width and box.top + box.height <= chain.height for box in solid)
    assert len(chain.links) == len(boxes) - 1
    for link, before, after in zip(chain.links, boxes, boxes[1:], strict=False):
        assert link[0] == pytest.approx((before.right, before.center[1]))
        assert link[-1] == pytest.approx((after.left, after.center[1]))
        assert not any(enters(a, b, box) for a, b in pairwise(link) for box in solid)


@pytest.mark.parametrize("name", CHAINS)
def test_bundled_chains_are_laid_out_apart(name: str) -> None:
    structure = genotype.named(name).structure
    assert isinstance(structure, genotype.Channels)
    check_chain(structure)


WIDTHS = st.lists(st.integers(1, 2000) | st.sampled_from([8, 16]), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 400), st.lists(st.tuples(WIDTHS, st.integers(1, 2)), min_size=1, max_size=5), st.booleans()
)  # fmt: skip
def test_any_chain_is_laid_out_apart(stem: int, stages: list[tuple[list[int], int]], tutored: bool) -> None:
    convolutions = 1 + 3 * sum(len(widths) for widths, _ in stages)
    tutors = tuple(range(90, 90 + convolutions)) if tutored else None
    check_chain(genotype.Channels(stem, 2, tuple(genotype.Stage(tuple(w), s) for w, s in stages), 6, tutors))


def test_residuals_need_stride_one_and_equal_widths() -> None:
    chain = layout.layout_chain(genotype.Channels(8, 1, (genotype.Stage((8, 8, 9), 2), genotype.Stage((9,), 1)), 6))
    assert [block.residual for block in chain.blocks] == [False, False, True, False, True, False, False]


def test_chain_headings_name_the_resolutions() -> None:
    structure = genotype.named("cl_s7").structure
    assert isinstance(structure, genotype.Channels)
    usual = layout.layout_chain(structure)
    assert [band.heading[2] for band in usual.bands] == ["16×16", "16×16", "8×8", "4×4", "1×1"]
    odd = layout.layout_chain(structure, image=36)
    assert [band.heading[2] for band in odd.bands] == ["18×18", "18×18", "9×9", "5×5", "1×1"]
