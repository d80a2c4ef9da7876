"""Minimum-norm weights: closed form, Frank-Wolfe, a grid over the simplex and a peer solver agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from rnas_zoo.errors import UsageError
from rnas_zoo.searching.mgda import combine, frank_wolfe, two_tasks, weights

GRID = np.linspace(0, 1, 201)


def gradients(seed: int, tasks: int, size: int = 5) -> torch.Tensor:
    """Random gradients of different lengths with something in common, some of them nearly parallel."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=size) * generator.choice([0, 0.3, 3])
    scale = 10 ** generator.uniform(-1, 1, size=(tasks, 1))
    return torch.from_numpy((generator.normal(size=(tasks, size)) + common) * scale)


def norm(c: np.ndarray, g: torch.Tensor) -> float:
    return float(np.linalg.norm(np.asarray(c) @ g.numpy()))


def exact(g: torch.Tensor) -> float:
    """The distance of the hull from the origin: SciPy's non-negative least squares, the sum forced by a heavy row."""
    heavy = 1e4
    a = np.vstack([g.numpy().T, np.full(len(g), heavy)])
    solution, _ = nnls(a, np.append(np.zeros(g.shape[1]), heavy))
    return norm(solution / solution.sum(), g)


@given(st.integers(0, 2**32 - 1))
def test_two_tasks_against_a_grid_and_frank_wolfe(seed):
    g = gradients(seed, 2)
    c = float(two_tasks(g[0], g[1]))
    assert 0 <= c <= 1
    best = min(norm([x, 1 - x], g) for x in GRID)
    assert norm([c, 1 - c], g) <= best + 1e-12
    assert frank_wolfe(g @ g.T).numpy() == pytest.approx([c, 1 - c], abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_two_tasks_is_the_case_form_of_the_products(seed):
    g1, g2 = gradients(seed, 2).numpy()
    v11, v12, v22 = g1 @ g1, g1 @ g2, g2 @ g2
    if v12 >= v11:
        c, cost = 1.0, v11
    elif v12 >= v22:
        c, cost = 0.0, v22
    else:
        c = (v22 - v12) / (v11 + v22 - 2 * v12)
        cost = v22 + c * (v12 - v22)
    found = float(two_tasks(torch.from_numpy(g1), torch.from_numpy(g2)))
    assert found == pytest.approx(c, abs=1e-9)
    assert norm([found, 1 - found], torch.from_numpy(np.stack([g1, g2]))) ** 2 == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize(
    ("g1", "g2", "c"),
    [
        ((1, 0), (0, 1), 0.5),
        ((1, 0), (-3, 0), 0.75),  # opposite: the weights cancel them
        ((1, 1), (2, 2), 1),  # collinear: the shorter one
        ((0, 3), (0, 1), 0),
        ((0, 0), (1, 2), 1),  # a zero gradient is Pareto-stationary
        ((2, 1), (2, 1), 0.5),
        ((0, 0), (0, 0), 0.5),
    ],
)
def test_special_pairs(g1, g2, c):
    g = torch.tensor([g1, g2], dtype=torch.float64)
    assert float(two_tasks(g[0], g[1])) == pytest.approx(c)
    assert frank_wolfe(g @ g.T).numpy() == pytest.approx([c, 1 - c])


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(3, 5))
def test_frank_wolfe_reaches_the_minimum(seed, tasks):
    g = gradients(seed, tasks)
    c = frank_wolfe(g @ g.T, iterations=3000, tolerance=0.0).numpy()
    assert (c >= 0).all()
    assert c.sum() == pytest.approx(1)
    assert norm(c, g) <= exact(g) + 2e-3 * float(g.norm(dim=1).max())


@given(st.integers(0, 2**32 - 1))
def test_three_tasks_at_the_default_limits_beat_the_grid(seed):
    g = gradients(seed, 3, size=3)
    c = frank_wolfe(g @ g.T).numpy()
    grid = np.linspace(0, 1, 31)
    best = min(norm([x, y, 1 - x - y], g) for x, y in itertools.product(grid, grid) if x + y <= 1)
    assert norm(c, g) <= best + 1e-2 * float(g.norm(dim=1).max())


