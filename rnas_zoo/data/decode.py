"""Image files as uint8 pixels.

Pixels are those stored, as Pillow decodes them: the first frame, no EXIF rotation, transparency dropped, grey and
palette images as RGB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import DataError
from .sizes import Size, fit

if TYPE_CHECKING:
    from PIL.Image import Image

DEEP_MODES = ("I", "F")  # first letters of Pillow's modes of more than 8 bits per channel

T = TypeVar("T")


def each(function: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T]:
    """Results in order; threads, since reading and decoding release the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, paths)


def size_of(path: Path) -> Size:
    """Height and width of an image file.

    Raises:
        DataError: no readable image, or one of more than 8 bits per channel.
    """
    image = _opened(path)
    with image:
        return image.height, image.width


def decoded(paths: Sequence[Path], size: Size, *, pad: bool | None) -> np.ndarray:
    """The images of distinct files, uint8 (N, *size, 3).

    Args:
        pad: how images of another size are brought to `size`, see `sizes.fit`; None refuses them.

    Raises:
        DataError: as `size_of`; another size, where `pad` is None.
    """
    images = np.empty((len(paths), *size, 3), np.uint8)
    rows = dict(zip(paths, images, strict=True))

    def decode(path: Path) -> None:
        image = _rgb(path)
        if pad is None and (image.height, image.width) != size:
            raise DataError(f"{path}: has {image.height}x{image.width} pixels instead of {size[0]}x{size[1]}")
        rows[path][...] = np.asarray(fit(image, size, pad=bool(pad)))

    for _ in each(decode, paths):
        pass
    return images


def _opened(path: Path) -> Image:
    from PIL import Image

    try:
        image = Image.open(path)
    except Exception as error:  # what Pillow raises on damaged files differs from format to format
        raise DataError(f"{path}: not a readable image ({error})") from error
    if image.mode.startswith(DEEP_MODES):
        image.close()
        raise DataError(f"{path}: has more than 8 bits per channel (mode {image.mode}); convert it to 8")
    return image


def _rgb(path: Path) -> Image:
    image = _opened(path)
    try:
        with image:
            whole = image.convert("RGBA") if "transparency" in image.info else image
            return whole.convert("RGB")
    except Exception as error:  # as above
        raise DataError(f"{path}: not a readable image ({error})") from error
