"""Every network takes images in [0, 1]: what it expects otherwise becomes a layer in front of it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from ..preprocessing import Preprocessing


class Preprocessed(nn.Module):
    """A foreign network behind its preprocessing, so that it takes images (N, 3, H, W) in [0, 1].

    Args:
        network: takes what `pixels` returns.
        preprocessing: see there; complete, as `Preprocessing.completed` makes it.
        grid: the network takes whole numbers (0 to 255): values are rounded, and gradients pass as if they were not.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, grid: bool = False) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.network = network
        self.preprocessing, self.grid = preprocessing, grid
        self.register_buffer("mean", torch.tensor(preprocessing.mean or (0.0,) * 3).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std or (1.0,) * 3).view(1, -1, 1, 1))

    def pixels(self, x: Tensor) -> Tensor:
        """What the network receives for images (N, 3, H, W) in [0, 1]."""
        how = self.preprocessing
        if how.input_size and tuple(x.shape[2:]) != how.input_size:
            x = resized(x, how.input_size)
        if how.range != 1:
            x = x * how.range
        if self.grid:
            x = x + (x.round().clamp(0, how.range) - x).detach()
        else:
            x = (x - self.mean) / self.std
        return x.permute(0, 2, 3, 1) if how.layout == "nhwc" else x

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.pixels(x))


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) at another height and width: bilinear, antialiased where it shrinks.

    Two matrix products, so that gradients are the same in every run on a GPU as well.
    """
    rows, columns = (_resampling(old, new).to(x.device, x.dtype) for old, new in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.T


@lru_cache(maxsize=64)
def _resampling(old: int, new: int) -> Tensor:
    """Weights (new, old) of bilinear resampling along one axis."""
    unit = torch.eye(old, dtype=torch.float64)[:, None, :, None].expand(-1, -1, -1, 2)  # one image per unit vector
    found = nn.functional.interpolate(unit, (new, 2), mode="bilinear", antialias=True)
    return found[:, 0, :, 0].T.contiguous()


def behind(network: nn.Module, preprocessing: Preprocessing | None) -> nn.Module:
    """The network behind the preprocessing given, and no other; itself where that changes nothing.

    A network that is behind some preprocessing already gets the new one instead.
    """
    if preprocessing is None:
        return network
    bare = network.network if isinstance(network, Preprocessed) else network
    complete = preprocessing.completed()
    return bare if complete.changes_nothing else Preprocessed(bare, complete)


def in_pixels(network: nn.Module, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The network behind the normalisation that its `pretrained_cfg` declares; itself if that is mean 0, std 1.

    Args:
        preprocessing: takes precedence, field by field.

    Raises:
        UsageError: range 255 without a mean and std, while the network declares some for [0, 1].
    """
    if isinstance(network, Preprocessed):
        if preprocessing is None:
            return network
        network = network.network
    cfg = getattr(network, "pretrained_cfg", None) or {}
    return behind(network, (preprocessing or Preprocessing()).completed(cfg.get("mean"), cfg.get("std")))


def applied(network: nn.Module | None) -> Preprocessing | None:
    """The preprocessing a network is behind, None if images reach it as they are."""
    return network.preprocessing if isinstance(network, Preprocessed) else None


def declared_image_size(network: nn.Module) -> tuple[int, int] | None:
    """Height and width that a network's `pretrained_cfg` declares, None if it has none or resizes what it gets."""
    if isinstance(network, Preprocessed):
        if network.preprocessing.input_size:
            return None
        network = network.network
    size = (getattr(network, "pretrained_cfg", None) or {}).get("input_size")
    return (size[1], size[2]) if size else None
