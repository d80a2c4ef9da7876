"""The supernet beside one that computes every edge by itself: the same outputs, gradients and running statistics."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rnas_zoo.errors import ImageSizeError, UsageError
from rnas_zoo.genotype import CELL_ROLES, PRIMITIVES
from rnas_zoo.searching.grouped import norms
from rnas_zoo.searching.supernet import Supernet, edge_weights

from .naive import EDGES, NaiveSupernet

SIZE: dict[str, Any] = {"num_classes": 3, "channels": 4, "layers": 4}


def build(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[Supernet, NaiveSupernet]:
    """A supernet with decided α and β, and the naive one with the same weights."""
    arguments = {**SIZE, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Supernet(**arguments).to(dtype)
        for parameter in net.arch_parameters():
            nn.init.normal_(parameter)
        return net, NaiveSupernet(**arguments).to(dtype).copy_from(net)


def images(height: int = 8, width: int = 12, n: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value; zeros must be zeros."""
    assert found.shape == expected.shape
    error, size = (found.detach() - expected.detach()).abs().max(), expected.detach().abs().max()
    return float(error / size) if size else float(error)


def gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of a fixed linear function of them by the images and all parameters."""
    x = x.clone().requires_grad_()
    named = {"images": x, **dict(net.named_parameters())}
    logits = net(x)
    signal = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(x.dtype)
    found = torch.autograd.grad(logits, list(named.values()), signal)
    return logits, dict(zip(named, found, strict=True))


def assert_same_gradients(net: Supernet, naive: NaiveSupernet, x: Tensor, tolerance: float) -> None:
    logits, found = gradients(net, x)
    expected_logits, expected = gradients(naive, x)
    assert difference(logits, expected_logits) <= tolerance
    assert difference(found["images"], expected.pop("images")) <= tolerance
    by_edge = naive.slices({**found, **dict(net.named_buffers())})
    for name, gradient in expected.items():
        assert difference(by_edge[name], gradient) <= tolerance, name
    assert sum(bool(gradient.any()) for gradient in expected.values()) > 0.9 * len(expected)


def assert_same_statistics(net: Supernet, naive: NaiveSupernet, tolerance: float) -> None:
    by_edge = naive.slices(net.state_dict())
    for name, value in naive.named_buffers():
        if name in by_edge:
            assert difference(by_edge[name].double(), value.double()) <= tolerance, name


def remember_one_batch(*nets: nn.Module) -> None:
    """Running statistics become those of the last batch, so that evaluation mode is no degenerate function."""
    for norm in (norm for net in nets for norm in norms(net)):
        norm.momentum = 1.0


def assert_same_function(net: Supernet, naive: NaiveSupernet, x: Tensor, tolerance: float = 1e-12) -> None:
    """In training mode, in the statistics two batches leave behind, and in evaluation mode with those of the second."""
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in naive.parameters())
    assert_same_gradients(net.train(), naive.train(), x, tolerance)
    with torch.no_grad():
        assert difference(net(1 - x), naive(1 - x)) <= tolerance
        assert_same_statistics(net, naive, tolerance)
        remember_one_batch(net, naive)
        net(1 - x), naive(1 - x)
    assert_same_statistics(net, naive, tolerance)
    assert_same_gradients(net.eval(), naive.eval(), x, tolerance)
    assert_same_statistics(net, naive, tolerance)


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("partial", [1, 2, 4])
@pytest.mark.parametrize("kind", CELL_ROLES)
def test_function_gradients_and_statistics_are_those_of_single_edges(kind, partial, none):
    size = {"channels": 8 if partial == 4 else 4, "layers": 3 if kind == "cells" else 4}
    assert_same_function(*build(kind=kind, partial=partial, none=none, **size), images())


@pytest.mark.parametrize("changes", [{"channels": 5}, {"channels": 6, "partial": 2}])
def test_odd_widths_and_other_stems(changes):
    """Skip connections of reductions then have halves of unequal width."""
    assert_same_function(*build(**changes, layers=3, stem="cifar_stride2"), images(16, 24))


@pytest.mark.parametrize("partial", [1, 2])
def test_float32_agrees_to_rounding(partial):
    """Single gradients may differ by more: those of a ReLU whose input rounds to the other side of zero."""
    net, naive = build(partial=partial, layers=3)
    rounded = copy.deepcopy(net).float()
    remember_one_batch(rounded, naive)
    x = images(16, 16, n=4)
    for mode in (True, False):
        with torch.no_grad():
            rounded.train(mode)(x.float()), naive.train(mode)(x)
        logits, found = gradients(rounded, x.float())
        expected_logits, expected = gradients(naive, x)
        assert difference(logits.double(), expected_logits) <= 1e-5
        assert difference(found.pop("images").double(), expected.pop("images")) <= 1e-3
        by_edge = naive.slices({**found, **dict(rounded.named_buffers())})
        assert np.median([difference(by_edge[name].double(), g) for name, g in expected.items()]) <= 1e-5


@pytest.mark.parametrize("partial", [1, 2])
def test_with_a_decided_alpha_only_the_decided_operations_remain(partial):
    net, naive = build(partial=partial)
    with torch.no_grad():
        for shift, (role, alpha) in enumerate(net.alphas.items()):
            chosen = [1 + (5 * row + shift) % 7 for row in range(len(EDGES))]
            alpha.zero_()[range(len(EDGES)), chosen] = 1e4
            for cell in (cell for cell in naive.cells if cell.role == role):
                for edge, op in zip(cell.edges, chosen, strict=True):
                    edge.ops = nn.ModuleDict({PRIMITIVES[op]: edge.ops[PRIMITIVES[op]]})
            naive.alphas[role] = nn.Parameter(torch.zeros(len(EDGES), 1, dtype=torch.float64))
        assert difference(net.train()(images()), naive.train()(images())) <= 1e-12
        assert difference(net.eval()(images()), naive.eval()(images())) <= 1e-12


# --- layout, size, parameters -----------------------------------------------------------------------------------------


def test_the_memory_format_of_the_images_does_not_matter():
    net, _ = build(dtype=torch.float32)
    x = images().float()
    plain, last = gradients(net, x), gradients(net, x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(plain[0], last[0])
    assert all(torch.equal(plain[1][name], last[1][name]) for name in plain[1])


@pytest.mark.parametrize(("stem", "size"), [("cifar", (30, 30)), ("cifar", (32, 30)), ("cifar_stride2", (28, 32))])
def test_images_that_do_not_halve_are_refused(stem, size):
    net = Supernet(**SIZE, stem=stem)
    with pytest.raises(ImageSizeError, match=f"{size[0]}x{size[1]}"):
        net(images(*size).float())
    with pytest.raises(ImageSizeError, match="halves even sizes"):
        Supernet(**SIZE, stem=stem, image_size=(30, 30))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cells", [("normal", 24, 32)] * 2 + [("reduce", 48, 32)] + [("normal", 48, 16)] * 2
                  + [("reduce", 96, 16)] + [("normal", 96, 8)] * 2),
        ("accurate_robust_cells", [("accurate", 24, 32)] * 2 + [("reduce", 48, 32)] + [("accurate", 48, 16)] * 2
                                  + [("reduce", 48, 16)] + [("robust", 48, 8)] * 2),
    ],
)  # fmt: skip
def test_the_plan_of_eight_cells_is_the_published_one(kind, expected):
    net = Supernet(10, 24, 8, kind=kind)
    assert [(cell.role, cell.channels, cell.height) for cell in net.plan] == expected
    assert [cell.reduction for cell in net.plan] == [role == "reduce" for role, _, _ in expected]
    assert net.classifier.in_features == 4 * expected[-1][1]


@pytest.mark.parametrize("kind", CELL_ROLES)
def test_features_are_the_outputs_of_the_planned_cells(kind):
    net = Supernet(**SIZE, kind=kind, stem="cifar_stride2", image_size=(16, 24)).eval()
    logits, features = net.features(images(16, 24).float())
    assert torch.equal(logits, net(images(16, 24).float()))
    torch.testing.assert_close(net.classifier(features[-1].flatten(2).mean(2)), logits)
    for cell, y in zip(net.plan, features, strict=True):
        assert y.shape == (3, 4 * cell.channels, *(side // (1 + cell.reduction) for side in (cell.height, cell.width)))


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("kind", CELL_ROLES)
def test_parameters_are_weights_or_architecture_and_never_both(kind, partial, none):
    net = Supernet(**SIZE, kind=kind, partial=partial, none=none)
    weights, architecture = list(net.weight_parameters()), net.arch_parameters()
    assert len({id(p) for p in [*weights, *architecture]}) == len(weights) + len(architecture)
    assert {id(p) for p in [*weights, *architecture]} == {id(p) for p in net.parameters()}
    roles = len(CELL_ROLES[kind])
    shares = [(14,)] * roles if partial > 1 else []
    assert [tuple(p.shape) for p in architecture] == [(14, 7 + none)] * roles + shares


def test_new_weights_are_distributed_as_in_single_operations():
    """Uniform within 1/sqrt(inputs), as torch initialises convolutions; no two edges alike; α and β undecided."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net, naive = Supernet(**SIZE, partial=2), NaiveSupernet(**SIZE, partial=2)
    naive.copy_from(net)
    seen: dict[tuple[int, ...], list[Tensor]] = {}
    for name, weight in naive.named_parameters():
        if weight.ndim == 4:
            values = weight.detach() * weight[0].numel() ** 0.5
            assert values.abs().max() <= 1 + 1e-6, name
            seen.setdefault(tuple(weight.shape), []).append(values.flatten())
    assert len(seen) >= 6
    for values in seen.values():
        assert len(torch.stack(values).unique(dim=0)) == len(values)
        assert stats.kstest(torch.cat(values).numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    logits = torch.cat([p.detach().flatten() for p in net.arch_parameters()]).numpy()
    assert stats.kstest(logits, "norm", (0, 1e-3)).pvalue > 1e-3


# --- running statistics -----------------------------------------------------------------------------------------------


def statistics(net: Supernet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def changed(net: Supernet, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in net.named_buffers() if not torch.equal(value, before[name])}


def test_untracked_forwards_leave_running_statistics_alone():
    net, _ = build(partial=2)
    before, expected = statistics(net), None
    with net.untracked():
        expected = net(images())
        with net.untracked():
            net(images())
        net(1 - images())  # still inside
        assert changed(net, before) == set()
    with pytest.raises(ImageSizeError), net.untracked():
        net(images(6, 6))
    assert changed(net, before) == set()
    assert torch.equal(net(images()), expected)
    assert changed(net, before) == {name for name in before if "running" in name or "tracked" in name}


def test_untracked_evaluation_uses_the_running_statistics():
    net, _ = build()
    net(images())
    net.eval()
    before, expected = statistics(net), net(images())
    with net.untracked():
        assert torch.equal(net(images()), expected)
    assert changed(net, before) == set()


@pytest.mark.parametrize("partial", [1, 2])
def test_the_state_is_the_whole_of_a_supernet(partial):
    net, _ = build(partial=partial)
    net(images())
    other, _ = build(partial=partial, seed=9)
    assert not torch.equal(other.eval()(images()), net.eval()(images()))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images()), net(images()))
    assert torch.equal(other.train()(images()), net.train()(images()))


