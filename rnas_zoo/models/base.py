"""What the cell networks and the students share of timm's model contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from ..errors import UsageError
from .ops import take_indices

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


class StagedNet(PixelNet):
    """A network of a first layer and `stages`, each of which leaves a feature map."""

    if TYPE_CHECKING:
        stages: nn.ModuleList

    @torch.jit.ignore
    def draw_weights(self) -> None:
        """First weights of convolutions before ReLUs (He, Zhang, Ren, Sun, ICCV 2015), by outputs."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def enter(self, x: Tensor) -> Tensor:
        """Images to the input of the first stage."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(stage, x)
            else:
                x = stage(x)
        return x

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages named by `indices`, and unless `intermediates_only` the last map."""
        if output_fmt != "NCHW":
            raise UsageError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take = take_indices(len(self.stages), indices)
        x, maps = self.enter(x), []
        for i, stage in enumerate(self.stages):
            if stop_early and i > max(take):
                break
            x = checkpoint(stage, x) if self.grad_checkpointing else stage(x)
            if i in take:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one named by `indices`."""
        take = take_indices(len(self.stages), indices)
        self.stages = self.stages[: max(take) + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return take
