"""Bringing images to one size."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .sets import Dataset, ImageSet

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 8
PADDED_BY = 8

Size = tuple[int, int]  # height and width in pixels


def as_size(image_size: int | Size) -> Size:
    """Height and width from one number for both, or from the two.

    Raises:
        UsageError: not one or two integers, or below the smallest size the networks take.
    """
    try:
        height, width = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
        size = operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise UsageError(f"image size must be an integer or (height, width), got {image_size!r}") from None
    if min(size) < SMALLEST:
        raise UsageError(f"image size must be at least {SMALLEST}, got {image_size!r}")
    return size


def parse_size(text: str) -> Size:
    """Height and width from `32` or `32x48`.

    Raises:
        UsageError: other text, or see `as_size`.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"image size is a number of pixels such as 32, or HEIGHTxWIDTH such as 32x48, got {text!r}")
    return as_size((int(parts[0]), int(parts[-1])))


def spelled(size: Size) -> str:
    """`32`, or `32x48` for height 32 and width 48."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def to_be_padded(found: set[Size], size: Size) -> bool:
    """Whether images are enlarged by zeros: they share one size, smaller by at most `PADDED_BY` pixels per side."""
    if len(found) != 1:
        return False
    (one,) = found
    return all(0 <= wanted - have <= PADDED_BY for have, wanted in zip(one, size, strict=True))


def fit(image: Image, size: Size, *, pad: bool) -> Image:
    """An RGB image at exactly `size`.

    Args:
        pad: put it in the middle of zeros, the odd pixel going below and right of it. Otherwise it is scaled (bilinear,
            antialiased) until it just covers `size`, the longer side rounded down, and its centre is cut out: for
            square sizes torchvision's Resize and CenterCrop.
    """
    from PIL import Image

    height, width = size
    if image.size == (width, height):
        return image
    if pad:
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas
    if height * image.width >= width * image.height:
        scaled = height * image.width // image.height, height
    else:
        scaled = width, width * image.height // image.width
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))


def resized(dataset: Dataset, image_size: int | Size | None) -> Dataset:
    """The data set at another size, as `name@size`; itself if that is its size already.

    Args:
        dataset: all its images share one size.
        image_size: as in `load`.
    """
    from PIL import Image

    if image_size is None or (size := as_size(image_size)) == dataset.image_size:
        return dataset
    pad = to_be_padded({dataset.image_size}, size)

    def at_size(part: ImageSet) -> ImageSet:
        images = np.empty((len(part), *size, 3), np.uint8)
        for row, image in zip(images, part.images, strict=True):
            row[...] = np.asarray(fit(Image.fromarray(np.ascontiguousarray(image)), size, pad=pad))
        return ImageSet(images, part.labels)

    return replace(
        dataset,
        name=f"{dataset.name}@{spelled(size)}",
        train=at_size(dataset.train),
        test=at_size(dataset.test),
        validation=None if dataset.validation is None else at_size(dataset.validation),
    )
