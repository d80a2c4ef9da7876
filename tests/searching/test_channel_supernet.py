"""The channel supernet: masks, draws and costs by their definition, and extracted students that compute the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from rnas_zoo.attacks import Keys
from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import Channels, Genotype, Stage
from rnas_zoo.models.rnas_students import ConvBN
from rnas_zoo.models.size import count_macs, count_parameters
from rnas_zoo.searching.channel_supernet import ChannelSupernet
from rnas_zoo.training.attention import Taps

from ..strategies import reproducible

SMALL: dict[str, Any] = {
    "num_classes": 3, "depths": (2, 2), "stem": 4, "widths": ((4, 3), (8, 6, 4)), "strides": (1, 2),
    "expansion": 2, "tutors": 5, "image_size": (16, 16),
}  # fmt: skip


def supernet(seed: int = 0, **changes: Any) -> ChannelSupernet:
    """A small supernet in double precision with arbitrary batch norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ChannelSupernet(**{**SMALL, **changes}).double()
    for name, tensor in net.student.state_dict().items():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator) * (1 if "var" in name else -1.2))
    return net


def images(n: int = 2, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def keys(first: int = 0, seed: int = 0, n: int = 4) -> Keys:
    return Keys(seed, torch.arange(first, first + n))


def prefer(net: ChannelSupernet, structure: Channels) -> None:
    """Make a structure the one of the largest θ."""
    with torch.no_grad():
        for i, stage in enumerate(structure.stages):
            for j, width in enumerate(stage.widths):
                net.alphas[f"stage{i}"][j, net.widths[i].index(width)] += 1
        for i, tutor in enumerate(structure.tutors or ()):
            net.alphas["tutors"][i, tutor] += 1


# Sizes and parameters


@pytest.mark.parametrize(
    ("depth", "parameters", "convolutions"), [(3, 183_194, 28), (5, 333_050, 46), (7, 482_906, 64)]
)
def test_the_widest_students_and_their_convolutions_are_those_of_the_paper(depth, parameters, convolutions):
    with torch.device("meta"):
        net = ChannelSupernet(10, (depth,) * 3)
        assert sum(p.numel() for p in net.weight_parameters()) == parameters
        assert net.alphas["tutors"].shape == (convolutions, 31)
        assert [net.alphas[f"stage{i}"].shape for i in range(3)] == [(depth, 2), (depth, 4), (depth, 4)]
        assert len(net.features(torch.zeros(1, 3, 32, 32))[1]) == convolutions


def test_parameters_are_weights_or_architecture_and_never_both():
    net = ChannelSupernet(10)
    weights, alphas = [id(p) for p in net.weight_parameters()], [id(p) for p in net.arch_parameters()]
    assert len(alphas) == 4
    assert sorted(weights + alphas) == sorted(id(p) for p in net.parameters())
    assert {id(p) for p in net.alphas.values()} == set(alphas)
    for theta in net.arch_parameters():
        assert torch.equal(theta, torch.full_like(theta, 1 / theta.shape[1]))


def test_batch_norms_have_the_momentum_asked_for():
    net = ChannelSupernet(**SMALL, bn_momentum=0.02)
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.02}


# Draws


def test_soft_choices_are_the_softmax_of_noisy_parameters():
    net = supernet().train()
    net.draw(keys())
    net.temperature.fill_(0.7)
    with torch.no_grad():
        net.alphas["tutors"].normal_(generator=torch.Generator().manual_seed(0))
    noisy = (net.alphas["tutors"] + net.noise_tutors).detach().numpy() / 0.7
    expected = np.exp(noisy) / np.exp(noisy).sum(1, keepdims=True)
    np.testing.assert_allclose(net.tutor_weights().detach().numpy(), expected, rtol=1e-6)
    net.temperature.fill_(1e-4)
    assert torch.equal(net.tutor_weights().argmax(1), torch.from_numpy(noisy.argmax(1)))
    torch.testing.assert_close(net.tutor_weights().amax(1), torch.ones(13, dtype=torch.float64))


