"""What tests of several parts share: a small data set on disk, a small network, images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("rnas_zoo", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("rnas_zoo")


def blobs(n: int, classes: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images whose brightest channel and corner tell the class: uint8 (n, size, size, 3) and labels (n,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = generator.integers(0, 120, (n, size, size, 3))
    for image, label in zip(images, labels, strict=True):
        half = size // 2
        rows, columns = divmod(int(label), 2)
        image[rows * half : (rows + 1) * half, columns * half : (columns + 1) * half, label % 3] += 120
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory) -> Callable[..., Path]:
    """Writes a small .npz data set and returns its path."""

    def write(
        classes: int = 3, size: int = 16, n: int = 60, seed: int = 0, class_names: Any = None, **changes: Any
    ) -> Path:
        x_train, y_train = blobs(n, classes, size, seed)
        x_test, y_test = blobs(24, classes, size, seed + 1)
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        arrays = {**arrays, "classes": class_names, **changes}
        path = tmp_path_factory.mktemp("data") / "blobs.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


@pytest.fixture(scope="session")
def small_data(npz_file) -> Path:
    """60 training and 24 test images of 16x16 pixels in three classes."""
    return npz_file()


@pytest.fixture
def small_net():
    """A convolutional network (N, 3, 8, 8) to (N, 4) in float64 and evaluation mode, batch norm statistics included."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ).double()
        net[0].weight.data *= 3
        net[-1].weight.data *= 6
        net.train()
        for _ in range(3):
            net(torch.rand(16, 3, 8, 8, dtype=torch.float64))
    return net.eval()


@pytest.fixture
def small_batch(small_net):
    """24 images for `small_net` in float64, and the classes it predicts for them."""
    import torch

    x = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return x, small_net(x).argmax(1)
