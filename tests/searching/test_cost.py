"""Expected size of a network: closed forms and published sums, and what counting real operations gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnas_zoo.errors import ImageSizeError, UsageError
from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.models.ops import build_op
from rnas_zoo.models.size import count_macs, count_parameters
from rnas_zoo.searching.cost import CellPlan, cell_costs, expectation, expected, op_macs, op_parameters

CHANNELS = (16, 16, 32, 32, 32, 64, 64, 64)
SIZES = (32, 32, 32, 16, 16, 16, 8, 8)
PLAN = tuple(
    CellPlan("reduce" if i in (2, 5) else "normal", c, i in (2, 5), size, size)
    for i, (c, size) in enumerate(zip(CHANNELS, SIZES, strict=True))
)
EDGES = [(node, source) for node in range(4) for source in range(2 + node)]
UNIFORM = {role: torch.zeros(14, 8, dtype=torch.float64) for role in ("normal", "reduce")}


@pytest.mark.parametrize("op", PRIMITIVES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [2, 6, 7])
def test_costs_of_primitives_are_those_of_the_built_ones(op, stride, channels):
    built = build_op(op, channels, stride)
    assert op_parameters(op, channels, stride) == count_parameters(built)
    for height, width in ((8, 12), (2, 2)) if op == "skip_connect" else ((8, 12), (7, 5), (1, 3)):
        assert op_macs(op, channels, stride, height, width) == count_macs(built, (channels, height, width))


def test_uniform_weights_have_the_known_expectation():
    assert expected(UNIFORM, PLAN).item() == pytest.approx(135_120.53, abs=0.005)
    assert expected(UNIFORM, PLAN, edge_weight="all").item() == pytest.approx(235_808)


def naive(alphas: dict[str, torch.Tensor], plan, operations, macs: bool, kept: bool) -> float:
    """The sum over cells, edges and operations of counted modules."""
    total = 0.0
    for cell in plan:
        for row, (node, source) in zip(alphas[cell.role].exp(), EDGES, strict=True):
            stride = 2 if cell.reduction and source < 2 else 1
            shrink = 2 if cell.reduction and source >= 2 else 1
            size = (cell.channels, cell.height // shrink, cell.width // shrink)
            for weight, op in zip(row / row.sum(), operations, strict=True):
                built = build_op(op, cell.channels, stride)
                unit = count_macs(built, size) if macs else count_parameters(built)
                total += float(weight) * unit * (2 / (2 + node) if kept else 1)
    return total


@pytest.mark.parametrize("macs", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_the_expectation_is_the_naive_sum_over_counted_operations(macs, kept):
    plan = (CellPlan("accurate", 4, False, 8, 6), CellPlan("reduce", 6, True, 8, 6), CellPlan("reduce", 4, True, 4, 2))
    operations = PRIMITIVES[1:]
    generator = torch.Generator().manual_seed(0)
    alphas = {
        role: torch.randn(14, 7, generator=generator, dtype=torch.float64)
        for role in ("accurate", "reduce", "unused")
    }  # fmt: skip
    found = expected(alphas, plan, operations, "macs" if macs else "parameters", "kept" if kept else "all")
    assert found.item() == pytest.approx(naive(alphas, plan, operations, macs, kept), rel=1e-12)


@given(st.lists(st.sampled_from(PRIMITIVES), min_size=28, max_size=28))
def test_one_hot_weights_count_the_chosen_operations(chosen):
    plan = (CellPlan("normal", 3, False, 4, 4), CellPlan("reduce", 6, True, 4, 4))
    alphas = {
        role: torch.eye(8, dtype=torch.float64)[[PRIMITIVES.index(op) for op in chosen[first : first + 14]]] * 1e3
        for role, first in (("normal", 0), ("reduce", 14))
    }
    ops = nn.ModuleList(build_op(op, 3, 1) for op in chosen[:14])
    ops.extend(
        build_op(op, 6, 2 if source < 2 else 1) for op, (_, source) in zip(chosen[14:], EDGES, strict=True)
    )  # fmt: skip
    assert expected(alphas, plan, edge_weight="all").item() == count_parameters(ops)


def test_it_is_differentiable_and_gradients_favour_smaller_operations():
    alphas = {role: alpha.clone().requires_grad_() for role, alpha in UNIFORM.items()}
    for measure in ("parameters", "macs"):
        assert torch.autograd.gradcheck(
            lambda a, b, m=measure: expected({"normal": a, "reduce": b}, PLAN, measure=m) / 1e6, tuple(alphas.values())
        )
    (gradient,) = torch.autograd.grad(expected(alphas, PLAN), alphas["normal"])
    assert (gradient[:, PRIMITIVES.index("sep_conv_5x5")] > 0).all()
    assert (gradient[:, PRIMITIVES.index("none")] < 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(14, dtype=torch.float64), atol=1e-9, rtol=0)


def test_tables_can_be_kept_and_moved():
    costs = cell_costs(PLAN, edge_weight="kept")
    assert {role: tuple(table.shape) for role, table in costs.items()} == {"normal": (14, 8), "reduce": (14, 8)}
    small = {role: alpha.float() for role, alpha in UNIFORM.items()}
    assert expectation(small, costs).dtype == torch.float32
    assert expectation(small, costs).item() == pytest.approx(expected(UNIFORM, PLAN).item(), rel=1e-6)
    meta = {role: alpha.to("meta") for role, alpha in small.items()}
    assert expectation(meta, {role: table.to("meta") for role, table in costs.items()}).shape == ()


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="sep_conv_3x3"):
        op_parameters("sep_conv_3", 4, 1)
    with pytest.raises(UsageError, match="stride 3"):
        op_macs("none", 4, 3, 8, 8)
    with pytest.raises(UsageError, match="flops"):
        expected(UNIFORM, PLAN, measure="flops")
    with pytest.raises(UsageError, match="some"):
        cell_costs(PLAN, edge_weight="some")
    with pytest.raises(UsageError, match="'reduce' need"):
        expected({"normal": UNIFORM["normal"]}, PLAN)
    with pytest.raises(UsageError, match=r"\(14, 7\)"):
        expected(UNIFORM, PLAN, PRIMITIVES[1:])
    with pytest.raises(UsageError, match="at least one cell"):
        expected(UNIFORM, ())
    with pytest.raises(UsageError, match="one channel"):
        CellPlan("normal", 0, False, 8, 8)
    with pytest.raises(ImageSizeError, match="7x8"):
        CellPlan("reduce", 4, True, 7, 8)
