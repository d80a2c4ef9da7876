"""The supernet of cells: every edge is the softmax(α)-weighted sum of all primitives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import UsageError, closest
from ..genotype import CELL_ROLES, PRIMITIVES, Cells
from ..models.ops import check_image_size, conv_bn
from ..models.rnas_cells import STEMS
from .cost import CellPlan
from .discretize import discretize
from .grouped import EDGES, NODES, SuperCell, norms

ALPHA_SCALE = 1e-3


def cell_plan(kind: str, channels: int, layers: int, stem: str, image_size: tuple[int, int]) -> list[CellPlan]:
    """Role, channels, reduction and input size of every cell, from a genotype's kind.

    Reductions stand at one third and two thirds of the depth and double the channels, the second of
    `accurate_robust_cells` excepted (ARNAS: widths C : 2C : 2C; accurate cells before it, robust ones after).
    """
    first, second = layers // 3, 2 * layers // 3
    chs, (height, width) = channels, (side // STEMS[stem] for side in image_size)
    plan = []
    for index in range(layers):
        reduction = index in (first, second)
        if reduction and not (kind == "accurate_robust_cells" and index == second):
            chs *= 2
        role = "normal" if kind == "cells" else "accurate" if index < second else "robust"
        plan.append(CellPlan("reduce" if reduction else role, chs, reduction, height, width))
        if reduction:
            height, width = height // 2, width // 2
    return plan


class Supernet(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to logits (N, num_classes); α of shape (14, |operations|) for each role.

    Args:
        kind: of the genotypes it contains, `cells` or `accurate_robust_cells`.
        channels, layers: width of the first cells, a multiple of 2·partial, and number of cells: at least 3, of
            `accurate_robust_cells` at least 4, so that each role has a cell.
        stem: as in `models.rnas_cells`, without `imagenet`.
        partial: 1/partial of the channels goes through the operations, with edge weights β as in PC-DARTS; 1: all.
        none: whether `none` is an operation.
        image_size: of the images, for costs.

    Raises:
        UsageError: arguments out of range.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 16,
        layers: int = 8,
        stem: str = "cifar",
        *,
        kind: str = "cells",
        partial: int = 1,
        none: bool = True,
        image_size: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        if kind not in CELL_ROLES:
            raise UsageError(f"no supernet contains {kind!r} genotypes{closest(kind, list(CELL_ROLES))}")
        if layers < 3 or channels < 2 or stem not in ("cifar", "cifar_stride2"):
            raise UsageError(
                "a supernet needs at least 2 channels, 3 layers and a cifar stem, "
                f"got channels={channels}, layers={layers}, stem={stem!r}"
            )
        if partial < 1 or channels % partial or channels // partial < 2:
            raise UsageError(
                f"partial channels: {channels} channels do not divide into {partial} parts of at least 2; "
                f"choose channels as a multiple of {2 * max(1, partial)}"
            )
        self.kind, self.partial = kind, partial
        self.operations = PRIMITIVES if none else tuple(name for name in PRIMITIVES if name != "none")
        self.plan = cell_plan(kind, channels, layers, stem, image_size)
        absent = [role for role in CELL_ROLES[kind] if role not in {cell.role for cell in self.plan}]
        if absent:
            raise UsageError(
                f"{layers} layers of {kind} hold no {' and no '.join(absent)} cell, so none could be searched; "
                "take at least 4 layers"
            )
        self.image_multiple = 4 * STEMS[stem]
        self.stem = nn.Sequential(*conv_bn(3, 3 * channels, 3, STEMS[stem]))
        previous, reduction_prev = (3 * channels, 3 * channels), False
        self.cells = nn.ModuleList()
        for cell in self.plan:
            self.cells.append(
                SuperCell(self.operations, previous, cell.channels, cell.reduction, reduction_prev, partial)
            )
            previous, reduction_prev = (previous[1], NODES * cell.channels), cell.reduction
        self.classifier = nn.Linear(previous[1], num_classes)
        roles = CELL_ROLES[kind]
        self.alphas = nn.ParameterDict({role: torch.randn(EDGES, len(self.operations)) * ALPHA_SCALE for role in roles})
        self.betas = nn.ParameterDict({role: torch.randn(EDGES) * ALPHA_SCALE for role in roles} if partial > 1 else {})
        self.to(memory_format=torch.channels_last)

    def arch_parameters(self) -> list[nn.Parameter]:
        """The architecture parameters: α, and β of partial channels."""
        return [*self.alphas.values(), *self.betas.values()]

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        kept = {id(parameter) for parameter in self.arch_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in kept)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the output (N, C, H, W) of every cell."""
        x = check_image_size(x, self.image_multiple).contiguous(memory_format=torch.channels_last)
        weights = {role: alpha.softmax(dim=1) for role, alpha in self.alphas.items()}
        shares = {role: edge_weights(beta) for role, beta in self.betas.items()}
        s0 = s1 = self.stem(x)
        outputs = []
        for cell, plan in zip(self.cells, self.plan, strict=True):
            s0, s1 = s1, cell(s0, s1, weights[plan.role], shares.get(plan.role))
            outputs.append(s1)
        return self.classifier(s1.mean((2, 3))), outputs

    @contextmanager
    def untracked(self) -> Iterator[None]:
        """Running statistics stay as they are inside the block; training mode still uses the batch's own."""
        found = [norm for norm in norms(self) if norm.track_running_stats]
        for norm in found:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in found:
                norm.track_running_stats = True

    def derive(self) -> Cells:
        """The cells of the architecture parameters as they are."""
        cells = []
        for role in CELL_ROLES[self.kind]:
            shares = edge_weights(self.betas[role].detach()).cpu().numpy() if self.betas else None
            cells.append(discretize(self.alphas[role].detach().cpu().numpy(), self.operations, shares))
        return Cells(self.kind, tuple(cells))


def edge_weights(beta: Tensor) -> Tensor:
    """β (14,) to weights that sum to 1 over the edges into each node (Xu et al., ICLR 2020, eq. 5)."""
    return torch.cat([part.softmax(0) for part in beta.split([2 + node for node in range(NODES)])])
