"""The supernet as its papers write it: every edge owns its operations, and a node sums its edges one by one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rnas_zoo.genotype import CELL_ROLES, PRIMITIVES
from rnas_zoo.models.ops import FactorizedReduce, ReLUConvBN, build_op, conv_bn

EDGES = [(node, source) for node in range(4) for source in range(2 + node)]  # the rows of α


class MixedEdge(nn.Module):
    """softmax(α)-weighted sum of primitives on the first 1/partial of the channels; the others pass by (PC-DARTS)."""

    def __init__(self, operations: tuple[str, ...], chs: int, stride: int, partial: int) -> None:
        super().__init__()
        self.partial, self.mixed = partial, chs // partial
        self.ops = nn.ModuleDict()
        for name in operations:
            op = build_op(name, self.mixed, stride, affine=False)
            self.ops[name] = nn.Sequential(op, nn.BatchNorm2d(self.mixed, affine=False)) if "pool" in name else op
        self.bypass = nn.Identity() if stride == 1 else nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        first = sum(weight * op(x[:, : self.mixed]) for weight, op in zip(weights, self.ops.values(), strict=True))
        if self.partial == 1:
            return first
        both = torch.cat([first, self.bypass(x[:, self.mixed :])], dim=1)
        n, chs, height, width = both.shape
        return both.view(n, self.partial, chs // self.partial, height, width).transpose(1, 2).reshape(both.shape)


class NaiveCell(nn.Module):
    def __init__(self, operations, in_chs, chs, reduction, reduction_prev, partial, role) -> None:
        super().__init__()
        self.role, self.reduction = role, reduction
        self.preprocess0 = (FactorizedReduce if reduction_prev else ReLUConvBN)(in_chs[0], chs, affine=False)
        self.preprocess1 = ReLUConvBN(in_chs[1], chs, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(operations, chs, 2 if reduction and source < 2 else 1, partial) for _, source in EDGES
        )

    def forward(self, s0: Tensor, s1: Tensor, alpha: Tensor, beta: Tensor | None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(4):
            rows = [row for row, (to, _) in enumerate(EDGES) if to == node]
            shares = [1.0] * len(rows) if beta is None else beta[rows].softmax(0)
            states.append(
                sum(
                    share * self.edges[row](states[EDGES[row][1]], alpha[row].softmax(0))
                    for share, row in zip(shares, rows, strict=True)
                )
            )
        return torch.cat(states[2:], dim=1)


class NaiveSupernet(nn.Module):
    """The arguments of `Supernet`; parameters outside the edges carry the same names."""

    def __init__(self, num_classes, channels, layers, stem="cifar", *, kind="cells", partial=1, none=True) -> None:
        super().__init__()
        self.operations = PRIMITIVES if none else PRIMITIVES[1:]
        self.stem = nn.Sequential(*conv_bn(3, 3 * channels, 3, {"cifar": 1, "cifar_stride2": 2}[stem]))
        self.cells = nn.ModuleList()
        in_chs, chs, reduction_prev = (3 * channels, 3 * channels), channels, False
        for index in range(layers):
            reduction = index in (layers // 3, 2 * layers // 3)
            if kind == "cells":
                role = "reduce" if reduction else "normal"
                chs = 2 * chs if reduction else chs
            else:
                role = "reduce" if reduction else "accurate" if index < 2 * layers // 3 else "robust"
                chs = channels if index < layers // 3 else 2 * channels
            self.cells.append(NaiveCell(self.operations, in_chs, chs, reduction, reduction_prev, partial, role))
            in_chs, reduction_prev = (in_chs[1], 4 * chs), reduction
        self.classifier = nn.Linear(in_chs[1], num_classes)
        roles = CELL_ROLES[kind]
        self.alphas = nn.ParameterDict({role: torch.zeros(14, len(self.operations)) for role in roles})
        self.betas = nn.ParameterDict({role: torch.zeros(14) for role in roles} if partial > 1 else {})

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            beta = self.betas[cell.role] if self.betas else None
            s0, s1 = s1, cell(s0, s1, self.alphas[cell.role], beta)
        return self.classifier(s1.mean((2, 3)))

    def slices(self, grouped: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the grouped supernet's names (weights, statistics, gradients), under those of this one.

        The grouped supernet keeps the edges out of a state side by side in the first dimension, in the order of their
        nodes; statistics of pools once for all of them.
        """
        found = {}
        for name in [*dict(self.named_parameters()), *dict(self.named_buffers())]:
            if ".edges." not in name:
                found[name] = grouped[name]
            elif not name.endswith("num_batches_tracked"):
                found[name] = self._slice(name, grouped)
        return found

    @staticmethod
    def _slice(name: str, grouped: Mapping[str, Tensor]) -> Tensor:
        _, index, _, edge, _, operation, *inside = name.split(".")
        node, source = EDGES[int(edge)]
        leading = [to for to, state in EDGES if state == source]
        prefix = f"cells.{index}.outgoing.{source}"
        if "pool" in operation:
            return grouped[f"{prefix}.pools.{operation}.{inside[-1]}"]
        if operation == "skip_connect":
            place = {"conv_1": "0.weight", "conv_2": "1.weight", "bn": f"2.{inside[-1]}"}[inside[0]]
            whole = grouped[f"{prefix}.reduce.{place}"]
        else:
            half, layer = divmod(int(inside[0]), 4)
            place = {1: "depthwise", 2: "pointwise", 3: f"norm.{inside[-1]}"}[layer]
            whole = grouped[f"{prefix}.{('first', 'second')[half]}.{operation}.{place}"]
        return whole.chunk(len(leading))[leading.index(node)]

    def copy_from(self, supernet: nn.Module) -> NaiveSupernet:
        """Take over all parameters and statistics of a grouped supernet, and its mode."""
        missing, unexpected = self.load_state_dict(self.slices(supernet.state_dict()), strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        return self.train(supernet.training)