def test_draws_depend_on_the_seed_and_the_first_position_alone():
    net = supernet().train()

    def drawn(*arguments: int) -> list[Tensor]:
        net.draw(keys(*arguments))
        return [m.detach() for m in (*net.width_weights(), net.tutor_weights())]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = drawn(12)
        assert torch.equal(torch.get_rng_state(), state)
    for a, b, position, seed in zip(first, drawn(12, 0, 9), drawn(13), drawn(12, 1), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, position)
        assert not torch.equal(a, seed)
    net.draw(keys(12))
    with torch.no_grad():
        assert torch.equal(net.eval()(images()), supernet().eval()(images()))  # evaluation knows no noise
        again = net.train().tutor_weights()
    assert torch.equal(again, first[-1])


def test_noise_has_the_standard_gumbel_distribution():
    net = ChannelSupernet(**{**SMALL, "tutors": 400})
    net.draw(keys())
    noise = net.noise_tutors.flatten().numpy()
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 0.01
    everything = np.concatenate([noise, net.noise_stage0.flatten(), net.noise_stage1.flatten()])
    assert len(np.unique(everything)) > 0.99 * len(everything)  # no draw is used for two parameters


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
def test_noise_is_finite_at_both_ends_of_the_uniform_draws(value, monkeypatch):
    module = "rnas_zoo.searching.channel_supernet.uniform"
    monkeypatch.setattr(module, lambda shape, **_: torch.full((1, *shape), value))
    net = supernet().train()
    net.draw(keys())
    assert torch.isfinite(net.noise_tutors).all()
    assert torch.isfinite(net(images())).all()


def test_before_any_draw_and_in_evaluation_choices_are_the_argmax():
    net = supernet().train()
    prefer(net, Channels(4, 2, (Stage((3, 4), 1), Stage((4, 6), 2)), 2, tuple(i % 5 for i in range(13))))
    for mode in (True, False):
        net.train(mode)
        assert [m.tolist() for m in net.width_weights()] == [[[0, 1], [1, 0]], [[0, 0, 1], [0, 1, 0]]]
        assert torch.equal(net.tutor_weights(), F.one_hot(torch.arange(13) % 5).double())


# Masked forward passes


