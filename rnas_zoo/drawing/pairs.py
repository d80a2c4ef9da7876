"""Images beside their adversarial twins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .canvas import check_suffix, save, style
from .page import GREY, Box, Page, printable, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pairs(
    clean: np.ndarray, adversarial: np.ndarray, captions: Sequence[tuple[str, str]], path: str | Path, *, title: str
) -> Path:
    """Draw clean images above their adversarial twins above the amplified difference, ten pairs per row.

    Args:
        clean: (n, h, w, 3), uint8 or float in 0..1.
        adversarial: the same shape.
        captions: n pairs of texts, below the clean and below the adversarial image.
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, shapes that do not match, no images, or pixels outside 0..1.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    images, twins = _pixels(clean, "clean"), _pixels(adversarial, "adversarial")
    if images.shape != twins.shape:
        raise UsageError(f"clean and adversarial images differ in shape: {images.shape} and {twins.shape}.")
    if len(captions) != len(images) or any(len(pair) != 2 for pair in captions):
        raise UsageError(f"{len(images)} pairs of images need as many pairs of captions, found {len(captions)}.")
    with style():
        return save(_pairs_figure(images, twins, captions, title), path, title, photographs=True)


def _pixels(images: np.ndarray, name: str) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise UsageError(f"{name} images must have the shape (n, h, w, 3) with n of at least 1, found {images.shape}.")
    if images.dtype == np.uint8:
        return images / 255.0
    if not np.issubdtype(images.dtype, np.floating):
        raise UsageError(f"{name} images must be uint8 or floating point, found {images.dtype}.")
    if not (images >= 0).all() or not (images <= 1).all():
        raise UsageError(f"{name} images must have pixels between 0 and 1 (uint8: 0 to 255).")
    return images.astype(float)


def _pairs_figure(
    clean: np.ndarray, adversarial: np.ndarray, captions: Sequence[tuple[str, str]], title: str
) -> Figure:
    side, gap, label, line, per_row = 76.0, 9.0, 92.0, 17.0, 10
    largest = float(np.abs(adversarial - clean).max())
    factor = max(1, int(0.5 / largest)) if largest else 1
    difference = np.clip(0.5 + factor * (adversarial - clean), 0, 1)
    high = side * clean.shape[1] / clean.shape[2]
    block = 3 * high + 2 * line + gap
    rows = -(-len(clean) // per_row)
    title = printable(title, 100)
    width = max(label + (side + gap) * min(len(clean), per_row) - gap, text_width(title, 14))
    page = Page(width, 30 + rows * (block + 16) - 16)
    page.text((0, 4), title, 13, bold=True, align="left")
    for row in range(rows):
        tops = [30 + row * (block + 16) + shift for shift in (0, high + line, 2 * (high + line))]
        names = ("clean", "adversarial", f"difference ×{factor}")
        notes = ("", f"max |δ| = {255 * largest:.3g}/255", "grey: unchanged")
        for top, name, note in zip(tops, names, notes, strict=True):
            page.text((0, top + high / 2 - (6 if note else 0)), name, 9, bold=True, align="left")
            page.text((0, top + high / 2 + 7), note, 7.5, color=GREY, align="left")
        for column, i in enumerate(range(row * per_row, min(len(clean), (row + 1) * per_row))):
            x = label + column * (side + gap)
            for top, image in zip(tops, (clean[i], adversarial[i], difference[i]), strict=True):
                page.image(Box(x, top, side, high), image)
            for top, caption in zip(tops[:2], captions[i], strict=True):
                page.text((x + side / 2, top + high + line / 2), printable(caption, 16), 9)
    return page.figure
