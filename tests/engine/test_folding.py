"""The twin that attacks ask: the network in evaluation mode, as its weights are now."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.engine.folding import Twin
from rnas_zoo.engine.quick import QuickDepthwise, quicken

from .networks import NETWORKS, images, network
from .test_quick import close

FOLDED = {"student": 28, "wide residual": 3, "of timm": 20}  # a wide residual net's other norms follow sums


def answers(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = net(x)
    return logits, torch.autograd.grad(F.cross_entropy(logits, torch.arange(len(x)) % 10), x)[0]


def learn(net: nn.Module, x: Tensor) -> None:
    """One step that moves weights and statistics."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    F.cross_entropy(net.train()(x), torch.arange(len(x)) % 10).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_twin_is_the_network_after_every_step(name, dtype, tolerance):
    net = quicken(network(name).to(dtype))
    x = images(side=32).to(dtype)
    twin = Twin(net, x)
    assert twin.folded == FOLDED.get(name, twin.folded) > 0
    for _ in range(2):
        learn(net, x)
        expected = answers(copy.deepcopy(net).eval(), x)
        for ours, theirs in zip(answers(twin.refreshed(), x), expected, strict=True):
            close(ours, theirs, tolerance)
    assert net.training


def test_the_network_is_left_alone():
    net = network("cells")
    net.register_forward_hook(lambda *_: pytest.fail("a hook was called or copied"))
    before = copy.deepcopy(net.state_dict())
    net.stem.requires_grad_(False)
    twin = Twin(net, images())
    answers(twin.refreshed(), images())
    assert twin.folded > 0
    assert len(net._forward_hooks) == 1
    assert all(module.training for module in net.modules())
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {
        name for name, _ in net.named_parameters() if name.startswith("stem.")
    }
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_twin_is_frozen_quick_and_in_evaluation_mode():
    twin = Twin(network("cells"), images()).refreshed()
    assert not any(p.requires_grad for p in twin.parameters())
    assert not any(module.training for module in twin.modules())
    assert any(type(module) is QuickDepthwise for module in twin.modules())


def test_weights_of_a_checkpoint_reach_the_twin():
    net, other = network("student"), network("student", seed=5)
    twin = Twin(net, images())
    net.load_state_dict(other.state_dict())
    close(twin.refreshed()(images()), other.eval()(images()))


def test_batch_norm_that_always_uses_the_batch_is_not_folded():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).double()
    twin = Twin(net, images())
    assert twin.folded == 0
    assert twin.refreshed() is net


class Choosy(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).mean((2, 3))
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize("net", [Choosy(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())])
def test_without_a_fold_the_network_is_asked_itself(net):
    twin = Twin(net.double(), images())
    assert twin.folded == 0
    assert twin.refreshed() is net
