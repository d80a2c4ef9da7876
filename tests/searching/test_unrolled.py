"""The unrolled gradient against a closed form and against differentiating through the virtual step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rnas_zoo.searching.unrolled import Outer, Virtual, unrolled


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True, materialize_grads=True)
    return [g.detach() for g in found]


def parameter(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


RATES = pytest.mark.parametrize("learning_rate", [0.3, torch.tensor(0.3, dtype=torch.float64)], ids=["float", "tensor"])


@RATES
@pytest.mark.parametrize("buffer", [None, (0.4, -2.0)])
def test_quadratic_problem_in_closed_form(learning_rate, buffer):
    # L_in = |w - B a|^2 / 2 and L_out = |w - t|^2 / 2 + c·a: then dw'/da = ξ B.
    b, t, c = np.array([[1.0, 2.0], [-3.0, 0.5]]), np.array([0.7, -1.0]), np.array([5.0, -6.0])
    w, a, rate, momentum, decay = np.array([1.5, -0.5]), np.array([0.2, 0.9]), 0.3, 0.9, 0.1
    after = w - rate * (momentum * np.array(buffer or (0, 0)) + (w - b @ a) + decay * w)
    weight, alpha = parameter(*w), parameter(*a)
    matrix, target, linear = (torch.from_numpy(x) for x in (b, t, c))
    virtual = Virtual(learning_rate, momentum, decay, [None if buffer is None else parameter(*buffer).detach()])
    (found,) = unrolled(
        [weight],
        [alpha],
        lambda: (weight - matrix @ alpha).square().sum() / 2,
        [lambda: (weight - target).square().sum() / 2 + linear @ alpha],
        virtual,
        gradients,
    )
    assert found.loss.item() == pytest.approx(((after - t) ** 2).sum() / 2 + c @ a, abs=1e-12)
    assert not found.loss.requires_grad
    np.testing.assert_allclose(found.first[0], c, atol=1e-12)
    np.testing.assert_allclose(found.correction[0], -b.T @ (after - t), atol=1e-9)
    np.testing.assert_allclose(found.full[0], c + rate * b.T @ (after - t), atol=1e-9)


class Problem:
    """A small mixed network: α weighs two activations of each hidden unit, and scales the output."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.weights = [(draw(*s) * 0.5).requires_grad_() for s in ((6, 3), (6,), (4, 6), (1,))]
        self.alphas = [draw(6, 2).requires_grad_(), draw(4).requires_grad_()]
        self.buffers = [draw(*w.shape) if i != 1 else None for i, w in enumerate(self.weights)]
        self.x, self.y = draw(3, 12, 3), torch.arange(12) % 4

    def loss(self, batch: int, weights: Sequence[Tensor] | None = None) -> Tensor:
        w1, b1, w2, _ = weights or self.weights  # the last weight has no part in the loss
        a1, a2 = self.alphas
        hidden = F.linear(self.x[batch], w1, b1)
        mixed = (torch.stack([hidden.tanh(), hidden.square()], -1) * a1.softmax(1)).sum(-1)
        return F.cross_entropy(F.linear(mixed, w2) * a2.sigmoid(), (self.y + batch) % 4)

    def virtual(self, learning_rate: float = 0.1) -> Virtual:
        return Virtual(learning_rate, 0.9, 0.02, self.buffers)

    def unrolled(self, outers: Sequence[Callable[[], Tensor]], **changes: float) -> list[Outer]:
        return unrolled(self.weights, self.alphas, lambda: self.loss(0), outers, self.virtual(**changes), gradients)

    def through_the_step(self, outer: Callable[[Sequence[Tensor]], Tensor]) -> list[Tensor]:
        """The derivative of the outer loss after a real, differentiable step of SGD."""
        v = self.virtual()
        inner = torch.autograd.grad(self.loss(0), self.weights, create_graph=True, materialize_grads=True)
        after = [
            w - v.learning_rate * (v.momentum * (0 if m is None else m) + g + v.weight_decay * w)
            for w, g, m in zip(self.weights, inner, self.buffers, strict=True)
        ]
        return list(torch.autograd.grad(outer(after), self.alphas))


def test_it_is_the_derivative_through_the_step():
    problem = Problem()
    found = problem.unrolled([lambda: problem.loss(1), lambda: 0.1 * problem.loss(2)])
    wanted = [problem.through_the_step(lambda w: problem.loss(1, w)),
              problem.through_the_step(lambda w: 0.1 * problem.loss(2, w))]  # fmt: skip
    for outer, reference in zip(found, wanted, strict=True):
        for full, first, exact in zip(outer.full, outer.first, reference, strict=True):
            assert (first - exact).norm() > 1e-3 * exact.norm()  # the correction matters here
            torch.testing.assert_close(full, exact, rtol=1e-5, atol=1e-7)


