"""Discretisation: two strongest edges per node, strongest operation on each, never `none`."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rnas_zoo.genotype import PRIMITIVES, Edge
from rnas_zoo.searching.discretize import discretize, entropy, softmax

NONE = PRIMITIVES.index("none")
SKIP = PRIMITIVES.index("skip_connect")
SEP3 = PRIMITIVES.index("sep_conv_3x3")
ROWS = {(node, source): sum(2 + k for k in range(node)) + source for node in range(4) for source in range(2 + node)}
ALPHAS = arrays(np.float64, (14, 8), elements=st.floats(-6, 6))


def pairs(alpha: np.ndarray) -> list[set[tuple[str, int]]]:
    edges = discretize(alpha).edges
    return [{(edge.op, edge.source) for edge in edges[2 * node : 2 * node + 2]} for node in range(4)]


def test_strong_operations_on_strong_edges_are_found():
    alpha = np.zeros((14, 8))
    wanted = {
        (0, 1): "sep_conv_3x3",
        (0, 0): "max_pool_3x3",
        (1, 2): "dil_conv_5x5",
        (1, 0): "skip_connect",
        (2, 3): "sep_conv_5x5",
        (2, 1): "avg_pool_3x3",
        (3, 4): "dil_conv_3x3",
        (3, 0): "sep_conv_3x3",
    }
    for strength, (place, op) in enumerate(reversed(wanted.items())):
        alpha[ROWS[place], PRIMITIVES.index(op)] = 3 + strength / 10
    cell = discretize(alpha)
    # The first of each pair in `wanted` is the stronger one.
    assert cell.edges == tuple(Edge(op, source) for (_, source), op in wanted.items())
    assert cell.concat == (2, 3, 4, 5)


def test_equal_strengths_keep_the_lower_source_and_the_earlier_operation():
    cell = discretize(np.zeros((14, 8)))
    assert cell.edges == (Edge("max_pool_3x3", 0), Edge("max_pool_3x3", 1)) * 4


def test_none_is_never_chosen_but_weakens_its_edge():
    alpha = np.zeros((14, 8))
    alpha[:, NONE] = 4.0
    alpha[ROWS[1, 0], SEP3], alpha[ROWS[1, 1], SKIP] = 3.9, 3.0
    assert pairs(alpha)[1] == {("sep_conv_3x3", 0), ("skip_connect", 1)}
    alpha[ROWS[1, 0], NONE] = 20.0  # the largest non-none logit of the node now means almost nothing
    assert pairs(alpha)[1] == {("skip_connect", 1), ("max_pool_3x3", 2)}
    assert all(edge.op != "none" for edge in discretize(alpha).edges)


def naive(alpha: np.ndarray, shares: np.ndarray | None = None) -> tuple[tuple[tuple[str, int], ...], float]:
    """The chosen edges in order, and the narrowest decision that led there."""
    chosen, gaps = [], []
    for node in range(4):
        candidates = []
        for source in range(2 + node):
            row = [float(value) for value in alpha[ROWS[node, source]]]
            total = math.fsum(math.exp(value) for value in row)
            share = 1.0 if shares is None else float(shares[ROWS[node, source]])
            weights = sorted(
                ((share * math.exp(v) / total, PRIMITIVES[i]) for i, v in enumerate(row) if i != NONE), reverse=True
            )
            gaps.append(weights[0][0] - weights[1][0])
            candidates.append((weights[0][0], weights[0][1], source))
        candidates.sort(reverse=True)
        gaps += [stronger[0] - weaker[0] for stronger, weaker in pairwise(candidates[:3])]
        chosen += [(op, source) for _, op, source in candidates[:2]]
    return tuple(chosen), min(gaps)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 5))
def test_discretisation_is_the_naive_one(seed, scale):
    alpha = np.random.default_rng(seed).normal(size=(14, 8)) * scale
    expected, gap = naive(alpha)
    assume(gap > 1e-9)
    cell = discretize(alpha)
    assert tuple((edge.op, edge.source) for edge in cell.edges) == expected
    assert cell.concat == (2, 3, 4, 5)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 5))
def test_shares_multiply_the_strengths_of_their_edges(seed, scale):
    generator = np.random.default_rng(seed)
    alpha, shares = generator.normal(size=(14, 8)) * scale, generator.dirichlet(np.ones(14))
    expected, gap = naive(alpha, shares)
    assume(gap > 1e-9)
    assert tuple((edge.op, edge.source) for edge in discretize(alpha, shares=shares).edges) == expected
    assert discretize(alpha, shares=np.full(14, 0.25)) == discretize(alpha)


def test_a_share_of_almost_one_decides_the_node_whatever_alpha_says():
    alpha, shares = np.zeros((14, 8)), np.full(14, 1e-6)
    alpha[:, SEP3] = 3.0
    for place in ((0, 1), (1, 2), (2, 3), (3, 4)):
        shares[ROWS[place]], alpha[ROWS[place]] = 1 - 1e-5, 0.0
        alpha[ROWS[place], SKIP] = 1e-3
    first = discretize(alpha, PRIMITIVES, shares).edges[::2]
    assert first == tuple(Edge("skip_connect", source) for source in (1, 2, 3, 4))


@given(arrays(np.float64, (14, 8), elements=st.integers(-2, 2).map(float)))
def test_with_ties_no_better_edge_is_left_out(alpha):
    weights = np.exp(alpha) / np.exp(alpha).sum(1, keepdims=True)
    weights[:, NONE] = 0
    edges = discretize(alpha).edges
    for node in range(4):
        pair = edges[2 * node : 2 * node + 2]
        taken = [weights[ROWS[node, edge.source], PRIMITIVES.index(edge.op)] for edge in pair]
        best = sorted((weights[ROWS[node, source]].max() for source in range(2 + node)), reverse=True)
        assert taken == pytest.approx(best[:2], abs=1e-12)
        assert pair[0].source != pair[1].source


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_discretisation_ignores_a_shift_of_all_logits(seed, shift):
    alpha = np.random.default_rng(seed).normal(size=(14, 8))
    assume(naive(alpha)[1] > 1e-9)
    assert discretize(alpha + shift) == discretize(alpha)


@given(ALPHAS)
def test_softmax_rows_are_distributions(alpha):
    weights = softmax(alpha)
    assert weights.sum(1) == pytest.approx(np.ones(14))
    np.testing.assert_allclose(np.log(weights) - np.log(weights[:, :1]), alpha - alpha[:, :1], atol=1e-9)
    assert np.isfinite(softmax(alpha * 1e4)).all()


def test_entropy_in_closed_form():
    assert entropy(np.zeros((14, 8))) == pytest.approx(math.log(8))
    alpha = np.full((14, 8), -100.0)
    alpha[:7, 0], alpha[7:, :2] = 0.0, 0.0
    assert entropy(alpha) == pytest.approx(math.log(2) / 2)
