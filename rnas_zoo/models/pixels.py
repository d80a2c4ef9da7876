"""Every network takes images in [0, 1]: a normalisation that its configuration declares becomes a layer in front."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """A foreign network behind the normalisation its configuration declares, so that it takes [0, 1]."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def in_pixels(network: nn.Module) -> nn.Module:
    """The network itself, or behind its normalisation if `pretrained_cfg` declares one other than mean 0, std 1."""
    cfg = getattr(network, "pretrained_cfg", {}) or {}
    mean, std = tuple(cfg.get("mean", (0.0,) * 3)), tuple(cfg.get("std", (1.0,) * 3))
    plain = all(m == 0 for m in mean) and all(s == 1 for s in std)
    return network if plain else Normalized(network, mean, std)


def declared_image_size(network: nn.Module) -> tuple[int, int] | None:
    """Height and width that a network's `pretrained_cfg` declares, None if it has none."""
    inner = network.network if isinstance(network, Normalized) else network
    size = (getattr(inner, "pretrained_cfg", None) or {}).get("input_size")
    return (size[1], size[2]) if size else None
