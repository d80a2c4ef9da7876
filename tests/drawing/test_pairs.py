"""Pairs of images: sharp pixels, true differences, what does not fit refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnas_zoo.drawing.pairs import draw_pairs
from rnas_zoo.errors import UsageError

from .svg import svg_texts


def test_pairs_show_sharp_pixels_and_the_amplified_difference(tmp_path: Path) -> None:
    clean = np.array([[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [100, 100, 100]]]], np.uint8)
    adversarial = clean.copy()
    adversarial[0, 1, 1] = 125
    path = draw_pairs(clean, adversarial, [("3 ✓", "8 ✗")], tmp_path / "pairs.png", title="one")
    with Image.open(path) as image:
        assert image.format == "PNG"
        colors = Counter(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))
    quarter = colors[(100, 100, 100)]
    assert quarter > 1000
    assert colors[(255, 0, 0)] == pytest.approx(2 * quarter, rel=0.05)
    assert colors[(125, 125, 125)] == pytest.approx(quarter, rel=0.05)
    unchanged = {(127, 127, 127), (128, 128, 128)}
    assert sum(colors[grey] for grey in unchanged) == pytest.approx(3 * quarter, rel=0.05)
    texts = svg_texts(draw_pairs(clean / 255, adversarial, [("3 ✓", "8 ✗")], tmp_path / "pairs.svg", title="one"))
    assert {"one", "clean", "adversarial", "difference ×5", "max |δ| = 25/255", "3 ✓", "8 ✗"} <= set(texts)


def test_many_pairs_wrap_into_rows(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((12, 4, 4, 3), np.float32)
    captions = [(f"c{i}", f"a{i}") for i in range(12)]
    texts = svg_texts(draw_pairs(images, images, captions, tmp_path / "p.svg", title="t"))
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
        draw_pairs(clean, adversarial, [("a", "b")] * captions, tmp_path / "pairs.png", title="")
    assert list(tmp_path.iterdir()) == []
