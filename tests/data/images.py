"""Images for tests of data sets."""

from __future__ import annotations

import numpy as np

from rnas_zoo.data import ImageSet


def numbered(n: int, size: int = 8, seed: int = 0) -> ImageSet:
    """Noise images, labelled by their position."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(n))