def test_the_virtual_step_is_that_of_torchs_sgd():
    problem, copies = Problem(), [w.detach().clone().requires_grad_() for w in Problem().weights]
    optimizer = torch.optim.SGD(copies, lr=0.1, momentum=0.9, weight_decay=0.02)
    for copy, buffer in zip(copies, problem.buffers, strict=True):
        if buffer is not None:
            optimizer.state[copy]["momentum_buffer"] = buffer.clone()
    for copy, g in zip(copies, gradients(problem.loss(0), problem.weights), strict=True):
        copy.grad = g
    optimizer.step()
    seen: list[list[Tensor]] = []

    def outer() -> Tensor:
        seen.append([w.detach().clone() for w in problem.weights])
        return problem.loss(1)

    problem.unrolled([outer, outer])
    for values in seen:
        torch.testing.assert_close(values, [copy.detach() for copy in copies], rtol=1e-12, atol=1e-14)
    assert len(seen) == 2


def test_the_correction_is_linear_in_the_outer_loss():
    problem = Problem()
    first, second, both = problem.unrolled(
        [lambda: problem.loss(1), lambda: problem.loss(2), lambda: 3 * problem.loss(1) - 0.5 * problem.loss(2)]
    )
    for a, b, c in zip(first.correction, second.correction, both.correction, strict=True):
        torch.testing.assert_close(c, 3 * a - 0.5 * b, rtol=1e-4, atol=1e-7)
    tiny, huge = problem.unrolled([lambda: 1e-8 * problem.loss(1), lambda: 1e8 * problem.loss(1)])
    for a, s, l in zip(first.correction, tiny.correction, huge.correction, strict=True):  # noqa: E741
        torch.testing.assert_close(s * 1e8, a)  # R follows the length of v
        torch.testing.assert_close(l * 1e-8, a)


def test_a_step_of_length_zero_is_first_order():
    problem = Problem()
    (found,) = problem.unrolled([lambda: problem.loss(1)], learning_rate=0.0)
    torch.testing.assert_close(found.full, gradients(problem.loss(1), problem.alphas), rtol=1e-12, atol=0)


def test_an_outer_loss_without_weights_has_no_correction():
    problem = Problem()
    (found,) = problem.unrolled([lambda: problem.alphas[0].square().sum()])
    torch.testing.assert_close(found.first[0], 2 * problem.alphas[0].detach())
    assert all(torch.equal(c, torch.zeros_like(c)) for c in found.correction)
    assert problem.unrolled([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("failing", [None, 0, 1, 2, 3, 4])
def test_weights_are_restored_to_the_last_bit(dtype, failing):
    problem = Problem(dtype)
    before = [w.detach().clone() for w in problem.weights]
    objects, calls = list(problem.weights), iter(range(99))

    def counted(batch: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            if next(calls) == failing:
                raise RuntimeError("out of memory")
            return problem.loss(batch)

        return loss

    arguments = (problem.weights, problem.alphas, counted(0), [counted(1), counted(2)], problem.virtual(), gradients)
    if failing is None:
        unrolled(*arguments)
        assert next(calls) == 7  # a loss once inside, twice outside, and two differences each
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            unrolled(*arguments)
    for weight, value, original in zip(problem.weights, before, objects, strict=True):
        assert torch.equal(weight, value)
        assert weight is original
        assert weight.requires_grad
        assert weight.grad is None


def test_autocast_does_not_keep_stale_weights():
    problem = Problem(torch.float32)
    seen: list[Tensor] = []

    def outer() -> Tensor:
        seen.append(F.linear(problem.x[1], problem.weights[0]).detach())
        return problem.loss(1)

    with torch.autocast("cpu", torch.bfloat16):
        before = F.linear(problem.x[1], problem.weights[0]).detach()
        problem.unrolled([outer], learning_rate=5.0)
        after = F.linear(problem.x[1], problem.weights[0]).detach()
    assert not torch.equal(seen[0], before)
    assert torch.equal(after, before)


def test_nothing_waits_for_the_device():
    def meta(*shape: int) -> Tensor:
        return torch.zeros(shape, device="meta")  # reading a value there raises

    w, a, rate = meta(3, 2).requires_grad_(), meta(2).requires_grad_(), meta()
    (found,) = unrolled(
        [w], [a], lambda: (w @ a).sum(), [lambda: (w * a).sum()], Virtual(rate, 0.9, 0.1, [meta(3, 2)]), gradients
    )
    assert found.full[0].shape == (2,)
