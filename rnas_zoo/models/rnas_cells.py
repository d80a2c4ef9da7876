"""Cell networks found by (robust) architecture search, as timm models.

Four families share one two-input cell network:

* DARTS cells (Liu et al., ICLR 2019, and RNAS beyond DARTS, E2RNAS, RACL, AdvRush, PC-DARTS, P-DARTS);
* ARNAS's accurate and robust cells with widths C : 2C : 2C (Ou et al., CVPR 2024);
* RobNet's dense cells, whose batch norms have no scale and shift (Guo et al., CVPR 2020);
* whatever `rnas_cells(genotype=...)` is given.

Images are RGB in [0, 1]; there is no normalisation outside the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

from .. import genotype as genotypes
from ..errors import GenotypeError, UsageError
from ..genotype import LARGEST_DEPTH, LARGEST_WIDTH, Cells, DenseCells, Genotype
from . import ops
from .base import PixelNet
from .cell import AuxiliaryHead, Cell, cell_plan
from .ops import conv_bn, take_indices
from .weights import configurations, create, pixel_cfg

__all__ = ["RnasCells"]

STEMS = {"cifar": 1, "cifar_stride2": 2, "imagenet": 8}
COMPACT = {"channels": 16, "layers": 8}
# At most 5 % from the parameters and from the multiply-accumulates of rnas_cl_s3 and rnas_cl_s7.
BESIDE_STUDENTS = {
    "rnas_vuln_h_s3": {"genotype": "vuln_h", "channels": 9, "layers": 7, "stem": "cifar_stride2"},
    "rnas_vuln_h_s7": {"genotype": "vuln_h", "channels": 16, "layers": 8, "stem": "cifar_stride2"},
}


class RnasCells(PixelNet):
    """A stack of searched cells: (N, in_chans, H, W) in [0, 1] to (N, num_classes) logits.

    Args:
        genotype: a genotype, its JSON object, a bundled name, or a path.
        channels: channels of the first cells; the genotype's own default if None.
        layers: number of cells, at least 3; the genotype's own default if None.
        stem: `cifar` keeps the resolution, `cifar_stride2` halves it, `imagenet` divides it by 8.
        drop_path_rate: probability with which a sample loses an edge in training; see `set_drop_path_rate`.

    Raises:
        GenotypeError: the genotype is invalid or of kind `channels`.
        UsageError: channels, layers or stem out of range.
    """

    def __init__(
        self,
        genotype: Genotype | Mapping[str, Any] | str | Path,
        channels: int | None = None,
        layers: int | None = None,
        stem: str = "cifar",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        found = genotypes.resolve(genotype)
        structure = found.structure
        if not isinstance(structure, Cells | DenseCells):
            raise GenotypeError(f"genotype {found.name!r} is of kind {found.kind!r}: build it with rnas_students")
        chs = found.default.get("channels", 36) if channels is None else channels
        layers = found.default.get("layers", 20) if layers is None else layers
        if layers < 3 or chs < 2:
            raise UsageError(f"needs at least 2 channels and 3 layers, got channels={chs}, layers={layers}")
        if chs > LARGEST_WIDTH or layers > LARGEST_DEPTH:
            raise UsageError(f"takes up to {LARGEST_WIDTH} channels and {LARGEST_DEPTH} layers, got {chs} and {layers}")
        if stem not in STEMS:
            raise UsageError(f"unknown stem {stem!r}, known are {', '.join(STEMS)}")
        self.genotype = found
        self.num_classes, self.in_chans, self.grad_checkpointing = num_classes, in_chans, False
        self.image_multiple = 32 if stem == "imagenet" else 4 * STEMS[stem]

        if stem == "imagenet":
            self.stem = nn.Sequential(*conv_bn(in_chans, chs // 2, 3, 2), nn.ReLU(), *conv_bn(chs // 2, chs, 3, 2))
            self.stem1: nn.Module = nn.Sequential(nn.ReLU(), *conv_bn(chs, chs, 3, 2))
            previous = (chs, chs)
        else:
            self.stem = nn.Sequential(*conv_bn(in_chans, 3 * chs, 3, STEMS[stem]))
            self.stem1 = nn.Identity()
            previous = (3 * chs, 3 * chs)

        affine = not isinstance(structure, DenseCells)
        reductions = (layers // 3, 2 * layers // 3)
        self.cells = nn.ModuleList()
        feature_info: list[dict[str, Any]] = []
        reduction_prev, scale = stem == "imagenet", STEMS[stem]
        for i, (nodes, concat) in enumerate(cell_plan(structure, layers)):
            reduction = i in reductions
            if reduction:
                scale *= 2
                if not (structure.kind == "accurate_robust_cells" and i == reductions[1]):
                    chs *= 2
            cell = Cell(nodes, concat, previous, chs, reduction, reduction_prev, affine)
            self.cells.append(cell)
            previous, reduction_prev = (previous[1], len(concat) * chs), reduction
            if i + 1 in (*reductions, layers):
                feature_info.append({"num_chs": previous[1], "reduction": scale, "module": f"cells.{i}"})
        self.feature_info = feature_info
        self.auxiliary_cell = reductions[1]
        self.num_features = self.head_hidden_size = previous[1]
        self.head = ClassifierHead(previous[1], num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.set_drop_path_rate(drop_path_rate)

    @torch.jit.ignore
    def set_drop_path_rate(self, rate: float) -> None:
        """Set the probability with which a sample loses a non-identity edge in training."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = rate

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^cells\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        s0 = self.stem(ops.check_image_size(x, self.image_multiple))
        s1 = self.stem1(s0)
        for cell in self.cells:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                s0, s1 = s1, checkpoint(cell, s0, s1)
            else:
                s0, s1 = s1, cell(s0, s1)
        return s1

    @torch.jit.ignore
    def cell_outputs(self, x: Tensor, stop: int | None = None) -> list[Tensor]:
        """Outputs of the first `stop` cells (all by default), each (N, C, H, W)."""
        s0 = self.stem(ops.check_image_size(x, self.image_multiple))
        s1, outputs = self.stem1(s0), []
        for cell in self.cells[:stop]:
            s0, s1 = s1, checkpoint(cell, s0, s1) if self.grad_checkpointing else cell(s0, s1)
            outputs.append(s1)
        return outputs

    @torch.jit.ignore
    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the feature map (after the second reduction) that an `AuxiliaryHead` reads."""
        outputs = self.cell_outputs(x)
        return self.forward_head(outputs[-1]), outputs[self.auxiliary_cell]

    @torch.jit.ignore
    def auxiliary_head(self, feature_size: int) -> AuxiliaryHead:
        """A fresh training-time classifier for the map of `forward_with_auxiliary`; it is no part of this network."""
        return AuxiliaryHead(self.cell_channels(self.auxiliary_cell), self.num_classes, feature_size)

    @torch.jit.ignore
    def cell_channels(self, index: int) -> int:
        """Output channels of a cell."""
        cell: Any = self.cells[index]
        return len(cell.concat) * cell.chs

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
        taps = [int(info["module"].split(".")[1]) for info in self.feature_info]
        take = [taps[i] for i in take_indices(len(taps), indices)]
        outputs = self.cell_outputs(x, max(take) + 1 if stop_early else None)
        maps = [output for i, output in enumerate(outputs) if i in take]
        return maps if intermediates_only else (outputs[-1], maps)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the cells after the last stage named by `indices`."""
        take = take_indices(len(self.feature_info), indices)
        last = int(self.feature_info[max(take)]["module"].split(".")[1])
        self.cells = self.cells[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return take


def _architectures() -> dict[str, dict[str, Any]]:
    """Entry points: every bundled cell genotype at its paper's size, and as a compact network where that exists."""
    entries: dict[str, dict[str, Any]] = {}
    compact = set()
    for name in genotypes.names():
        found = genotypes.named(name)
        if isinstance(found.structure, Cells | DenseCells):
            model = genotypes.model_name(name)
            entries[model] = {"genotype": name}
            any_depth = not isinstance(found.structure, DenseCells) or found.structure.share
            if any_depth and found.hash not in compact:
                compact.add(found.hash)
                entries[f"{model}_c16l8"] = {"genotype": name, **COMPACT}
    return entries


_ARCHITECTURES = {**_architectures(), **BESIDE_STUDENTS}
default_cfgs = generate_default_cfgs(
    configurations(
        {
            name: pixel_cfg(pool_size=(8 // STEMS[arguments.get("stem", "cifar")],) * 2)
            for name, arguments in {**_ARCHITECTURES, "rnas_cells": {}}.items()
        }
    )
)


@register_model
def rnas_cells(pretrained: bool = False, **kwargs: Any) -> RnasCells:
    """Any cell genotype: `genotype=` a name, path, JSON object or Genotype; `channels=`, `layers=`, `stem=`."""
    return create(RnasCells, "rnas_cells", pretrained, **{"genotype": "vuln_h", **COMPACT, **kwargs})


def _register(name: str, arguments: dict[str, Any]) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> RnasCells:
        return create(RnasCells, name, pretrained, **{**arguments, **kwargs})

    found = genotypes.named(arguments["genotype"])
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = (
        f"{found.provenance.get('original_name', name)} of {found.provenance.get('paper', 'our own search')}"
    )
    globals()[name] = register_model(entry)


for _name, _arguments in _ARCHITECTURES.items():
    _register(_name, _arguments)
