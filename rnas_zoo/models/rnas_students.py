"""RNAS-CL's compact students: inverted residual blocks whose widths were searched (Nath et al., UAI 2024).

Images are RGB in [0, 1]; there is no normalisation outside the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .. import genotype as genotypes
from ..errors import GenotypeError
from ..genotype import Channels, Genotype
from .base import StagedNet
from .weights import configurations, create, pixel_cfg

__all__ = ["RnasStudent"]

BN_MOMENTUM = 0.003


class ConvBN(nn.Sequential):
    """Convolution with bias, batch norm, and h-swish unless `act` is false."""

    def __init__(
        self, in_chs: int, out_chs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__(
            nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups),
            nn.BatchNorm2d(out_chs, momentum=BN_MOMENTUM),
        )
        if act:
            self.append(nn.Hardswish())


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; a residual where stride is 1 and the width stays."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, expansion: int) -> None:
        super().__init__()
        mid = in_chs * expansion
        self.expand = ConvBN(in_chs, mid, 1)
        self.depthwise = ConvBN(mid, mid, 3, stride, groups=mid)
        self.project = ConvBN(mid, out_chs, 1, act=False)
        self.residual = stride == 1 and in_chs == out_chs
        if self.residual:
            last: Any = self.project[1]
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class RnasStudent(StagedNet):
    """A compact student: (N, in_chans, H, W) in [0, 1] to (N, num_classes) logits.

    Args:
        genotype: a genotype of kind `channels`, its JSON object, a bundled name, or a path.

    Raises:
        GenotypeError: the genotype is invalid or not of kind `channels`.
    """

    def __init__(
        self,
        genotype: Genotype | Mapping[str, Any] | str | Path,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        found = genotypes.resolve(genotype)
        structure = found.structure
        if not isinstance(structure, Channels):
            raise GenotypeError(f"genotype {found.name!r} is of kind {found.kind!r}: build it with rnas_cells")
        self.genotype = found
        self.num_classes, self.in_chans, self.grad_checkpointing = num_classes, in_chans, False
        self.stem = ConvBN(in_chans, structure.stem_width, 3, structure.stem_stride)
        self.stages = nn.ModuleList()
        self.feature_info = []
        chs, scale = structure.stem_width, structure.stem_stride
        for i, stage in enumerate(structure.stages):
            blocks = nn.Sequential()
            for j, width in enumerate(stage.widths):
                blocks.append(InvertedResidual(chs, width, stage.stride if j == 0 else 1, structure.expansion))
                chs = width
            scale *= stage.stride
            self.stages.append(blocks)
            self.feature_info.append({"num_chs": chs, "reduction": scale, "module": f"stages.{i}"})
        self.num_features = self.head_hidden_size = chs
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def enter(self, x: Tensor) -> Tensor:
        return self.stem(x)


_ARCHITECTURES = {
    genotypes.model_name(name): name
    for name in genotypes.names()
    if isinstance(genotypes.named(name).structure, Channels)
}
default_cfgs = generate_default_cfgs(
    configurations({name: pixel_cfg(pool_size=(4, 4)) for name in (*_ARCHITECTURES, "rnas_students")})
)


@register_model
def rnas_students(pretrained: bool = False, **kwargs: Any) -> RnasStudent:
    """Any student genotype: `genotype=` a name, path, JSON object or Genotype of kind `channels`."""
    return create(RnasStudent, "rnas_students", pretrained, **{"genotype": "cl_s3", **kwargs})


def _register(name: str, genotype: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> RnasStudent:
        return create(RnasStudent, name, pretrained, **{"genotype": genotype, **kwargs})

    provenance = genotypes.named(genotype).provenance
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{provenance.get('original_name', name)} of {provenance.get('paper', 'our own search')}"
    globals()[name] = register_model(entry)


for _name, _genotype in _ARCHITECTURES.items():
    _register(_name, _genotype)