# --- deriving, errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("kind", CELL_ROLES)
def test_the_derived_cells_keep_the_strongest_edges(kind, partial, none):
    """softmax(α), for partial channels times softmax(β) of the edges into a node; never `none`."""
    net, _ = build(kind=kind, partial=partial, none=none, layers=4)
    found = net.derive()
    assert found.kind == kind
    names = PRIMITIVES if none else PRIMITIVES[1:]
    for role in CELL_ROLES[kind]:
        alpha = np.exp(net.alphas[role].detach().numpy())
        beta = np.exp(net.betas[role].detach().numpy()) if partial > 1 else np.ones(14)
        expected = []
        for node in range(4):
            rows = {source: row for row, (to, source) in enumerate(EDGES) if to == node}
            strengths = {
                (source, name): value / alpha[row].sum() * beta[row] / beta[list(rows.values())].sum()
                for source, row in rows.items()
                for name, value in zip(names, alpha[row], strict=True)
                if name != "none"
            }
            ranked = sorted(strengths, key=strengths.__getitem__, reverse=True)
            best = dict(reversed(ranked))
            order = list(dict.fromkeys(source for source, _ in ranked))
            expected += [(best[source], source) for source in order[:2]]
        assert [(edge.op, edge.source) for edge in found[role].edges] == expected
        assert found[role].concat == (2, 3, 4, 5)


def test_edge_weights_sum_to_one_at_each_node():
    beta = torch.randn(14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = edge_weights(beta)
    for node in range(4):
        rows = [row for row, (to, _) in enumerate(EDGES) if to == node]
        torch.testing.assert_close(weights[rows], beta[rows].exp() / beta[rows].exp().sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 2}, "layers=2"),
        ({"layers": 3, "kind": "accurate_robust_cells"}, "hold no robust cell.*at least 4"),
        ({"channels": 0}, "channels=0"),
        ({"channels": 1}, "channels=1"),
        ({"stem": "imagenet"}, "stem='imagenet'"),
        ({"partial": 0}, "do not divide into 0 parts"),
        ({"partial": -1}, "do not divide into -1 parts"),
        ({"partial": 3}, "multiple of 6"),
        ({"partial": 4}, "multiple of 8"),
        ({"kind": "dense_cells"}, "accurate_robust_cells"),
        ({"kind": "cell"}, "'cell'"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        Supernet(**{**SIZE, **changes})
