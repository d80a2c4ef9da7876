"""A supernet cell as few wide operators, grouped by the state they read: the function of one mixed operation per edge.

Everything that all edges out of a state have in common is computed once: its ReLU, its pools (their batch norms have no
parameters either). What differs per edge is stored and computed side by side in the channels: a depthwise convolution
of E·C channels, a 1x1 convolution with E groups, one batch norm. softmax(α) is the scale of the last batch norm of each
operation, so mixing costs no pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.depthwise import separable
from ..models.ops import FactorizedReduce, ReLUConvBN

NODES = 4
EDGES = sum(2 + node for node in range(NODES))
CONVOLUTIONS = {"sep_conv_3x3": (3, 1), "sep_conv_5x5": (5, 1), "dil_conv_3x3": (3, 2), "dil_conv_5x5": (5, 2)}


def edges_out_of(state: int) -> list[int]:
    """Numbers of the edges that read a state, by the node they lead to; all nodes after the state have one."""
    return [sum(2 + k for k in range(node)) + state for node in range(max(0, state - 1), NODES)]


class Norm(nn.Module):
    """Batch norm without parameters of its own; its scale is an argument."""

    running_mean: Tensor
    running_var: Tensor
    zeros: Tensor

    def __init__(self, chs: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps, self.track_running_stats = momentum, eps, True
        self.register_buffer("running_mean", torch.zeros(chs))
        self.register_buffer("running_var", torch.ones(chs))
        self.register_buffer("zeros", torch.zeros(chs), persistent=False)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(N, C, H, W) with a scale (C,) or none."""
        shift = None if scale is None else self.zeros
        if self.training and not self.track_running_stats:
            return F.batch_norm(x, None, None, scale, shift, True, self.momentum, self.eps)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, scale, shift, self.training, self.momentum, self.eps)


class Half(nn.Module):
    """Depthwise and 1x1 convolution of E edges of C channels, and their `Norm`."""

    def __init__(self, chs: int, edges: int, kernel: int, dilation: int) -> None:
        super().__init__()
        wide = edges * chs
        self.dilation = dilation
        self.depthwise = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(wide, 1, kernel, kernel), a=5**0.5))
        self.pointwise = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(wide, chs, 1, 1), a=5**0.5))
        self.norm = Norm(wide)


def halves(x: Tensor, parts: Sequence[Half], scales: Sequence[Tensor | None], stride: int, copies: int) -> list[Tensor]:
    """The given halves of x (N, C, H, W), or of its `copies` side by side, each behind its norm with its scale or none.

    With running statistics a norm is part of the 1x1 convolution before it.
    """
    pointwise: list[Tensor] = [part.pointwise for part in parts]
    biases: list[Tensor] | None = None
    training = parts[0].norm.training
    if not training:
        slopes = []
        for part, scale in zip(parts, scales, strict=True):
            slope = (part.norm.running_var + part.norm.eps).rsqrt()
            slopes.append(slope if scale is None else slope * scale)
        pointwise = [p * slope[:, None, None, None] for p, slope in zip(pointwise, slopes, strict=True)]
        biases = [-part.norm.running_mean * slope for part, slope in zip(parts, slopes, strict=True)]
    depthwise, dilations = [part.depthwise for part in parts], [part.dilation for part in parts]
    found = separable(x, depthwise, pointwise, biases, stride=stride, dilations=dilations, copies=copies)
    if not training:
        return list(found)
    return [part.norm(y, scale) for part, y, scale in zip(parts, found, scales, strict=True)]