def naive_features(net: ChannelSupernet, x: Tensor, choices: list[np.ndarray]) -> tuple[Tensor, list[Tensor]]:
    """Logits and maps of the masked network in evaluation mode by its definition, channel by channel."""
    tensors = iter(tensor.double() for tensor in net.student.state_dict().values())

    def conv_bn(x: Tensor, stride: int = 1, depthwise: bool = False, act: bool = True) -> Tensor:
        weight, bias, scale, shift, mean, variance, _ = (next(tensors) for _ in range(7))
        x = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=x.shape[1] if depthwise else 1)
        view = (1, -1, 1, 1)
        x = (x - mean.view(view)) / (variance.view(view) + 1e-5).sqrt() * scale.view(view) + shift.view(view)
        return x * (x + 3).clamp(0, 6) / 6 if act else x

    def share(widths: tuple[int, ...], m: np.ndarray, channel: int) -> float:
        return sum(weight for width, weight in zip(widths, m, strict=True) if channel < width)

    x = conv_bn(x, net.widest.stem_stride)
    maps, before, m_before = [x], (x.shape[1],), np.ones(1)
    for stage, widths, rows in zip(net.widest.stages, net.widths, choices, strict=True):
        for j, m in enumerate(rows):
            stride = stage.stride if j == 0 else 1
            inner, e = x.shape[1], net.widest.expansion
            mid = torch.tensor([share(before, m_before, k // e) for k in range(e * inner)]).view(1, -1, 1, 1)
            expanded = conv_bn(x) * mid
            spread = conv_bn(expanded, stride, depthwise=True) * mid
            mask = [share(widths, m, c) for c in range(widths[0])]
            y = conv_bn(spread, act=False) * torch.tensor(mask).view(1, -1, 1, 1)
            maps += [expanded, spread, y]
            out = y.clone()
            if stride == 1:
                entered, left = (dict(zip(w, p, strict=True)) for w, p in ((before, m_before), (widths, m)))
                same = sum(entered[width] * left[width] for width in entered if width in left)
                kept = same / math.sqrt((m_before**2).sum() * (m**2).sum())
                for c in range(min(inner, widths[0])):
                    out[:, c] += kept * mask[c] * x[:, c]
            x, before, m_before = out, widths, m
    weight, bias = next(tensors), next(tensors)
    assert next(tensors, None) is None
    return x.mean((2, 3)) @ weight.T + bias, maps


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strides": (1, 1)},
        {"strides": (2, 1), "widths": ((4, 3, 1), (4, 3))},
        {"strides": (1, 1), "widths": ((6, 4), (8, 6))},
        {"stem": 6, "widths": ((4, 2), (8, 6))},
    ],
)
def test_soft_forwards_equal_the_definition(changes):
    net = supernet(**changes)
    for module in net.student.modules():
        module.training = False  # running statistics, but sampled choices
    net.draw(keys())
    net.temperature.fill_(1.0)
    choices = [m.detach().numpy() for m in net.width_weights()]
    assert all(0 < weight < 1 for m in choices for weight in m.ravel())
    with torch.no_grad():
        logits, maps = net.features(images())
        expected, expected_maps = naive_features(net, images(), choices)
        assert torch.equal(net(images()), logits)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_equal_soft_choices_keep_the_whole_residual():
    net = ChannelSupernet(3, (5,), stem=4, widths=((4, 3),), strides=(1,), tutors=2).train()
    net.drawn = True  # without noise all choices are uniform, and blocks with a residual add nothing yet
    reached = []
    net.student.head.register_forward_pre_hook(lambda module, inputs: reached.append(inputs[0]))
    x = images().float()
    with torch.no_grad():
        net(x)
        mask = torch.tensor([1, 1, 1, 0.5]).view(1, 4, 1, 1)
        expected = net.student.stem(x) * mask**5 / math.sqrt(2)  # the stem has one width, the first block a mixture
    torch.testing.assert_close(reached[0], expected)


def test_gradients_reach_weights_and_architecture():
    net = supernet().train()
    net.draw(keys())
    (net(images(4)).square().mean() + net.tutor_weights().square().sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    for theta in net.arch_parameters():
        assert theta.grad.abs().max() > 0
        torch.testing.assert_close(theta.grad.sum(1), torch.zeros(len(theta), dtype=torch.float64), atol=1e-9, rtol=0)


# Extraction


@st.composite
def spaces(draw: st.DrawFn) -> tuple[dict[str, Any], Channels]:
    """A supernet's arguments and a structure it can choose."""
    n = draw(st.integers(1, 3))
    widths = draw(st.lists(st.sets(st.integers(1, 6), min_size=1, max_size=3), min_size=n, max_size=n))
    options = [sorted(choice, reverse=True) for choice in widths]
    strides = draw(st.lists(st.sampled_from([1, 2]), min_size=n, max_size=n))
    chosen = [draw(st.lists(st.sampled_from(list(choice)), min_size=1, max_size=3)) for choice in options]
    stem, stem_stride, expansion = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    tutors = draw(st.lists(st.integers(0, 4), min_size=(k := 1 + 3 * sum(map(len, chosen))), max_size=k))
    arguments = {
        "depths": [len(c) for c in chosen], "widths": options, "strides": strides, "stem": stem,
        "stem_stride": stem_stride, "expansion": expansion,
    }  # fmt: skip
    stages = tuple(Stage(tuple(c), stride) for c, stride in zip(chosen, strides, strict=True))
    return arguments, Channels(stem, stem_stride, stages, expansion, tuple(tutors))


@reproducible(60)
@given(space=spaces(), seed=st.integers(0, 99))
def test_extracted_students_are_the_masked_network(space, seed):
    arguments, structure = space
    net = supernet(seed, **arguments, image_size=(9, 11)).eval()
    prefer(net, structure)
    assert net.derive() == structure
    student = net.extract(net.derive()).double()
    assert student.genotype.structure == structure
    x = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = [name for name, module in student.named_modules() if isinstance(module, ConvBN)]
    with torch.no_grad(), Taps(student, parts) as taps:
        expected = student(x)
        logits, maps = net.features(x)
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=1e-5)
    assert len(maps) == len(taps.outputs) == len(structure.tutors)
    for masked, compact in zip(maps, taps.outputs, strict=True):
        torch.testing.assert_close(masked[:, : compact.shape[1]], compact, rtol=1e-4, atol=1e-4)
        assert masked[:, compact.shape[1] :].abs().sum() == 0
    assert net.expected_macs().item() == count_macs(student.float(), (3, 9, 11))


def test_the_published_s3_lies_in_the_default_supernet():
    net = ChannelSupernet(10).eval()
    student = net.extract(Channels(16, 2, (Stage((12,) * 3, 1), Stage((20,) * 3, 2), Stage((52,) * 3, 2)), 6))
    assert count_parameters(student) == 112_790
    assert not student.training
    assert net.train().extract(net.derive()).training


def test_equal_parameters_derive_the_widest_student_and_the_first_tutor():
    net = supernet()
    assert net.derive() == Channels(4, 2, (Stage((4, 4), 1), Stage((8, 8), 2)), 2, (0,) * 13)


@pytest.mark.parametrize(
    "structure",
    [
        Channels(4, 2, (Stage((4, 4), 1), Stage((8, 5), 2)), 2),
        Channels(4, 2, (Stage((4, 4), 1), Stage((8,), 2)), 2),
        Channels(4, 2, (Stage((4, 4), 1),), 2),
        Channels(4, 2, (Stage((4, 4), 2), Stage((8, 8), 2)), 2),
        Channels(4, 1, (Stage((4, 4), 1), Stage((8, 8), 2)), 2),
        Channels(5, 2, (Stage((4, 4), 1), Stage((8, 8), 2)), 2),
        Channels(4, 2, (Stage((4, 4), 1), Stage((8, 8), 2)), 6),
    ],
)
def test_students_outside_the_supernet_are_refused(structure):
    with pytest.raises(UsageError, match=r"'mine' lies outside this supernet of stem 4, stride 2, .* \(8, 6, 4\)"):
        supernet().extract(Genotype("mine", structure))


# Cost


def test_soft_macs_are_those_of_the_effective_widths():
    net = supernet().train()
    net.draw(keys())
    choices = [m.detach().numpy() for m in net.width_weights()]
    widths = [m @ np.array(options) for m, options in zip(choices, net.widths, strict=True)]
    expected, c, side = 64 * 27 * 4, 4.0, 8
    for stage, stride in zip(widths, (1, 2), strict=True):
        for j, w in enumerate(stage):
            expected += side**2 * c * (2 * c)
            side //= stride if j == 0 else 1
            expected += side**2 * (9 * (2 * c) + (2 * c) * w)
            c = w
    assert net.expected_macs().item() == pytest.approx(expected + 3 * c, rel=1e-6)


def test_lower_precision_reaches_the_activations_but_not_the_choices():
    net = supernet().float().train()
    net.draw(keys())
    logits, macs = net(images(4).float()), net.expected_macs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, maps = net.features(images(4).float())
        assert torch.equal(net.expected_macs(), macs)
    assert {a.dtype for a in maps} == {torch.bfloat16}
    assert (low.float() - logits).norm() < 0.1 * logits.norm()


def test_the_cost_pulls_towards_narrow_blocks():
    net = supernet().train()
    net.draw(keys())
    net.expected_macs().log().backward()
    for i in range(2):
        gradient = net.alphas[f"stage{i}"].grad
        assert (gradient[:, 0] > 0).all()
        assert (gradient[:, -1] < 0).all()
    assert net.alphas["tutors"].grad is None
    theta = net.alphas["stage0"]
    step, saved = 1e-5, theta.detach().clone()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            theta.copy_(saved)
            theta[1, 0] += sign * step
            values.append(net.expected_macs().log().item())
    assert theta.grad[1, 0].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


# Errors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": (2,)}, "needs one per stage: 1 depths, 2 width lists, 2 strides"),
        ({"depths": (), "widths": (), "strides": ()}, "one per stage"),
        ({"widths": ((3, 4), (8, 6))}, r"fall from the widest on, got \(3, 4\)"),
        ({"widths": ((4, 4), (8, 6))}, "fall from the widest on"),
        ({"widths": ((), (8, 6))}, "fall from the widest on"),
        ({"widths": ((4, 0), (8, 6))}, "at least 1"),
        ({"depths": (2, 0)}, "at least 1"),
        ({"tutors": 0}, "at least 1"),
        ({"expansion": 0}, "at least 1"),
        ({"image_size": (0, 16)}, "at least 1"),
        ({"strides": (1, 3)}, "strides 1 or 2"),
        ({"stem_stride": 4}, "strides 1 or 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        ChannelSupernet(**{**SMALL, **changes})
