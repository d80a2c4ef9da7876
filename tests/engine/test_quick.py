"""Quick layers beside plain ones: the same logits, gradients and statistics, and nothing else of a network changed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.engine.quick import QuickDepthwise, SharedReLU, plain, quicken

from .networks import NETWORKS, images, network


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    largest = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


def quick_layers(net: nn.Module) -> dict[type, int]:
    return {kind: sum(type(m) is kind for m in net.modules()) for kind in (QuickDepthwise, SharedReLU)}


def learned(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, input gradient, weight gradients and state after one training step's forward and backward pass."""
    x = x.clone().requires_grad_()
    logits = net(x)
    F.cross_entropy(logits, torch.arange(len(x)) % 10).backward()
    return logits, x.grad, {name: p.grad for name, p in net.named_parameters()}, net.state_dict()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_training_step_is_the_same(name):
    net = network(name)
    quick, x = quicken(copy.deepcopy(net)), images(side=32 if name == "of timm" else 16)
    expected, found = learned(net, x), learned(quick, x)
    close(found[0], expected[0])
    close(found[1], expected[1])
    for theirs, ours in zip(expected[2:], found[2:], strict=True):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            if value is None:  # a weight that no output depends on
                assert ours[key] is None
            else:
                close(ours[key], value)


def test_what_becomes_quick():
    student, cells, foreign = (quick_layers(quicken(network(name))) for name in ("student", "cells", "of timm"))
    assert student[QuickDepthwise] > 0
    assert cells[QuickDepthwise] > 0
    assert cells[SharedReLU] > 0
    assert foreign == {QuickDepthwise: 0, SharedReLU: 0}  # its ReLUs work in place


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, (3, 1), padding=1, groups=4),
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
    ],
)
def test_other_convolutions_stay(conv):
    assert type(quicken(conv)) is nn.Conv2d


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("side", "dilation", "stride"), [(3, 1, 1), (5, 1, 1), (7, 1, 1), (3, 2, 1), (5, 2, 1), (3, 2, 2), (5, 2, 2)]
)
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_lone_convolution_has_the_same_gradients(bias, side, dilation, stride, size):
    padding = dilation * (side // 2)
    conv = nn.Conv2d(6, 6, side, stride, padding, dilation, groups=6, bias=bias).double()
    quick = quicken(copy.deepcopy(conv))
    assert type(quick) is QuickDepthwise
    x = torch.rand(2, 6, *size, dtype=torch.float64)
    signal, results = torch.randn_like(conv(x)), []
    for asked in (conv, quick):
        z = x.clone().requires_grad_()
        y = asked(z)
        results.append([y, *torch.autograd.grad(y, [z, *asked.parameters()], signal)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        close(ours, theirs)


@pytest.mark.parametrize(
    ("side", "dilation", "stride"), [(3, 1, 1), (5, 1, 1), (3, 2, 1), (5, 2, 1), (3, 2, 2), (5, 2, 2)]
)
@pytest.mark.parametrize("size", [(32, 32), (15, 17)])
def test_gradients_under_autocast_are_those_of_single_precision(side, dilation, stride, size):
    torch.manual_seed(0)
    quick = quicken(nn.Conv2d(16, 16, side, stride, dilation * (side // 2), dilation, groups=16))
    x = torch.rand(8, 16, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = quick(x)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *quick.parameters()])])
    for half, single in zip(results[1], results[0], strict=True):
        close(half.float(), single, 0.02)
    assert {gradient.dtype for gradient in results[1][1:]} == {torch.float32}


def test_only_asked_gradients_are_computed():
    conv = quicken(nn.Conv2d(4, 4, 5, padding=2, groups=4)).requires_grad_(False)
    x = torch.rand(2, 4, 8, 8, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
    conv.requires_grad_(True)(x.detach()).sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("name", list(NETWORKS))
def test_evaluation_and_copies_are_the_plain_networks(name):
    net = network(name).eval()
    quick, x = quicken(copy.deepcopy(net)), images(side=32)
    assert list(quick.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        assert torch.equal(quick(x), net(x))
        assert torch.equal(copy.deepcopy(quick)(x), net(x))
    restored = plain(quick)
    assert [type(m) for m in restored.modules()] == [type(m) for m in net.modules()]


def test_hooks_still_fire():
    quick, seen = quicken(network("cells")), []
    module = next(m for m in quick.modules() if type(m) is QuickDepthwise)
    module.register_forward_hook(lambda *_: seen.append(1))
    quick(images())
    assert seen


# --- shared ReLUs -----------------------------------------------------------------------------------------------------


def test_relus_of_one_tensor_share_their_result():
    one, two = quicken(nn.ReLU()), quicken(nn.ReLU())
    x = torch.randn(3, 4, requires_grad=True)
    assert one(x) is two(x)
    assert one(x.clone()) is not one(x)


def test_a_result_is_not_shared_once_it_or_its_input_changed():
    relu = quicken(nn.ReLU())
    x = torch.randn(3, 4)
    first = relu(x)
    x.neg_()
    assert torch.equal(relu(x), x.clamp(min=0))
    again = relu(x)
    again.add_(1)
    assert torch.equal(relu(x), x.clamp(min=0))
    assert first is not again


def test_a_result_without_gradients_is_not_shared_with_who_needs_them():
    relu = quicken(nn.ReLU())
    x = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        assert not relu(x).requires_grad
    assert relu(x).requires_grad
    later = torch.randn(3, 4)
    assert not relu(later).requires_grad
    assert relu(later.requires_grad_()).requires_grad


def test_inference_mode_uses_torchs_own():
    quick, x = quicken(network("cells").float()), images().float()
    with torch.inference_mode():
        assert torch.isfinite(quick(x)).all()
