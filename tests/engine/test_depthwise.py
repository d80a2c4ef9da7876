"""Depthwise separable convolutions beside the same thing composed of plain convolutions and autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rnas_zoo.engine.depthwise import separable


@dataclass(frozen=True)
class Problem:
    """Sizes of one call; `kernels` are (side, dilation) of each convolution."""

    n: int = 2
    chs: int = 3
    height: int = 8
    width: int = 8
    kernels: tuple[tuple[int, int], ...] = ((3, 1), (5, 1), (3, 2), (5, 2))
    stride: int = 1
    copies: int = 1
    groups: int = 1
    bias: bool = False
    channels_last: bool = True
    seed: int = 0

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

        wide = self.chs * self.copies
        x = draw(self.n, self.chs, self.height, self.width)
        if self.channels_last:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        depthwise = [draw(wide, 1, side, side) for side, _ in self.kernels]
        pointwise = [draw(wide, wide // self.groups, 1, 1) for _ in self.kernels]
        return x, depthwise, pointwise, [draw(wide) for _ in self.kernels] if self.bias else []

    def fast(self, x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], biases: Sequence[Tensor]):
        dilations = [dilation for _, dilation in self.kernels]
        return separable(
            x, depthwise, pointwise, biases or None, stride=self.stride, dilations=dilations, copies=self.copies
        )

    def plain(self, x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], biases: Sequence[Tensor]):
        found, repeated = [], torch.cat([x] * self.copies, dim=1)
        for i, (side, dilation) in enumerate(self.kernels):
            padding, chs = dilation * (side - 1) // 2, repeated.shape[1]
            middle = F.conv2d(repeated, depthwise[i], None, self.stride, padding, dilation, groups=chs)
            found.append(F.conv2d(middle, pointwise[i], biases[i] if biases else None, groups=self.groups))
        return found

    def results(self, call, tensors, seed: int = 1) -> tuple[list[Tensor], list[Tensor | None]]:
        """Outputs, and the gradients of a random linear function of them by every tensor that requires one."""
        outputs = call(*tensors)
        generator = torch.Generator().manual_seed(seed)
        signals = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
        flat = [tensors[0], *tensors[1], *tensors[2], *tensors[3]]
        wanted = [one for one in flat if one.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(outputs, wanted, signals), strict=True))
        return [y.detach() for y in outputs], [found.get(id(one)) for one in flat]


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-300))


def assert_same(problem: Problem, dtype: torch.dtype, tolerance: float) -> None:
    """Outputs and all gradients against the plain composition in float64."""
    tensors = problem.tensors(dtype)
    exact = tuple(
        one.detach().double().requires_grad_()
        if isinstance(one, Tensor)
        else [t.detach().double().requires_grad_() for t in one]
        for one in tensors
    )
    outputs, gradients = problem.results(problem.fast, tensors)
    expected, of_expected = problem.results(problem.plain, exact)
    assert [y.dtype for y in outputs] == [dtype] * len(expected)
    for found, wanted in zip([*outputs, *gradients], [*expected, *of_expected], strict=True):
        assert difference(found, wanted) <= tolerance


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    chs, copies = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kernel = st.tuples(st.sampled_from((1, 3, 5, 7)), st.integers(1, 3))
    return Problem(
        n=draw(st.integers(1, 3)),
        chs=chs,
        height=draw(st.integers(1, 11)),
        width=draw(st.integers(1, 11)),
        kernels=tuple(draw(st.lists(kernel, min_size=1, max_size=3))),
        stride=draw(st.integers(1, 3)),
        copies=copies,
        groups=draw(st.sampled_from([g for g in range(1, chs * copies + 1) if chs * copies % g == 0])),
        bias=draw(st.booleans()),
        channels_last=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@given(problems())
def test_outputs_and_gradients_are_those_of_plain_convolutions(problem):
    assert_same(problem, torch.float64, 1e-12)


@given(problems())
def test_in_float32_they_agree_to_rounding(problem):
    assert_same(problem, torch.float32, 2e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(16, 16), (15, 12), (2, 2)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_four_convolutions_of_a_supernet_state(stride, size, channels_last):
    """Wide enough for the CPU's blocked kernels, in both precisions."""
    sizes = {"height": size[0], "width": size[1], "chs": 16, "copies": 2, "groups": 2}
    problem = Problem(stride=stride, channels_last=channels_last, bias=True, **sizes)
    assert_same(problem, torch.float64, 1e-12)
    assert_same(problem, torch.float32, 2e-5)


@pytest.mark.parametrize("frozen", ["x", "depthwise", "pointwise", "biases"])
def test_the_frozen_get_no_gradient_and_the_others_theirs(frozen):
    problem = Problem(copies=2, groups=2, bias=True)
    tensors = problem.tensors()
    _, full = problem.results(problem.fast, tensors)
    names = ["x"] + [name for name in ("depthwise", "pointwise", "biases") for _ in problem.kernels]
    still = {"x": [tensors[0]], "depthwise": tensors[1], "pointwise": tensors[2], "biases": tensors[3]}[frozen]
    for one in still:
        one.requires_grad_(False)
    _, gradients = problem.results(problem.fast, tensors)
    for name, found, wanted in zip(names, gradients, full, strict=True):
        if name == frozen:
            assert found is None
        else:
            assert torch.equal(found, wanted)


def kept(problem: Problem, trainable: bool) -> list[torch.Size]:
    """Shapes of what is saved for the gradients."""
    tensors = problem.tensors()
    for kernel in [*tensors[1], *tensors[2], *tensors[3]]:
        kernel.requires_grad_(trainable)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: shapes.append(one.shape) or one, lambda one: one):
        outputs = problem.fast(*tensors)
    assert all(y.requires_grad for y in outputs)
    return shapes


def test_only_the_input_is_kept_for_the_gradients():
    problem = Problem(copies=3, groups=3)
    images = [shape for shape in kept(problem, trainable=True) if shape[0] == problem.n]
    assert images == [(2, 3, 8, 8)]
    assert [shape for shape in kept(problem, trainable=False) if shape[0] == problem.n] == []


def test_gradients_are_once_differentiable():
    problem = Problem()
    tensors = problem.tensors()
    (gradient,) = torch.autograd.grad(problem.fast(*tensors)[0].square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("half_input", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_computes_in_bfloat16_and_gradients_keep_the_parameters_precision(half_input, stride):
    problem = Problem(chs=8, copies=2, groups=2, stride=stride, bias=True)
    tensors = problem.tensors(torch.float32)
    expected, of_expected = problem.results(problem.fast, tensors)
    if half_input:
        tensors = (tensors[0].detach().bfloat16().requires_grad_(), *tensors[1:])

    def cast(*tensors):
        with torch.autocast("cpu", torch.bfloat16):
            return problem.fast(*tensors)

    outputs, gradients = problem.results(cast, tensors)
    assert {y.dtype for y in outputs} == {torch.bfloat16}
    assert [g.dtype for g in gradients] == [torch.bfloat16 if half_input else torch.float32, *[torch.float32] * 12]
    for found, wanted in zip([*outputs, *gradients], [*expected, *of_expected], strict=True):
        assert difference(found, wanted) < 0.03


def test_autocast_leaves_float64_alone():
    problem = Problem()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, gradients = problem.results(problem.fast, problem.tensors())
    expected, of_expected = problem.results(problem.plain, problem.tensors())
    for found, wanted in zip([*outputs, *gradients], [*expected, *of_expected], strict=True):
        assert found.dtype == torch.float64
        assert difference(found, wanted) <= 1e-12
