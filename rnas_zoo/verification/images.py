"""The images a verification is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .. import data
from ..errors import DataError, UsageError
from ..reference import Subject


def gather(
    x: np.ndarray | Tensor | None,
    y: np.ndarray | Tensor | None,
    name: str | None,
    n: int | None,
    indices: np.ndarray | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Float32 NCHW pixels in [0, 1], int64 labels, positions in the official order, and what evidence calls them.

    Args:
        x, y, name: images and labels, or a data set's name, of which the first `n` test images are taken.
        indices: positions of the images wanted, instead of the first `n`.
        image_size: what the data set's images are brought to, see `data.load`.

    Returns:
        The last one has the data set's name and split; for files and folders their kind, `npz` or `folder`; and
        `image_size`, height and width, where they are not the images' own.

    Raises:
        DataError, UsageError: images outside [0, 1], of a wrong type or shape, or positions that do not exist.
    """
    if n is not None and n < 1:
        raise UsageError(f"needs at least one image, got n={n}")
    if name is not None:
        dataset = data.load(name, image_size)
        test = dataset.test
        rows = _rows(indices, n, len(test))
        images = test.images[rows].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        described: dict[str, Any] = {"name": dataset.name, "split": "test"}
        if name not in data.DATASETS:
            described["kind"] = "npz" if name.endswith(".npz") else "folder"
        if dataset.name != data.base_name(name):
            described["image_size"] = list(dataset.image_size)
        return np.ascontiguousarray(images), test.labels[rows], rows, described
    if image_size is not None:
        raise UsageError("image_size is for data sets given by name; bring x to its size before")
    if x is None or y is None:
        raise UsageError("give images x and labels y, or the name of a data set")
    pixels = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers, got {labels.dtype}")
    labels = labels.astype(np.int64)
    if pixels.dtype == np.uint8:
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise DataError(f"uint8 images must be (N, H, W, 3), got {pixels.shape}")
        pixels = pixels.transpose(0, 3, 1, 2) / np.float32(255)
    pixels = np.ascontiguousarray(pixels, np.float32)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or labels.shape != pixels.shape[:1] or not len(labels):
        raise DataError(f"images must be (N, 3, H, W) with one label each, got {pixels.shape} and {labels.shape}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"images must lie in [0, 1], found values from {low:g} to {high:g}; divide by 255, and leave normalisation "
            "to the model"
        )
    rows = _rows(indices, n, len(labels))
    return pixels[rows], labels[rows], rows, {"name": "arrays", "split": "given"}


def _rows(indices: np.ndarray | None, n: int | None, available: int) -> np.ndarray:
    if indices is None:
        return np.arange(min(n or available, available))
    rows = np.asarray(indices)
    if rows.ndim != 1 or not len(rows) or not np.issubdtype(rows.dtype, np.integer):
        raise UsageError(f"indices must be a list of integers, got {rows.dtype} {rows.shape}")
    if len(np.unique(rows)) < len(rows):
        raise UsageError("indices name an image twice")
    if rows.min() < 0 or rows.max() >= available:
        raise UsageError(f"indices go from {rows.min()} to {rows.max()}, but there are {available} images")
    return rows.astype(np.int64)[:n]


def check_fit(chosen: Subject, pixels: np.ndarray, labels: np.ndarray, name: str) -> None:
    """Images and labels must be ones the model can take.

    Raises:
        DataError: labels without a class, or images of another size than an ONNX graph takes.
    """
    if int(labels.max()) >= chosen.num_classes or int(labels.min()) < 0:
        raise DataError(
            f"{chosen.name} has {chosen.num_classes} classes, but the labels of {name} go from {int(labels.min())} "
            f"to {int(labels.max())}"
        )
    if chosen.kind != "torch" and chosen.image_size and pixels.shape[2:] != chosen.image_size:
        raise DataError(
            f"{chosen.name} takes images of {chosen.image_size[0]}x{chosen.image_size[1]}, {name} has "
            f"{pixels.shape[2]}x{pixels.shape[3]}; with --input-size they are resized inside the model"
        )
