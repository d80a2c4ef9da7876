"""What the cell networks and the students share of timm's model contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.layers import ClassifierHead

    from ..genotype import Genotype


class PixelNet(nn.Module):
    """A network with `forward_features`, a `ClassifierHead` named `head`, and switchable gradient checkpointing."""

    # The architecture is part of the network: exports and releases read it from here.
    if TYPE_CHECKING:  # torch.jit.script cannot resolve these when it reads the class
        genotype: Genotype
        head: ClassifierHead
        num_classes: int
        grad_checkpointing: bool

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
