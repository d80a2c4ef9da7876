"""Image data sets as uint8 arrays in their official order, and batches of them on the device.

An image is its position in the official order plus the SHA-256 of its pixels, so that evidence can be re-verified on
anybody's copy of the data.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import random
from .errors import DataError, UnknownNameError, UsageError, closest

if TYPE_CHECKING:
    import torch

DIGITS_TEST = 360
HOLDOUT = 0.1
AUGMENTATIONS = ("none", "crop", "crop_flip")


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
    """A data set with training and test split and class names."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    augmentation: str = "crop_flip"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.test.images.shape[1], self.test.images.shape[2]

    def split(self, seed: int, holdout: float = HOLDOUT) -> tuple[ImageSet, ImageSet]:
        """Training images without, and with only, a held-out part for selection; the test set is never selected on."""
        order = random.permutation(len(self.train), seed=seed, stream="holdout", draw=0)
        cut = max(1, round(len(order) * holdout))
        return self.train.take(np.sort(order[cut:])), self.train.take(np.sort(order[:cut]))


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of one image's uint8 HWC bytes."""
    return hashlib.sha256(np.ascontiguousarray(image, np.uint8).tobytes()).hexdigest()


def images_hash(hashes: list[str]) -> str:
    """One SHA-256 for a list of images, order included."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _digits() -> Dataset:
    """scikit-learn's handwritten digits (8x8, 17 grey levels), bilinearly scaled to 32x32 RGB."""
    from PIL import Image
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = np.round(raw.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey])
    images, labels = np.repeat(large[..., None], 3, axis=3), raw.target.astype(np.int64)
    cut = len(labels) - DIGITS_TEST
    return Dataset(
        "digits",
        ImageSet(images[:cut], labels[:cut]),
        ImageSet(images[cut:], labels[cut:]),
        tuple(str(i) for i in range(10)),
        "crop",
    )


def _cifar10(root: Path) -> Dataset:
    """CIFAR-10 in its official on-disk layout, read by torchvision."""
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(
            f"CIFAR-10 is not in {root}: put the official cifar-10-batches-py there, "
            f"or set RNAS_ZOO_DATA to the folder that holds it ({error})"
        ) from error
    train, test = (ImageSet(part.data, np.asarray(part.targets, np.int64)) for part in parts)
    return Dataset("cifar10", train, test, tuple(parts[0].classes))


def _npz(path: Path) -> Dataset:
    """An .npz file with x_train, y_train, x_test, y_test (uint8 NHWC and integers) and optionally `classes`."""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                if key not in file:
                    raise DataError(f"{path}: has no array {key!r}; needed are x_train, y_train, x_test, y_test")
                arrays[key] = file[key]
            classes = tuple(map(str, file["classes"])) if "classes" in file else None
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except DataError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise DataError(f"{path}: x_{part} must be uint8 (N, H, W, 3), found {images.dtype} {images.shape}")
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
            raise DataError(f"{path}: y_{part} must hold one integer per image, found {labels.dtype} {labels.shape}")
        splits.append(ImageSet(images, labels.astype(np.int64)))
    top = int(max(part.labels.max() for part in splits))
    if min(part.labels.min() for part in splits) < 0 or (classes and top >= len(classes)):
        raise DataError(f"{path}: labels must lie between 0 and {len(classes) - 1 if classes else top}")
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise DataError(f"{path}: training and test images differ in size")
    return Dataset(path.stem, splits[0], splits[1], classes or tuple(str(i) for i in range(top + 1)))


def data_root() -> Path:
    """Where downloaded data sets are looked for: $RNAS_ZOO_DATA, else `data` in the current folder."""
    import os

    return Path(os.environ.get("RNAS_ZOO_DATA", "data"))


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "cifar10": lambda: _cifar10(data_root())}


def load(name: str | Path) -> Dataset:
    """A data set by name (`digits`, `cifar10`) or from an .npz file.

    Raises:
        UnknownNameError: no such data set.
        DataError: its files are missing or malformed.
    """
    text = str(name)
    if text in DATASETS:
        return DATASETS[text]()
    if text.endswith(".npz"):
        return _npz(Path(text))
    known = sorted(DATASETS)
    raise UnknownNameError(
        f"unknown data set {text!r}.{closest(text, known)} Known: {', '.join(known)}, or a FILE.npz."
    )


def to_pixels(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1] on the device."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float().div_(255)


class Batches:
    """Endless shuffled batches, augmented on the device; batch i depends on (seed, i) only.

    Args:
        data: the images; they live on the device as uint8.
        augmentation: `none`, `crop` (shifts by up to 1/8 of the size, edges replicated), or `crop_flip`.

    Raises:
        UsageError: fewer images than one batch, or an unknown augmentation.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        seed: int,
        stream: str,
        augmentation: str = "none",
        device: torch.device | str = "cpu",
    ) -> None:
        import torch

        if batch_size < 1 or len(data) < batch_size:
            raise UsageError(f"a batch of {batch_size} does not fit into {len(data)} images; lower --batch-size")
        if augmentation not in AUGMENTATIONS:
            raise UsageError(f"unknown augmentation {augmentation!r}, known are {', '.join(AUGMENTATIONS)}")
        self.batch_size, self.seed, self.stream, self.augmentation = batch_size, seed, stream, augmentation
        self.images = torch.from_numpy(np.ascontiguousarray(data.images)).to(device).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(data.labels).to(device)
        self.steps_per_epoch = len(data) // batch_size
        self._order: tuple[int, torch.Tensor] | None = None

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 (B, 3, H, W) in [0, 1] and labels (B,) of step `step`."""
        import torch

        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = random.permutation(len(self.labels), seed=self.seed, stream=self.stream, draw=epoch)
            self._order = epoch, torch.from_numpy(order).to(self.labels.device)
        chosen = self._order[1][at * self.batch_size : (at + 1) * self.batch_size]
        images = self.images[chosen]
        if self.augmentation != "none":
            images = self._augment(images, step)
        return images.float().div_(255), self.labels[chosen]

    def _augment(self, images: torch.Tensor, step: int) -> torch.Tensor:
        import torch

        n, _, height, width = images.shape
        pad = max(1, height // 8)
        shifts = random.integers(2 * n, -pad, pad + 1, seed=self.seed, stream=f"{self.stream}-crop", draw=step)
        dy, dx = torch.from_numpy(shifts).to(images.device).view(2, n, 1)
        rows = (torch.arange(height, device=images.device) + dy).clamp(0, height - 1)
        columns = torch.arange(width, device=images.device).expand(n, width)
        if self.augmentation == "crop_flip":
            flips = random.integers(n, 0, 2, seed=self.seed, stream=f"{self.stream}-flip", draw=step)
            flip = torch.from_numpy(flips).to(images.device).bool()[:, None]
            columns = torch.where(flip, columns.flip(1), columns)
        columns = (columns + dx).clamp(0, width - 1)
        index = torch.arange(n, device=images.device)[:, None, None]
        return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
