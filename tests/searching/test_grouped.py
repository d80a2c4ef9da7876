"""The pieces of a grouped cell: numbering of edges, sums, and any choice of primitives on the edges out of a state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.models.ops import build_op
from rnas_zoo.searching.grouped import EDGES, Norm, Outgoing, combine, edges_out_of, total


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_edge_leaves_one_state():
    rows = [(node, source) for node in range(4) for source in range(2 + node)]
    assert len(rows) == EDGES
    for state in range(5):
        assert edges_out_of(state) == [row for row, (_, source) in enumerate(rows) if source == state]
    assert sorted(row for state in range(5) for row in edges_out_of(state)) == list(range(EDGES))


@pytest.mark.parametrize("scaled", [False, True])
def test_norm_is_a_batch_norm_whose_scale_is_an_argument(scaled):
    norm, plain = Norm(4).double(), nn.BatchNorm2d(4, affine=False).double()
    scale = draw(4, seed=1).requires_grad_() if scaled else None
    for mode in (True, True, False):
        x = draw(3, 4, 5, 5, seed=2)
        expected = plain.train(mode)(x) * (1 if scale is None else scale[:, None, None])
        torch.testing.assert_close(norm.train(mode)(x, scale), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_mean, plain.running_mean)
        torch.testing.assert_close(norm.running_var, plain.running_var)


def test_combine_and_total_are_weighted_and_plain_sums():
    maps, weights = [draw(2, 3, 4, 5, seed=seed) for seed in range(4)], draw(6, 4, seed=9)
    for row, found in enumerate(combine(maps, weights)):
        expected = sum(float(weights[row, k]) * one for k, one in enumerate(maps))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total(maps), maps[0] + maps[1] + maps[2] + maps[3], rtol=0, atol=0)


OPERATIONS = [
    ("none",),
    ("skip_connect",),
    ("max_pool_3x3",),
    ("none", "avg_pool_3x3", "skip_connect"),
    ("dil_conv_5x5",),
    ("sep_conv_3x3", "none"),
    ("dil_conv_3x3", "max_pool_3x3", "sep_conv_5x5"),
    tuple(reversed(PRIMITIVES)),
]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operations", OPERATIONS)
@pytest.mark.parametrize("edges", [1, 3])
def test_any_primitives_in_any_order(operations, stride, edges):
    """The sum of single operations, with convolutions of equal weights on all edges."""
    chs = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outgoing = Outgoing(operations, chs, edges, stride).double()
        ops = [build_op(name, chs, stride, affine=False).double() for name in operations]
    for name, op in zip(operations, ops, strict=True):
        wide = []
        if name in outgoing.first:
            halves = [part[name] for part in (outgoing.first, outgoing.second) if name in part]
            wide = [weight for half in halves for weight in (half.depthwise, half.pointwise)]
        elif name == "skip_connect":
            wide = [conv.weight for conv in outgoing.reduce[:2]]
        for weight, grouped in zip(op.parameters(), wide, strict=True):
            grouped.data.copy_(weight.data.repeat(edges, 1, 1, 1))
    x, weights = draw(2, chs, 6, 8), draw(edges, len(operations), seed=1)
    found = outgoing(x, weights)
    assert len(found) == edges
    norm = nn.BatchNorm2d(chs, affine=False).double()
    outputs = [norm(op(x)) if "pool" in name else op(x) for name, op in zip(operations, ops, strict=True)]
    for edge, y in enumerate(found):
        expected = sum(weights[edge, k] * one for k, one in enumerate(outputs))
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
