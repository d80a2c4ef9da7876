"""E2RNAS: expected parameters by hand, constraints, and what moves the search where size is flat."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.searching.methods.e2rnas import LEAST_SHARE, E2Rnas, E2RnasSettings

from .small import config, task_of


def unit(op: str, c: int, strided: bool) -> float:
    """Parameters of an operation, from the layers it consists of."""
    convolution = {"3": 9 * c + c * c + 2 * c, "5": 25 * c + c * c + 2 * c}
    if "conv" in op:
        return (2 if op.startswith("sep") else 1) * convolution[op[-1]]
    return c * c + 2 * c if op == "skip_connect" and strided else 0


def by_hand(alphas: dict[str, torch.Tensor], channels: list[int], reductions: list[int]) -> torch.Tensor:
    """Sum over cells, edges and operations, one by one."""
    total = torch.zeros(())
    for cell, c in enumerate(channels):
        alpha, row = alphas["reduce" if cell in reductions else "normal"], 0
        for node in range(4):
            for source in range(2 + node):
                strided = cell in reductions and source < 2
                share = alpha[row].softmax(0)
                for column, op in enumerate(PRIMITIVES):
                    total = total + 2 / (2 + node) * share[column] * unit(op, c, strided)
                row += 1
    return total


def test_the_size_is_the_expected_number_of_parameters_of_the_kept_edges(small_data):
    task = task_of(config(small_data, "e2rnas"))
    with torch.no_grad():
        for alpha in task.alphas:
            alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(1)))
    alphas = dict(task.net.alphas.items())
    wanted = by_hand(alphas, [2, 4, 8], [1, 2])
    found = task.expected("parameters")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    for a, b in zip(task.gradients(found, task.alphas), torch.autograd.grad(wanted, task.alphas), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_at_the_start_it_has_the_value_of_the_papers_supernet(small_data):
    task = task_of(config(small_data, "e2rnas", channels=16, layers=8, stem="cifar"))
    assert task.expected_at_start("parameters").item() == pytest.approx(135_120.53, abs=0.05)
    # The published limit of 1e6 counted every edge of a node 14 times.
    assert E2RnasSettings().limit * 135_120.53 == pytest.approx(1e6 / 14, rel=1e-3)


@pytest.mark.parametrize(
    ("constraint", "below", "above", "slopes"),
    [("floor", 0.6, 0.8, (0, 1)), ("abs", 0.2, 0.2, (-1, 1)), ("grow", 0.2, 0.0, (-1, 0)),
     ("shrink", 0.0, 0.2, (0, 1)), ("none", 0.4, 0.8, (1, 1))],
)  # fmt: skip
def test_constraints(constraint, below, above, slopes):
    method = E2Rnas(E2RnasSettings(constraint, limit=0.3))
    for n, value, slope in ((0.4, below, slopes[0]), (0.8, above, slopes[1])):
        parameters = torch.tensor(n, requires_grad=True)
        found = method.constrained(parameters, 2.0)
        assert found.item() == pytest.approx(value)
        found.backward()
        assert parameters.grad == slope


def test_the_virtual_step_is_on_clean_images_and_only_the_weights_see_the_adversary(small_data):
    task, seen = task_of(config(small_data, "e2rnas")), []
    task.perturb = lambda net, x, y, threat, keys: 1 - x
    task.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task.step(0)
    x, u = task.train(0)[0], task.validation(0)[0]
    assert [torch.equal(*pair) for pair in zip(seen, [x, u, x, x, 1 - x], strict=True)] == [True] * 5


@pytest.mark.parametrize("objective", [False, True])
def test_where_size_is_flat_the_least_share_keeps_the_search_moving(small_data, objective):
    """A floor above every network: R has no slope, and the shortest combination alone would be zero."""
    settings = {"limit": 9.0, "adversarial_objective": objective}
    task = task_of(config(small_data, "e2rnas", attack="nfgsm", settings=settings))
    task.learning_rate.fill_(0.025)
    metrics = task.step(0)
    assert float(metrics["mgda_size"]) == pytest.approx(1 - LEAST_SHARE)
    assert float(metrics["mgda_natural"]) == pytest.approx(LEAST_SHARE)
    assert all(float(alpha.grad.abs().max()) > 0 for alpha in task.alphas)


def test_above_the_floor_networks_shrink_and_below_a_growing_limit_they_grow(small_data):
    for settings, grows in (({"limit": 0.1}, False), ({"constraint": "grow", "limit": 9.0}, True)):
        task = task_of(config(small_data, "e2rnas", attack="clean", settings=settings))
        sizes = [float(task.step(index)["expected_parameters"]) for index in range(3)]
        assert (sizes[-1] > sizes[0]) == grows


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"constraint": "max"}, "constraint must be one of floor, abs"), ({"normalize": "l1"}, "normalize must be one of"),
     ({"limit": -0.1}, "limit must not be negative")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(UsageError, match=text):
        E2RnasSettings(**settings)
