"""What cell networks are made of: the cell, the cells that a genotype asks for, and the training-time classifier."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import GenotypeError, UsageError
from ..genotype import DENSE_NODES, DENSE_OPERATIONS, Cells, DenseCells, Edge
from .ops import FactorizedReduce, ReLUConvBN, build_op

__all__ = ["AuxiliaryHead", "Cell", "cell_plan"]


class Cell(nn.Module):
    """One cell: two input maps (N, C', H, W) to one of `len(concat) * chs` channels.

    Args:
        nodes: the incoming edges of each intermediate node.
        concat: states whose concatenation is the output.
        reduction: halve the resolution (edges from the two inputs have stride 2).
        reduction_prev: the cell before was a reduction, so input 0 is twice as large as input 1.
    """

    def __init__(
        self,
        nodes: tuple[tuple[Edge, ...], ...],
        concat: tuple[int, ...],
        in_chs: tuple[int, int],
        chs: int,
        reduction: bool,
        reduction_prev: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        self.chs = chs
        self.preprocess0: nn.Module = (FactorizedReduce if reduction_prev else ReLUConvBN)(in_chs[0], chs, affine)
        self.preprocess1: nn.Module = ReLUConvBN(in_chs[1], chs, affine)
        self.ops, self.drop_paths = nn.ModuleList(), nn.ModuleList()
        sources, opens_node = [], []
        for edges in nodes:
            for i, edge in enumerate(edges or (Edge("none", 0),)):
                op = build_op(edge.op, chs, 2 if reduction and edge.source < 2 else 1, affine)
                self.ops.append(op)
                self.drop_paths.append(nn.Identity() if isinstance(op, nn.Identity) else DropPath(0.0))
                sources.append(edge.source)
                opens_node.append(i == 0)
        self.sources, self.opens_node, self.concat = sources, opens_node, list(concat)
        used = {*sources, *concat}
        if 0 not in used:
            self.preprocess0 = nn.Identity()
        if 1 not in used:
            self.preprocess1 = nn.Identity()

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for i, (op, drop_path) in enumerate(zip(self.ops, self.drop_paths, strict=True)):
            y = drop_path(op(states[self.sources[i]]))
            if self.opens_node[i]:
                states.append(y)
            else:
                states[-1] = states[-1] + y
        return torch.cat([states[i] for i in self.concat], dim=1)


def cell_plan(structure: Cells | DenseCells, layers: int) -> list[tuple[tuple[tuple[Edge, ...], ...], tuple[int, ...]]]:
    """Nodes and concat of every cell in the network."""
    first, second = layers // 3, 2 * layers // 3
    if isinstance(structure, DenseCells):
        if not structure.share and len(structure.codes) != layers:
            raise GenotypeError(
                f"this genotype has {len(structure.codes)} cells of its own, but layers={layers} was asked for"
            )
        plans = []
        for code in structure.codes:
            bits, nodes = iter(code), []
            for node in range(DENSE_NODES):
                edges = [Edge(DENSE_OPERATIONS[next(bits)], source) for source in range(2 + node)]
                nodes.append(tuple(edge for edge in edges if edge.op != "none"))
            plans.append((tuple(nodes), tuple(range(2, 2 + DENSE_NODES))))
        return plans * layers if structure.share else plans

    def role(index: int) -> str:
        if index in (first, second):
            return "reduce"
        if structure.kind == "cells":
            return "normal"
        return "accurate" if index < second else "robust"

    cells = [structure[role(index)] for index in range(layers)]
    return [(tuple(c.edges[2 * i : 2 * i + 2] for i in range(c.nodes)), c.concat) for c in cells]


class AuxiliaryHead(nn.Module):
    """DARTS's training-time classifier; it lives outside the network, so no weights of it are ever deployed.

    Args:
        feature_size: height of the map it reads: 8 for 32-pixel images, 16 for 64-pixel ones (ARNAS on Tiny-ImageNet).
    """

    def __init__(self, in_chs: int, num_classes: int, feature_size: int) -> None:
        super().__init__()
        pooled = (feature_size - 5) // 3 + 1
        if pooled < 1:
            raise UsageError(f"an auxiliary head needs maps of at least 5x5, found {feature_size}x{feature_size}")
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, count_include_pad=False),
            nn.Conv2d(in_chs, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, pooled, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
