"""Batches on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import random
from ..errors import UsageError
from .sets import ImageSet

if TYPE_CHECKING:
    import torch

AUGMENTATIONS = ("none", "crop", "crop_flip", "pad_crop_flip", "pad_crop_flip_cutout")


def to_pixels(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1] on the device."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float().div_(255)


class Batches:
    """Endless shuffled batches, augmented on the device; batch i depends on (seed, i) only.

    Augmentations:
        `none`.
        `crop`: shifts by up to 1/8 of the height in each direction, edges replicated.
        `crop_flip`: and mirrored left to right half of the time.
        `pad_crop_flip`: the same shifts and mirrorings, with zeros beyond the edges: at 32x32 the random crop from an
            image padded by 4 pixels that most papers on CIFAR train with.
        `pad_crop_flip_cutout`: and a square of zeros over half of height's length (rounded down to even), its centre
            uniform over the pixels, cut off at the borders: at 32x32 the cutout of length 16 of DARTS (Liu et al.,
            "DARTS: Differentiable Architecture Search", ICLR 2019), where the square had the mean colour, since it was
            cut out after normalisation; here the network normalises.

    Args:
        data: the images; they live on the device as uint8 (on the CPU without a copy).
        batch_size: images of a batch, over all processes.
        rank, world: this is process `rank` of `world`: it takes rows rank, rank + world, ... of every batch, which
            together are the batch of a single process.

    Attributes:
        images: uint8 (N, 3, H, W) on the device.
        labels: int64 (N,) on the device.
        steps_per_epoch: batches in which no image occurs twice.

    Raises:
        UsageError: fewer images than one batch, an unknown augmentation, a rank outside 0..world-1, or a batch that
            does not divide among the processes.
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
        rank: int = 0,
        world: int = 1,
    ) -> None:
        import torch

        if batch_size < 1 or len(data) < batch_size:
            raise UsageError(f"a batch of {batch_size} does not fit into {len(data)} images; lower --batch-size")
        if augmentation not in AUGMENTATIONS:
            raise UsageError(f"unknown augmentation {augmentation!r}, known are {', '.join(AUGMENTATIONS)}")
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} lies outside 0..{world - 1}")
        if batch_size % world:
            raise UsageError(f"a batch of {batch_size} does not divide among {world} processes; change --batch-size")
        self.batch_size, self.seed, self.stream, self.augmentation = batch_size, seed, stream, augmentation
        self.rank, self.world = rank, world
        self.images = torch.from_numpy(np.ascontiguousarray(data.images)).to(device).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(data.labels).to(device)
        self.steps_per_epoch = len(data) // batch_size
        self._order: tuple[int, torch.Tensor] | None = None

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 (B, 3, H, W) in [0, 1] and labels (B,) of step `step`, B = batch_size / world."""
        import torch

        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = random.permutation(len(self.labels), seed=self.seed, stream=self.stream, draw=epoch)
            self._order = epoch, torch.from_numpy(order).to(self.labels.device)
        chosen = self._order[1][at * self.batch_size + self.rank : (at + 1) * self.batch_size : self.world]
        images = self.images[chosen]
        if self.augmentation != "none":
            images = self._shifted(images, step)
        if self.augmentation.endswith("cutout"):
            images = self._cut_out(images, step)
        return images.float().div_(255), self.labels[chosen]

    def positions(self, step: int) -> torch.Tensor:
        """What identifies each row of this process's batch in draws: step * batch_size + row of the whole batch.

        Returns:
            int64 (batch_size / world,) on the device.
        """
        import torch

        start = step * self.batch_size
        return torch.arange(start + self.rank, start + self.batch_size, self.world, device=self.labels.device)

    def _draw(self, name: str, low: int, high: int, step: int, rows: int = 1) -> torch.Tensor:
        """Integers from [low, high) for the whole batch, of which this process's part: (rows, B, 1)."""
        import torch

        n = self.batch_size
        drawn = random.integers(rows * n, low, high, seed=self.seed, stream=f"{self.stream}-{name}", draw=step)
        own = np.ascontiguousarray(drawn.reshape(rows, n, 1)[:, self.rank :: self.world])
        return torch.from_numpy(own).to(self.labels.device)

    def _shifted(self, images: torch.Tensor, step: int) -> torch.Tensor:
        import torch

        n, _, height, width = images.shape
        device = images.device
        pad = max(1, height // 8)
        dy, dx = self._draw("crop", -pad, pad + 1, step, rows=2)
        rows = torch.arange(height, device=device) + dy
        columns = torch.arange(width, device=device).expand(n, width)
        if "flip" in self.augmentation:
            (flip,) = self._draw("flip", 0, 2, step).bool()
            columns = torch.where(flip, columns.flip(1), columns)
        columns = columns + dx
        index = torch.arange(n, device=device)[:, None, None]
        near_rows, near_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        shifted = images[index, :, near_rows[:, :, None], near_columns[:, None, :]].permute(0, 3, 1, 2)
        if self.augmentation.startswith("pad"):
            outside = (rows != near_rows)[:, None, :, None] | (columns != near_columns)[:, None, None, :]
            shifted = shifted.masked_fill_(outside, 0)
        return shifted

    def _cut_out(self, images: torch.Tensor, step: int) -> torch.Tensor:
        import torch

        height, width = images.shape[2:]
        half = height // 4
        (y,), (x,) = self._draw("cutout-y", 0, height, step), self._draw("cutout-x", 0, width, step)
        row, column = (torch.arange(size, device=images.device) for size in (height, width))
        inside = (row >= y - half) & (row < y + half), (column >= x - half) & (column < x + half)
        return images.masked_fill_(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0)
