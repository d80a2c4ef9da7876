"""Images of a split, data sets of splits, and the hashes that tell which images they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .. import random

HOLDOUT = 0.1


@dataclass(frozen=True)
class ImageSet:
    """Images of one split in official order.

    Attributes:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> ImageSet:
        """The images at the given positions."""
        return ImageSet(self.images[positions], self.labels[positions])


@dataclass(frozen=True)
class Dataset:
    """A data set with training and test split and class names.

    Attributes:
        augmentation: what suits these images, one of `AUGMENTATIONS`.
        validation: the data set's own images for selection; without them a part of `train` is held out.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    augmentation: str = "crop_flip"
    validation: ImageSet | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.test.images.shape[1], self.test.images.shape[2]

    def split(self, seed: int, holdout: float = HOLDOUT) -> tuple[ImageSet, ImageSet]:
        """Images to train on, and others for selection; the test set is never selected on.

        Those for selection are the data set's own `validation` images; where it has none, the fraction `holdout` of the
        training images, chosen by `seed`.
        """
        if self.validation is not None:
            return self.train, self.validation
        order = random.permutation(len(self.train), seed=seed, stream="holdout", draw=0)
        cut = max(1, round(len(order) * holdout))
        return self.train.take(np.sort(order[cut:])), self.train.take(np.sort(order[:cut]))


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of one image's uint8 HWC bytes."""
    return hashlib.sha256(np.ascontiguousarray(image, np.uint8).tobytes()).hexdigest()


def images_hash(hashes: list[str]) -> str:
    """One SHA-256 for a list of images, order included."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
