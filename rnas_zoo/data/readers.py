"""Data sets by name or path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ..arrays import read_arrays
from ..errors import DataError, UnknownNameError, closest
from . import official
from .folder import read_folder
from .sets import Dataset, ImageSet
from .sizes import resized

DIGITS_TEST = 360


@cache
def _digit_images() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (1797, 32, 32, 3), and labels; scaled once per process."""
    from PIL import Image
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = np.round(raw.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey])
    return np.repeat(large[..., None], 3, axis=3), raw.target.astype(np.int64)


def _digits() -> Dataset:
    """scikit-learn's handwritten digits (8x8, 17 grey levels), bilinearly scaled to 32x32 RGB."""
    images, labels = (array.copy() for array in _digit_images())
    cut = len(labels) - DIGITS_TEST
    return Dataset(
        "digits",
        ImageSet(images[:cut], labels[:cut]),
        ImageSet(images[cut:], labels[cut:]),
        tuple(str(i) for i in range(10)),
        "crop",
    )


def _npz(path: Path) -> Dataset:
    """An .npz file with x_train, y_train, x_test, y_test and optionally `classes`.

    Images are uint8, (N, H, W, 3) or grey (N, H, W) or (N, H, W, 1), which is repeated to three channels; labels are
    integers.
    """
    needed = ("x_train", "y_train", "x_test", "y_test")
    try:
        arrays = read_arrays(path, (*needed, "classes"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    for key in needed:
        if key not in arrays:
            raise DataError(f"{path}: has no array {key!r}; needed are {', '.join(needed)}")
    names = arrays.get("classes")
    if names is not None and names.ndim != 1:
        raise DataError(
            f"{path}: not a readable .npz file (classes is no list of names, but {names.dtype} {names.shape})"
        )
    classes = None if names is None else tuple(map(str, names))
    grey = all(_is_grey(arrays[f"x_{part}"]) for part in ("train", "test"))
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
            raise DataError(
                f"{path}: x_{part} must be uint8 (N, H, W, 3), or both splits grey (N, H, W) or (N, H, W, 1), found "
                f"{images.dtype} {images.shape}"
            )
        if grey:
            images = np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
            raise DataError(f"{path}: y_{part} must hold one integer per image, found {labels.dtype} {labels.shape}")
        splits.append(ImageSet(images, labels.astype(np.int64)))
    top = int(max(part.labels.max() for part in splits))
    if min(part.labels.min() for part in splits) < 0 or (classes and top >= len(classes)):
        raise DataError(f"{path}: labels must lie between 0 and {len(classes) - 1 if classes else top}")
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise DataError(f"{path}: training and test images differ in size")
    return Dataset(path.stem, splits[0], splits[1], classes or tuple(str(i) for i in range(top + 1)))


def _is_grey(images: np.ndarray) -> bool:
    return images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "cifar10": official.cifar10,
    "cifar100": official.cifar100,
    "svhn": official.svhn,
    "tiny-imagenet": official.tiny_imagenet,
}


def base_name(name: str | Path) -> str:
    """What the data set that `load` finds under `name` is called at its own size: `flowers` for `some/flowers.npz`."""
    text = str(name)
    if text in DATASETS:
        return text
    return Path(text).stem if text.endswith(".npz") else Path(text).resolve().name


def load(name: str | Path, image_size: int | tuple[int, int] | None = None) -> Dataset:
    """A data set by name (see `DATASETS`), from an .npz file, or from a folder of images.

    All named ones but `digits` are expected below `data_root()`: as NAME.npz, or in their official layout (see
    `official`). A folder named like one of them is meant by `./digits`. All images are held in memory as uint8, at
    their final size.

    Args:
        image_size: one number for height and width, or (height, width), at least 8. Images that all share a size
            smaller by at most 8 pixels per side are padded evenly with zeros (28x28 to 32x32); any others are scaled
            until they just cover it and cropped at the centre. If that changes images, the data set is called
            `name@size`, so that evidence never takes them for the originals. None: as they are.

    Raises:
        UnknownNameError: no such data set.
        DataError: its files are missing or malformed, or differ in size without `image_size`.
        UsageError: an `image_size` that is none.
    """
    text = str(name)
    if text in DATASETS:
        packed = official.data_root() / f"{text}.npz"
        if text != "digits" and packed.is_file():
            return resized(replace(_npz(packed), augmentation=official.AUGMENTATION.get(text, "crop_flip")), image_size)
        return resized(DATASETS[text](), image_size)
    if text.endswith(".npz"):
        return resized(_npz(Path(text)), image_size)
    if Path(text).is_dir():
        return read_folder(Path(text), image_size)
    known = sorted(DATASETS)
    raise UnknownNameError(
        f"unknown data set {text!r}.{closest(text, known)} Known: {', '.join(known)}, or a FILE.npz, or a FOLDER of "
        "images that exists."
    )
