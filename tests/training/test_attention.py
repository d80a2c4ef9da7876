"""Attention transfer against definitions written out naively, and taps against what modules return."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rnas_zoo  # noqa: F401  (registers the models)
from rnas_zoo.errors import UsageError
from rnas_zoo.training.attention import Taps, attention_loss, attention_map, distillation_kl, tutor_layers

from ..strategies import reproducible


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Backwards(nn.Module):
    """Defines its layers in another order than it runs them; one runs twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.twice = nn.Conv2d(4, 4, 5, padding=2)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.alias = self.first
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.drop(self.first(x)))
        return self.last(self.twice(self.twice(x)).relu_())


# Taps


def test_taps_record_what_modules_return_and_leave_nothing_behind():
    net = Backwards().eval()
    x = normal(2, 3, 6, 6)
    with torch.no_grad(), Taps(net, ["last", "first", "twice"], torch.clone) as taps:
        out = net(x)
    with torch.no_grad():
        first = net.first(x)
        twice = net.twice(net.twice(net.pointwise(first)))
    last, recorded_first, recorded_twice = taps.outputs
    assert torch.equal(last, out)
    assert torch.equal(recorded_first, first)
    assert torch.equal(recorded_twice, twice)
    assert (twice < 0).any()  # the in-place ReLU behind it did not reach the record
    assert taps.order == ["first", "twice", "last"]
    assert not any(module._forward_hooks for module in net.modules())
    net(normal(1, 3, 6, 6))
    assert torch.equal(taps.outputs[0], out)


def test_a_module_is_recorded_once_per_run_under_all_its_names():
    net, seen = Backwards(), []
    taps = Taps(net, ["first", "alias"], lambda output: seen.append(output) or output.sum())
    with taps, taps:
        net(normal(1, 3, 5, 5))
        assert len(seen) == 1
    assert not net.first._forward_hooks
    assert taps.outputs[0] is taps.outputs[1]
    with taps:
        pass
    with pytest.raises(UsageError, match="nothing was recorded of 'first'"):
        taps.outputs


def test_taps_are_removed_after_an_error_and_keep_the_graph():
    net = Backwards()
    taps = Taps(net, ["first"])
    with pytest.raises(RuntimeError), taps:
        net(normal(1, 2, 5, 5))
    assert not net.first._forward_hooks
    with taps:
        net(normal(1, 3, 5, 5))
    taps.outputs[0].sum().backward()
    assert net.first.weight.grad.abs().sum() > 0


def test_modules_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match=r"Backwards has no module 'frist'\. Did you mean first"):
        Taps(Backwards(), ["frist"])


# Tutors


def test_tutors_of_wrn_34_10_are_its_31_wide_convolutions():
    with torch.device("meta"):
        teacher = timm.create_model("rnas_wrn34_10")
    expected = ["conv1", *(f"stages.{i}.{j}.conv{k}" for i in range(3) for j in range(5) for k in (1, 2))]
    assert len(expected) == 31
    assert tutor_layers(teacher) == expected


def test_tutors_come_in_the_order_in_which_they_run_and_the_teacher_stays_as_it_was():
    teacher = Backwards().train()
    teacher.drop.eval()
    assert tutor_layers(teacher, (7, 9)) == ["first", "twice", "last"]
    assert teacher.training
    assert teacher.first.training
    assert not teacher.drop.training


def test_a_network_without_wide_convolutions_is_no_teacher():
    with pytest.raises(UsageError, match="Sequential has no convolution larger than 1x1"):
        tutor_layers(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()))


# Maps


def naive_map(x: np.ndarray, grid: int) -> np.ndarray:
    """Σ_c A² at the centres of a finer or coarser grid, by bilinear interpolation with clamped borders."""
    _, height, width = x.shape
    energy = (x.astype(np.float64) ** 2).sum(0)
    out = np.zeros((grid, grid))
    for a in range(grid):
        for b in range(grid):
            v = min(max((a + 0.5) * height / grid - 0.5, 0), height - 1)
            u = min(max((b + 0.5) * width / grid - 0.5, 0), width - 1)
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    share = max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
                    out[a, b] += share * energy[min(i, height - 1), min(j, width - 1)]
    return out.ravel()


