"""Drawings of every bundled genotype: complete, legible by geometry, deterministic, whole or absent."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
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
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from rnas_zoo import draw, draw_cells, genotype, resources
from rnas_zoo.draw_cells import Box, CellLayout, Connection, Point
from rnas_zoo.errors import OutputNotWritableError, UsageError

NAMES = genotype.names()
OPERATIONS = {op: op.replace("_", " ").replace(" connect", "") for op in genotype.PRIMITIVES}
DENSE_WORDS = {"01": "sep conv 3x3", "10": "skip", "11": "sep conv 3x3 + skip"}
MATRIX_WORDS = {"01": "sep", "10": "skip", "11": "sep+skip"}
CELL_NAMES = [name for name in NAMES if genotype.named(name).kind in genotype.CELL_ROLES]
CHAINS = [name for name in NAMES if genotype.named(name).kind == "channels"]


def raw(name: str) -> dict[str, Any]:
    return json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))


def svg_texts(path: Path) -> list[str]:
    root = ET.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


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
    first = draw.draw_genotype(chosen, tmp_path / "first.svg")
    with rc_context({"font.size": 23, "font.family": "serif", "svg.fonttype": "path", "savefig.bbox": "tight"}):
        second = draw.draw_genotype(chosen, str(tmp_path / "second.svg"))
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
    paths = [draw.draw_genotype(genotype.named(name), tmp_path / file) for file in ("a.png", "b.PNG")]
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
        assert draw_cells.cell_connections(structure[role]) == connections
        check_cell(draw_cells.layout_cell(connections, nodes, concat), connections, concat)


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
    assert draw_cells.cell_connections(genotype.Cell(edges, tuple(concat))) == connections
    check_cell(draw_cells.layout_cell(connections, nodes, concat), connections, concat)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["00", "01", "10", "11"]), min_size=14, max_size=14))
def test_any_dense_cell_is_laid_out_apart(code: list[str]) -> None:
    connections = draw_cells.dense_connections(code)
    pairs = ["02", "12", "03", "13", "23", "04", "14", "24", "34", "05", "15", "25", "35", "45"]
    present = [pair for bits, pair in zip(code, pairs, strict=True) if bits != "00"]
    assert [f"{c.source}{c.target}" for c in connections] == present
    check_cell(draw_cells.layout_cell(connections, 4, (2, 3, 4, 5)), connections, (2, 3, 4, 5))


@pytest.mark.parametrize("name", NAMES)
def test_rendered_texts_never_touch(name: str) -> None:
    figure = draw.genotype_figure(genotype.named(name))
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
    layout = draw_cells.layout_chain(structure, image)
    blocks = [block for block in layout.blocks if block.role == "block"]
    widths = [width for stage in structure.stages for width in stage.widths]
    strides = [stage.stride if i == 0 else 1 for stage in structure.stages for i in range(len(stage.widths))]
    inputs = [structure.stem_width, *widths[:-1]]
    assert [block.role for block in layout.blocks] == ["stem", *["block"] * len(widths), "pool", "linear"]
    assert [block.texts[0] for block in blocks] == [f"{a}→{b}" for a, b in zip(inputs, widths, strict=True)]
    assert [block.stride for block in blocks] == strides
    expected = [s == 1 and a == b for s, a, b in zip(strides, inputs, widths, strict=True)]
    assert [block.residual for block in blocks] == expected
    heights = np.array([block.box.height for block in layout.blocks[: 1 + len(widths)]])
    np.testing.assert_allclose(heights / heights[0], np.array([structure.stem_width, *widths]) / structure.stem_width)
    boxes = [block.box for block in layout.blocks]
    solid = [*boxes, *(block.label for block in layout.blocks)]
    assert all(disjoint(one, other) for one, other in combinations(solid, 2))
    assert all(disjoint(one.box, other.box) for one, other in combinations(layout.bands, 2))
    assert all(box.left + box.width <= layout.width and box.top + box.height <= layout.height for box in solid)
    assert len(layout.links) == len(boxes) - 1
    for link, before, after in zip(layout.links, boxes, boxes[1:], strict=False):
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
    layout = draw_cells.layout_chain(
        genotype.Channels(8, 1, (genotype.Stage((8, 8, 9), 2), genotype.Stage((9,), 1)), 6)
    )
    assert [block.residual for block in layout.blocks] == [False, False, True, False, True, False, False]


def test_chain_headings_name_the_resolutions() -> None:
    structure = genotype.named("cl_s7").structure
    assert isinstance(structure, genotype.Channels)
    usual = draw_cells.layout_chain(structure)
    assert [band.heading[2] for band in usual.bands] == ["16×16", "16×16", "8×8", "4×4", "1×1"]
    odd = draw_cells.layout_chain(structure, image=36)
    assert [band.heading[2] for band in odd.bands] == ["18×18", "18×18", "9×9", "5×5", "1×1"]


def test_teacher_layers_stand_below_their_blocks(tmp_path: Path) -> None:
    structure = genotype.Channels(8, 1, (genotype.Stage((8, 9), 1),), 6, (70, 71, 72, 73, 74, 75, 76))
    texts = svg_texts(draw.draw_genotype(genotype.Genotype("tutored", structure), tmp_path / "tutored.svg"))
    assert {"70", "71 72 73", "74 75 76"} <= set(texts)


def test_families_differ_without_colour() -> None:
    looks = [(family.width, family.dashes) for family in draw_cells.FAMILIES.values()]
    assert len(set(looks)) == len(looks)
    assert {draw_cells.family(op) for op in draw_cells.LABELS} == set(draw_cells.FAMILIES)
    assert set(draw_cells.LABELS) >= {*genotype.PRIMITIVES, *genotype.DENSE_OPERATIONS.values()}


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    name = "a $x^2$ <b>&\x01\ud800"
    path = draw.draw_genotype(genotype.Genotype(name, genotype.named("arnas").structure), tmp_path / "odd.svg")
    assert "a $x^2$ <b>&" in svg_texts(path)


@pytest.mark.parametrize("file", ["cells.pdf", "cells", "cells.svg.gz"])
def test_other_suffixes_are_refused(file: str, tmp_path: Path) -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    for attempt in (
        lambda: draw.draw_genotype(genotype.named("arnas"), tmp_path / file),
        lambda: draw.draw_curve({"a": [(0, 1)]}, tmp_path / file, title=""),
        lambda: draw.draw_pairs(pixels, pixels, [("", "")], tmp_path / file, title=""),
    ):
        with pytest.raises(UsageError, match=r"\.svg or \.png"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputNotWritableError):
        draw.draw_genotype(genotype.named("cl_s3"), tmp_path / "file" / "cells.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Figure, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"<svg")
        raise OSError("disk full")

    target = tmp_path / "cells.svg"
    target.write_text("old")
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        draw.draw_genotype(genotype.named("cl_s3"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.svg"]
    assert target.read_text() == "old"


def test_import_is_light_and_pyplot_never_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from rnas_zoo import draw, genotype; assert 'matplotlib' not in sys.modules;"
        f"draw.draw_genotype(genotype.named('cl_s3'), {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(draw.__file__).parents[1])


def test_curve_points_lie_where_the_numbers_say(tmp_path: Path) -> None:
    points = [(0, 1.0), (2, 0.75), (8, 0.0)]
    path = draw.draw_curve({"ours": points}, tmp_path / "curve.svg", title="Robust $accuracy$")
    shuffled = draw.draw_curve({"ours": points[::-1]}, tmp_path / "again.svg", title="Robust $accuracy$")
    assert path.read_bytes() == shuffled.read_bytes()
    assert {"ours", "Robust $accuracy$", "ε (of 255)", "0", "100"} <= set(svg_texts(path))
    color = draw.CURVE_COLORS[0]
    lines = re.findall(rf'd="M ([^"]*)"[^>]*style="fill: none; stroke: {color}; stroke-width: 1.8', path.read_text())
    (line,) = [np.array(re.findall(r"[-\d.]+", found), float).reshape(-1, 2) for found in lines]
    np.testing.assert_allclose((line[:, 0] - line[0, 0]) / np.ptp(line[:, 0]), [0, 0.25, 1], atol=1e-4)
    np.testing.assert_allclose((line[:, 1] - line[0, 1]) / np.ptp(line[:, 1]), [0, 0.25, 1], atol=1e-4)


def test_curve_is_a_png_with_many_names(tmp_path: Path) -> None:
    series = {f"model {i}": [(0, 0.9), (8, 0.0)] for i in range(26)}
    with Image.open(draw.draw_curve(series, tmp_path / "curve.png", title="many", eps_label="ε")) as image:
        image.verify()
        assert image.format == "PNG"


@given(st.lists(st.floats(0, 300), min_size=1, max_size=24))
def test_spread_keeps_order_and_distance(wanted: list[float]) -> None:
    at = draw.spread(wanted, 13.0, 300.0)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], at[i]))
    assert all(at[b] - at[a] >= 13 - 1e-6 for a, b in pairwise(order))
    assert -1e-6 <= min(at) <= max(at) <= 300 + 1e-6
    if all(b - a >= 13 for a, b in pairwise(sorted(wanted))):
        assert at == wanted


@pytest.mark.parametrize(
    "series",
    [{}, {"a": []}, {"a": [(0, 1.5)]}, {"a": [(-1, 0.5)]}, {"a": [(0, float("nan"))]}, {"a": [(0, 0.5, 1)]}],
)
def test_curve_refuses_impossible_points(series: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw.draw_curve(series, tmp_path / "curve.png", title="")
    assert list(tmp_path.iterdir()) == []


def test_pairs_show_sharp_pixels_and_the_amplified_difference(tmp_path: Path) -> None:
    clean = np.array([[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [100, 100, 100]]]], np.uint8)
    adversarial = clean.copy()
    adversarial[0, 1, 1] = 125
    path = draw.draw_pairs(clean, adversarial, [("3 ✓", "8 ✗")], tmp_path / "pairs.png", title="one")
    with Image.open(path) as image:
        assert image.format == "PNG"
        colors = Counter(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))
    quarter = colors[(100, 100, 100)]
    assert quarter > 1000
    assert colors[(255, 0, 0)] == pytest.approx(2 * quarter, rel=0.05)
    assert colors[(125, 125, 125)] == pytest.approx(quarter, rel=0.05)
    unchanged = {(127, 127, 127), (128, 128, 128)}
    assert sum(colors[grey] for grey in unchanged) == pytest.approx(3 * quarter, rel=0.05)
    texts = svg_texts(draw.draw_pairs(clean / 255, adversarial, [("3 ✓", "8 ✗")], tmp_path / "pairs.svg", title="one"))
    assert {"one", "clean", "adversarial", "difference ×5", "max |δ| = 25/255", "3 ✓", "8 ✗"} <= set(texts)


def test_many_pairs_wrap_into_rows(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((12, 4, 4, 3), np.float32)
    captions = [(f"c{i}", f"a{i}") for i in range(12)]
    texts = svg_texts(draw.draw_pairs(images, images, captions, tmp_path / "p.svg", title="t"))
    assert Counter(texts)["clean"] == 2
    assert {f"{kind}{i}" for kind in "ca" for i in range(12)} <= set(texts)


IMAGES = np.zeros((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("clean", "adversarial", "captions"),
    [
        (IMAGES, IMAGES[:1], 2),
        (IMAGES, IMAGES[:, :3], 2),
        (IMAGES, IMAGES, 1),
        (IMAGES[0], IMAGES[0], 2),
        (IMAGES[..., :1], IMAGES[..., :1], 2),
        (IMAGES[:0], IMAGES[:0], 0),
        (IMAGES + 1.5, IMAGES, 2),
        (IMAGES * np.nan, IMAGES, 2),
        (IMAGES.astype(int), IMAGES, 2),
    ],
)
def test_pairs_refuse_what_does_not_fit(
    clean: np.ndarray, adversarial: np.ndarray, captions: int, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        draw.draw_pairs(clean, adversarial, [("a", "b")] * captions, tmp_path / "pairs.png", title="")
    assert list(tmp_path.iterdir()) == []
