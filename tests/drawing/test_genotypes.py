"""Drawings of every bundled genotype: complete, legible by geometry, deterministic, whole or absent."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from rnas_zoo import genotype
from rnas_zoo.drawing import genotypes
from rnas_zoo.drawing.genotypes import draw_genotype

from ..genotype.objects import NAMES, raw
from .svg import svg_texts

OPERATIONS = {op: op.replace("_", " ").replace(" connect", "") for op in genotype.PRIMITIVES}
DENSE_WORDS = {"01": "sep conv 3x3", "10": "skip", "11": "sep conv 3x3 + skip"}
MATRIX_WORDS = {"01": "sep", "10": "skip", "11": "sep+skip"}


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


def test_teacher_layers_stand_below_their_blocks(tmp_path: Path) -> None:
    structure = genotype.Channels(8, 1, (genotype.Stage((8, 9), 1),), 6, (70, 71, 72, 73, 74, 75, 76))
    texts = svg_texts(draw_genotype(genotype.Genotype("tutored", structure), tmp_path / "tutored.svg"))
    assert {"70", "71 72 73", "74 75 76"} <= set(texts)


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