@reproducible(30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    grid=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_maps_equal_the_definition(shape, grid, seed):
    x = normal(*shape, seed=seed)
    raw = np.stack([naive_map(image, grid) for image in x.numpy()])
    np.testing.assert_allclose(
        attention_map(x, grid).numpy(), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=2e-6
    )
    np.testing.assert_allclose(attention_map(x, grid, "repo").numpy(), raw / np.linalg.norm(raw), atol=2e-6)


def test_silent_layers_have_zero_maps_and_finite_gradients():
    x = torch.zeros(2, 3, 4, 4)
    x[1] = normal(3, 4, 4)
    x.requires_grad_()
    for reading in ("paper", "repo"):
        mapped = attention_map(x, 5, reading)
        assert torch.equal(mapped[0], torch.zeros(25))
        loss = attention_loss([mapped], [torch.zeros(2, 25)], torch.ones(1, 1), reading)
        (gradient,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(gradient).all()


# The loss


def naive_loss(students: np.ndarray, teachers: np.ndarray, weights: np.ndarray, reading: str) -> float:
    total = 0.0
    for i, student in enumerate(students):
        if reading == "paper":
            for j, teacher in enumerate(teachers):
                for a, b in zip(student, teacher, strict=True):
                    total += weights[i, j] * ((a - b) ** 2).sum() / len(student) / len(students)
        else:
            weighted = [weights[i, j] * (teacher - student) for j, teacher in enumerate(teachers)]
            total += np.sqrt((np.array(weighted) ** 2).sum())
    return total


@reproducible(30)
@given(
    counts=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    reading=st.sampled_from(["paper", "repo"]),
    seed=st.integers(0, 99),
)
def test_the_loss_equals_its_double_sum(counts, reading, seed):
    n_s, n_t, n = counts
    students = [attention_map(normal(n, 2, 4, 4, seed=seed + i), 3, reading) for i in range(n_s)]
    teachers = [attention_map(normal(n, 3, 6, 6, seed=seed + 50 + i), 3, reading) for i in range(n_t)]
    students[0][0] = 0
    weights = normal(n_s, n_t, seed=seed).softmax(1)
    found = attention_loss(students, teachers, weights, reading).item()
    expected = naive_loss(
        torch.stack(students).double().numpy(), torch.stack(teachers).double().numpy(), weights.numpy(), reading
    )
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("reading", ["paper", "repo"])
def test_a_student_that_looks_where_its_tutors_look_has_no_loss(reading):
    x = normal(3, 4, 6, 6)
    same = attention_map(-7 * x.flip(1), 6, reading)  # neither scale, sign nor order of the channels matters
    other = attention_map(normal(3, 4, 6, 6, seed=1), 6, reading)
    weights = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = attention_loss([attention_map(x, 6, reading)], [other, same], weights, reading)
    assert loss.item() == pytest.approx(0, abs=2e-3 if reading == "repo" else 1e-6)
    (gradient,) = torch.autograd.grad(attention_loss([same], [other, same], weights + 0.1, reading), weights)
    assert gradient[0, 0] > gradient[0, 1]


def test_lower_precision_around_them_does_not_reach_the_maps():
    x, t = normal(2, 8, 4, 4), normal(2, 8, 4, 4, seed=1)
    plain = attention_loss([attention_map(x, 4)], [attention_map(t, 4)], torch.ones(1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attention_loss([attention_map(x, 4)], [attention_map(t, 4)], torch.ones(1, 1))
    assert mixed.dtype == torch.float32
    assert mixed == plain


def test_shapes_and_readings_that_do_not_fit_are_refused():
    maps = [torch.zeros(1, 4)] * 2
    with pytest.raises(UsageError, match=r"2 student and 1 teacher maps need weights of that shape, got \(1, 2\)"):
        attention_loss(maps, maps[:1], torch.ones(1, 2))
    for call in (
        lambda: attention_loss(maps, maps, torch.ones(2, 2), "code"),
        lambda: attention_map(maps[0], 2, "code"),
    ):
        with pytest.raises(UsageError, match=r"unknown reading 'code' .* paper, repo"):
            call()


# Distillation


def test_the_distillation_term_is_the_kl_divergence_of_two_categoricals():
    teacher, student = normal(5, 7), normal(5, 7, seed=1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher), torch.distributions.Categorical(logits=student)
    ).mean()
    torch.testing.assert_close(distillation_kl(teacher, student), expected)
    assert distillation_kl(teacher, teacher + 3).item() == pytest.approx(0, abs=1e-6)


def test_the_distillation_term_stays_exact_for_extreme_logits():
    teacher, student = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert distillation_kl(teacher, student).item() == pytest.approx(1e4)