def test_frank_wolfe_leaves_the_best_pair_and_obeys_its_limits():
    gram = torch.eye(3, dtype=torch.float64)
    assert frank_wolfe(gram, iterations=0).numpy() == pytest.approx([0.5, 0.5, 0])
    assert frank_wolfe(gram, iterations=1).numpy() == pytest.approx([1 / 3] * 3)
    lopsided = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64))
    wanted = np.array([8, 4, 2, 1]) / 15  # inverse squared lengths
    assert frank_wolfe(lopsided, iterations=3000, tolerance=0.0).numpy() == pytest.approx(wanted, abs=1e-3)
    frozen = frank_wolfe(lopsided, tolerance=10.0)  # the first move is already small enough to be the last
    assert frozen.numpy() == pytest.approx(frank_wolfe(lopsided, iterations=1).numpy())
    assert frozen.numpy() == pytest.approx(np.array([4, 2, 1, 0]) / 7)
    assert frank_wolfe(torch.ones(1, 1)).tolist() == [1.0]
    assert frank_wolfe(torch.zeros(4, 4)).sum() == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_the_combination_descends_on_every_task(seed, tasks):
    g = gradients(seed, tasks, size=6)
    parts = [[task[:4].reshape(2, 2), task[4:]] for task in g]
    c = weights(parts)
    d = torch.cat([part.flatten() for part in combine(parts, c)])
    assert [tuple(part.shape) for part in combine(parts, c)] == [(2, 2), (2,)]
    torch.testing.assert_close(d, c @ g)
    tolerance = 1e-9 if tasks < 3 else 2e-2
    assert ((g @ d) >= d @ d - tolerance * float(g.norm(dim=1).max()) ** 2).all()


def test_normalisations_divide_before_solving():
    g1, g2, losses = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0]), [torch.tensor(2.0), torch.tensor(0.5)]
    tasks = [[g1], [g2]]
    # For orthogonal gradients of lengths a and b the weights are b² and a², up to their sum.
    for normalize, (a, b) in {"none": (1, 4), "l2": (1, 1), "loss": (0.5, 8), "loss+": (0.5, 2)}.items():
        wanted = torch.tensor([b * b, a * a]) / (a * a + b * b)
        torch.testing.assert_close(weights(tasks, normalize, losses), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(combine(tasks, torch.tensor([0.25, 0.75]))[0], torch.tensor([0.25, 3.0]))


def test_half_precision_gradients_are_solved_in_float32():
    tasks = [[torch.tensor([1.0, 3.0], dtype=torch.bfloat16)], [torch.tensor([2.0, -1.0], dtype=torch.bfloat16)]]
    found = weights(tasks)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weights([[g.double() for g in task] for task in tasks]).float())
    assert combine(tasks, found)[0].dtype == torch.bfloat16


def test_zero_gradients_give_finite_weights():
    zero = torch.zeros(3)
    for normalize in ("none", "l2"):
        found = weights([[zero], [zero], [zero]], normalize)
        assert found.sum() == pytest.approx(1)


def test_nothing_waits_for_the_device():
    g = torch.ones(6, device="meta")  # reading a value there raises
    assert two_tasks(g, g).shape == ()
    for tasks in (2, 3):
        losses = [g.sum()] * tasks
        assert weights([[g]] * tasks, "loss+", losses).shape == (tasks,)


@pytest.mark.parametrize(
    ("tasks", "normalize", "message"),
    [
        ([], "none", "same parameters"),
        ([[], []], "none", "same parameters"),
        ([[torch.ones(2)], [torch.ones(3)]], "none", "same parameters"),
        ([[torch.ones(2)]] * 2, "l1", "l2"),
        ([[torch.ones(2)]] * 2, "loss", "loss"),
    ],
)
def test_bad_input_is_named(tasks, normalize, message):
    with pytest.raises(UsageError, match=message):
        weights(tasks, normalize)