class Outgoing(nn.Module):
    """The mixed operations of all E edges out of one state.

    Args:
        operations: the primitives, in the order of α's columns.
        chs: channels C of the state.
        edges: number of edges E.
        stride: 2 if the state is an input of a reduction cell.
    """

    def __init__(self, operations: Sequence[str], chs: int, edges: int, stride: int) -> None:
        super().__init__()
        self.operations, self.chs, self.edges, self.stride = tuple(operations), chs, edges, stride
        found = {name: CONVOLUTIONS[name] for name in operations if name in CONVOLUTIONS}
        self.first = nn.ModuleDict({name: Half(chs, edges, *geometry) for name, geometry in found.items()})
        self.second = nn.ModuleDict(
            {name: Half(chs, edges, *geometry) for name, geometry in found.items() if name.startswith("sep")}
        )
        self.pools = nn.ModuleDict({name: Norm(chs) for name in operations if "pool" in name})
        self.reduce = nn.ModuleList()
        if "skip_connect" in operations and stride == 2:
            left = chs // 2
            parts = (left, chs - left)
            self.reduce.extend(nn.Conv2d(chs, edges * part, 1, bias=False) for part in parts)
            self.reduce.append(Norm(edges * chs))

    def forward(self, x: Tensor, weights: Tensor) -> list[Tensor]:
        """State (N, C, H, W) and operation weights (E, |operations|) to the E edges' outputs (N, C, H', W')."""
        column = {name: weights[:, index] for index, name in enumerate(self.operations)}
        scale = {name: weight.repeat_interleave(self.chs) for name, weight in column.items()}
        parts: list[Tensor] = []
        if self.first or self.reduce:
            rectified = F.relu(x)
        if self.first:
            scales = [None if name in self.second else scale[name] for name in self.first]
            firsts: list[Any] = list(self.first.values())
            found = halves(rectified, firsts, scales, self.stride, self.edges)
            for name, y in zip(self.first, found, strict=True):
                if name in self.second:
                    second: Any = self.second[name]
                    (y,) = halves(F.relu(y, inplace=True), [second], [scale[name]], 1, 1)
                parts.append(y)
        if self.reduce:
            parts.append(self._halved(rectified, scale["skip_connect"]))
        shared, shares = self._shared(x, column)
        edges = list(total(parts).split(self.chs, dim=1)) if parts else []
        if shared:
            mixed = combine(shared, torch.stack(shares, dim=1))
            edges = [a + b for a, b in zip(edges, mixed, strict=True)] if edges else mixed
        if not edges:
            edges = [x[:, :, :: self.stride, :: self.stride] * 0.0] * self.edges
        return edges

    def _shared(self, x: Tensor, column: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (N, C, H', W') that all edges use, and the weights (E,) of each."""
        maps, shares = [], []
        for name, norm in self.pools.items():
            if name == "max_pool_3x3":
                pooled = F.max_pool2d(x, 3, self.stride, 1)
            else:
                pooled = F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)
            maps.append(norm(pooled))
            shares.append(column[name])
        if "skip_connect" in column and self.stride == 1:
            maps.append(x)
            shares.append(column["skip_connect"])
        return maps, shares

    def _halved(self, x: Tensor, scale: Tensor) -> Tensor:
        """`FactorizedReduce` of every edge from the rectified state: (N, E·C, H/2, W/2)."""
        halves = [self.reduce[0](x[:, :, ::2, ::2]), self.reduce[1](x[:, :, 1::2, 1::2])]
        rows = [half.permute(0, 2, 3, 1).unflatten(-1, (self.edges, -1)) for half in halves]
        return self.reduce[2](torch.cat(rows, dim=-1).flatten(-2).permute(0, 3, 1, 2), scale)


def total(parts: Sequence[Tensor]) -> Tensor:
    """Sum of tensors of one shape, in their order."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def combine(maps: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """E weighted sums of K maps (N, C, H, W) with weights (E, K), as channels-last maps."""
    rows = torch.stack([one.permute(0, 2, 3, 1) for one in maps])
    mixed = weights.to(rows.dtype) @ rows.flatten(1)
    return [one.view(rows.shape[1:]).permute(0, 3, 1, 2) for one in mixed]


class SuperCell(nn.Module):
    """A cell with a mixed operation on each of its 14 edges.

    Args:
        operations: the primitives, in the order of α's columns.
        in_chs: channels of the two inputs.
        chs: channels of each node; the output has four times as many.
        partial: only the first 1/partial of a state's channels goes through the operations (PC-DARTS, Xu et al., ICLR
            2020); the others pass by, halved by a max pool where the edge has stride 2, and channels are shuffled.
    """

    def __init__(
        self,
        operations: Sequence[str],
        in_chs: tuple[int, int],
        chs: int,
        reduction: bool,
        reduction_prev: bool,
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.reduction, self.partial, self.mixed = reduction, partial, chs // partial
        self.preprocess0 = (FactorizedReduce if reduction_prev else ReLUConvBN)(in_chs[0], chs, affine=False)
        self.preprocess1 = ReLUConvBN(in_chs[1], chs, affine=False)
        self.outgoing = nn.ModuleList(
            Outgoing(operations, self.mixed, len(edges_out_of(state)), 2 if reduction and state < 2 else 1)
            for state in range(1 + NODES)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, shares: Tensor | None = None) -> Tensor:
        """Inputs, operation weights (14, |operations|) and, for partial channels, edge weights (14,)."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        arriving: list[list[Tensor]] = [[] for _ in range(NODES)]
        passing: list[list[Tensor]] = [[] for _ in range(NODES)]
        if shares is not None:
            weights = weights * shares[:, None]
        for state in range(1 + NODES):
            if state >= 2:
                states.append(self._node(arriving[state - 2], passing[state - 2]))
            x, rows = states[state], edges_out_of(state)
            first_node = NODES - len(rows)
            part = x if self.partial == 1 else x[:, : self.mixed]
            for node, y in enumerate(self.outgoing[state](part, weights[rows]), first_node):
                arriving[node].append(y)
            if shares is not None:
                by = x[:, self.mixed :]
                by = F.max_pool2d(by, 2, 2) if self.reduction and state < 2 else by
                for node, y in enumerate(combine([by], shares[rows][:, None]), first_node):
                    passing[node].append(y)
        states.append(self._node(arriving[-1], passing[-1]))
        return torch.cat(states[2:], dim=1)

    def _node(self, arriving: list[Tensor], passing: list[Tensor]) -> Tensor:
        """Sum of the edges into a node; the shuffle, being the same for all of them, follows the sum."""
        if not passing:
            return total(arriving)
        both = torch.cat([total(arriving), total(passing)], dim=1)
        rows = both.permute(0, 2, 3, 1).unflatten(-1, (self.partial, -1))
        return rows.transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


def norms(module: nn.Module) -> Iterator[Any]:
    """All batch norms inside a module."""
    return (m for m in module.modules() if isinstance(m, Norm | nn.BatchNorm2d))
