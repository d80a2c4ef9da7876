"""TRADES' inner attack: its loss by hand, the paper's loop, and a linear model's two worst corners."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo import random
from rnas_zoo.attacks import KLPGD, Threat, kl_pgd, kl_pgd_images, losses

from .small import Counting, Linear, each_threat, keys


def test_the_divergence_by_hand():
    clean, other = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert losses.kl(other, clean).tolist() == pytest.approx([expected])
    assert losses.kl(clean + 7, clean).tolist() == pytest.approx([0.0], abs=1e-6)


def test_the_divergence_lets_no_gradient_into_the_clean_prediction():
    clean = torch.zeros(1, 3, requires_grad=True)
    logits = torch.ones(1, 3).cumsum(1).requires_grad_()
    losses.kl(logits, clean).sum().backward()
    assert clean.grad is None
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - 1 / 3).detach())


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_the_divergence_is_finite_and_never_negative(size):
    a, b = size * torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    assert losses.kl(a, b).isfinite().all()
    assert float(losses.kl(a, b).min()) >= -1e-6


def plain_trades(model: nn.Module, x: Tensor, threat: Threat, start: Tensor, steps: int, size: float) -> Tensor:
    """The loop as the authors print it."""
    z, clean = start.clone(), F.softmax(model(x), dim=1).detach()
    for _ in range(steps):
        z = z.detach().requires_grad_()
        loss = F.kl_div(F.log_softmax(model(z), dim=1), clean, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        if threat.norm == "linf":
            z = z.detach() + size * gradient.sign()
            z = torch.min(torch.max(z, x - threat.eps), x + threat.eps)
        else:
            delta = z.detach() + size * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - x
            z = x + delta * (threat.eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1)
        z = z.clamp(0, 1)
    return z


@each_threat
def test_it_is_the_papers_loop(small_net, small_batch, threat):
    x, y = small_batch
    draw = random.normal((3, 8, 8), seed=5, stream="kl-pgd", draw=0, positions=torch.arange(len(x)))
    start = (x + 0.001 * draw).clamp(0, 1)
    expected = plain_trades(small_net, x, threat, start, 10, 0.003 / 0.031 * threat.eps)
    found = kl_pgd(small_net, x, y, threat, KLPGD(), keys(len(x)))
    torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=1e-6)
    assert torch.equal(found.broken, small_net(found.x_adv).argmax(1) != y)


def test_labels_only_judge(small_net, small_batch):
    x, y = small_batch
    first, other = (kl_pgd(small_net, x, labels, Threat(), KLPGD(), keys(len(x))) for labels in (y, (y + 1) % 4))
    assert torch.equal(first.x_adv, other.x_adv)
    assert not torch.equal(first.broken, other.broken)


def test_on_a_linear_model_it_ends_in_one_of_the_two_corners():
    x = 0.35 + 0.3 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model, y, threat = Linear(), torch.zeros(12, dtype=torch.long), Threat("linf", 0.04)
    model.weight.data *= 0.1  # a softmax far from saturation
    found = kl_pgd(model, x, y, threat, KLPGD(steps=25), keys(12)).x_adv
    corners = torch.stack([model.worst_point(x, y, threat), model.worst_point(x, 1 - y, threat)])
    off = (corners - found).flatten(2).abs().amax(2)
    assert float(off.amin(0).max()) < 1e-9
    assert set(off.argmin(0).tolist()) == {0, 1}, "the start decides, either happens"


def test_a_small_ball_holds_the_start(small_net, small_batch):
    x, y = small_batch
    found = kl_pgd(small_net, x, y, Threat("linf", 1e-4), KLPGD(steps=0), keys(len(x)))
    assert float((found.x_adv - x).abs().max()) <= 1e-4 + 1e-12


def test_the_papers_defaults_are_the_defaults():
    assert KLPGD() == KLPGD(steps=10, relative_step=0.003 / 0.031, noise=0.001)


@each_threat
@pytest.mark.parametrize("steps", [0, 1, 10])
def test_images_for_training_are_those_of_the_attack(small_net, small_batch, threat, steps):
    x, y = small_batch
    config = KLPGD(steps=steps)
    found = kl_pgd_images(small_net, x, small_net(x), threat, config, keys(len(x)))
    assert torch.equal(found, kl_pgd(small_net, x, y, threat, config, keys(len(x))).x_adv)
    assert not found.requires_grad


@each_threat
def test_images_may_be_driven_away_from_anothers_prediction(small_net, small_batch, threat):
    """The paper's loop with a target of its own, and the passes it takes."""
    x, _ = small_batch
    target = 3 * torch.randn(len(x), 4, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    z = kl_pgd_images(small_net, x, target, threat, KLPGD(steps=0), keys(len(x)))
    counted = Counting(small_net)
    found = kl_pgd_images(counted, x, target, threat, KLPGD(steps=4, relative_step=0.3), keys(len(x)))
    assert (counted.forwards, counted.backwards) == (4 * len(x), 4 * len(x))
    for _ in range(4):
        z = z.detach().requires_grad_()
        loss = F.kl_div(small_net(z).log_softmax(1), target.softmax(1), reduction="sum")
        (slope,) = torch.autograd.grad(loss, z)
        move = slope.sign() if threat.norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        z = threat.project(z.detach() + 0.3 * threat.eps * move, x)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-9)
    before, after = (losses.kl(small_net(images), target).mean().item() for images in (x, found))
    assert after > before
