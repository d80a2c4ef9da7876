"""The DARTS supernet: every edge of a cell is the softmax(α)-weighted sum of all primitives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..genotype import PRIMITIVES
from ..models.ops import FactorizedReduce, ReLUConvBN, build_op, conv_bn
from ..models.rnas_cells import STEMS

NODES = 4
EDGES = sum(2 + node for node in range(NODES))
ROLES = ("normal", "reduce")


class MixedOp(nn.Module):
    """All primitives on one edge; batch norms have no scale, and pools get one (α does the scaling)."""

    def __init__(self, chs: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList()
        for name in PRIMITIVES:
            op = build_op(name, chs, stride, affine=False)
            self.ops.append(nn.Sequential(op, nn.BatchNorm2d(chs, affine=False)) if "pool" in name else op)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))


class SuperCell(nn.Module):
    """A cell with a mixed operation on each of its 14 edges."""

    def __init__(self, in_chs: tuple[int, int], chs: int, reduction: bool, reduction_prev: bool) -> None:
        super().__init__()
        self.role = "reduce" if reduction else "normal"
        self.preprocess0 = (FactorizedReduce if reduction_prev else ReLUConvBN)(in_chs[0], chs, affine=False)
        self.preprocess1 = ReLUConvBN(in_chs[1], chs, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(chs, 2 if reduction and source < 2 else 1) for node in range(NODES) for source in range(2 + node)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edge = 0
        for node in range(NODES):
            incoming = range(edge, edge + 2 + node)
            states.append(sum(self.edges[e](s, weights[e]) for e, s in zip(incoming, states, strict=True)))
            edge += 2 + node
        return torch.cat(states[2:], dim=1)


class Supernet(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to logits (N, num_classes); α of shape (14, 8) for each role.

    Args:
        channels, layers: width of the first cells and number of cells (at least 3).
        stem: as in `models.rnas_cells`, without `imagenet`.

    Raises:
        UsageError: arguments out of range.
    """

    def __init__(self, num_classes: int, channels: int = 16, layers: int = 8, stem: str = "cifar") -> None:
        super().__init__()
        if layers < 3 or channels < 2 or stem not in ("cifar", "cifar_stride2"):
            raise UsageError(
                "a supernet needs at least 2 channels, 3 layers and a cifar stem, "
                f"got channels={channels}, layers={layers}, stem={stem!r}"
            )
        self.stem = nn.Sequential(*conv_bn(3, 3 * channels, 3, STEMS[stem]))
        previous, chs, reduction_prev = (3 * channels, 3 * channels), channels, False
        self.cells = nn.ModuleList()
        for index in range(layers):
            reduction = index in (layers // 3, 2 * layers // 3)
            chs *= 2 if reduction else 1
            self.cells.append(SuperCell(previous, chs, reduction, reduction_prev))
            previous, reduction_prev = (previous[1], NODES * chs), reduction
        self.classifier = nn.Linear(previous[1], num_classes)
        self.alphas = nn.ParameterDict({role: torch.randn(EDGES, len(PRIMITIVES)) * 1e-3 for role in ROLES})

    def arch_parameters(self) -> list[nn.Parameter]:
        """The architecture parameters α."""
        return list(self.alphas.values())

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("alphas."))

    def forward(self, x: Tensor) -> Tensor:
        weights = {role: alpha.softmax(dim=1) for role, alpha in self.alphas.items()}
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights[str(cell.role)])
        return self.classifier(s1.mean((2, 3)))
