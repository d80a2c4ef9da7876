"""Drawings of every bundled genotype: complete, legible by geometry, deterministic, whole or absent."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from rnas_zoo import genotype, resources
from rnas_zoo.drawing import genotypes, layout
from rnas_zoo.drawing.genotypes import draw_genotype
from rnas_zoo.drawing.layout import Box, CellLayout, Connection, Point

from .svg import svg_texts

NAMES = genotype.names()
OPERATIONS = {op: op.replace("_", " ").replace(" connect", "") for op in genotype.PRIMITIVES}
DENSE_WORDS = {"01": "sep conv 3x3", "10": "skip", "11": "sep conv 3x3 + skip"}
MATRIX_WORDS = {"01": "sep", "10": "skip", "11": "sep+skip"}
CELL_NAMES = [name for name in NAMES if genotype.named(name).kind in genotype.CELL_ROLES]
CHAINS = [name for name in NAMES if genotype.named(name).kind == "channels"]


def raw(name: str) -> dict[str, Any]:
    return json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))


def expected_labels(value: dict[str, Any]) -> Counter[str]:
    """One label per edge or block, read from the file's JSON alone."""
    if "cells" in value:
        return Counter(OPERATIONS[op] for cell in value["cells"].values() for op, _ in cell["edges"])
    if "codes" in value:
        words = DENSE_WORDS if value["share"] else MATRIX_WORDS
        return Counter(words[bits] for code in value["codes"] for bits in code.split() if bits != "00")
    widths = [3, value["stem"]["width"], *(width for stage in value["stages"] for width in stage["widths"])]
    return Counter(f"{before}→{after}" for before, after in pairwise(widths))


@pytest.mark.parametrize("name", NAMES)
def test_svg_shows_every_edge_and_is_reproducible(name: str, tmp_path: Path) -> None:
    chosen = genotype.named(name)
    first = draw_genotype(chosen, tmp_path / "first.svg")
    with rc_context({"font.size": 23, "font.family": "serif", "svg.fonttype": "path", "savefig.bbox": "tight"}):
        second = draw_genotype(chosen, str(tmp_path / "second.svg"))
    assert first == tmp_path / "first.svg"
    assert first.read_bytes() == second.read_bytes()
    texts, value = svg_texts(first), raw(name)
    expected = expected_labels(value)
    vocabulary = {*OPERATIONS.values(), *DENSE_WORDS.values(), *MATRIX_WORDS.values(), *expected}
    assert Counter(text for text in texts if text in vocabulary) == expected
    structure = {k: v for k, v in value.items() if k not in ("schema", "name", "default", "check", "provenance")}
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert name in texts
    heading = next(text for text in texts if text.startswith("kind "))
    facts = re.split(r"\s*·?\s*(?:kind|status|hash) ", heading)[1:]
    assert facts == [value["kind"], value["provenance"]["status"], digest[:12]]


@pytest.mark.parametrize("name", ["arnas", "robnet_free", "cl_s7"])
def test_png_is_an_image_and_reproducible(name: str, tmp_path: Path) -> None:
    paths = [draw_genotype(genotype.named(name), tmp_path / file) for file in ("a.png", "b.PNG")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert image.format == "PNG"
        assert image.width > 500
        assert not {"Software", "Creation Time"} & set(image.info)
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


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


@pytest.mark.parametrize("name", NAMES)
def test_rendered_texts_never_touch(name: str) -> None:
    figure = genotypes.genotype_figure(genotype.named(name))
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    texts = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts]
    for _, extent in texts:
        assert extent.x0 >= 0
        assert extent.y0 >= 0
        assert extent.x1 <= figure.bbox.width
        assert extent.y1 <= figure.bbox.height
    for (one, a), (other, b) in combinations(texts, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0, (one, other)
    boxes = [p.get_window_extent(renderer) for p in axes.patches if isinstance(p, FancyBboxPatch)]
    words = {*OPERATIONS.values(), *DENSE_WORDS.values(), *MATRIX_WORDS.values(), "concat"}
    for text, extent in texts:
        if text in words or text.startswith(("node ", "cell k")):
            assert any(b.contains(extent.x0, extent.y0) and b.contains(extent.x1, extent.y1) for b in boxes), text


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


def test_teacher_layers_stand_below_their_blocks(tmp_path: Path) -> None:
    structure = genotype.Channels(8, 1, (genotype.Stage((8, 9), 1),), 6, (70, 71, 72, 73, 74, 75, 76))
    texts = svg_texts(draw_genotype(genotype.Genotype("tutored", structure), tmp_path / "tutored.svg"))
    assert {"70", "71 72 73", "74 75 76"} <= set(texts)


def test_families_differ_without_colour() -> None:
    looks = [(family.width, family.dashes) for family in layout.FAMILIES.values()]
    assert len(set(looks)) == len(looks)
    assert {layout.family(op) for op in layout.LABELS} == set(layout.FAMILIES)
    assert set(layout.LABELS) >= {*genotype.PRIMITIVES, *genotype.DENSE_OPERATIONS.values()}


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    name = "a $x^2$ <b>&\x01\ud800"
    path = draw_genotype(genotype.Genotype(name, genotype.named("arnas").structure), tmp_path / "odd.svg")
    assert "a $x^2$ <b>&" in svg_texts(path)


def test_import_is_light_and_pyplot_never_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from rnas_zoo import genotype; from rnas_zoo.drawing.genotypes import draw_genotype;"
        "assert 'matplotlib' not in sys.modules;"
        f"draw_genotype(genotype.named('cl_s3'), {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(genotypes.__file__).parents[2])
