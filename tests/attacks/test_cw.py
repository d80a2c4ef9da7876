"""Carlini & Wagner's L2 attack against a plain loop and hyperplanes, and without the known faults of other versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import CW, AttackResult, Threat, cw, mean_l2

from .small import Counting, Linear, keys

ANY = Threat("l2", 0)


def attack(model, x: Tensor, y: Tensor, config: CW | None = None) -> AttackResult:
    return cw(model, x, y, ANY, config or CW(), keys(len(x)))


def plain_cw(model: nn.Module, x: Tensor, y: int, config: CW) -> tuple[Tensor, int]:
    """One image, every formula written out, Adam included; the nearest misclassified iterate and its number."""
    w = ((2 * x - 1) * 0.999999).atanh()
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    nearest, found, at = math.inf, x, -1
    for step in range(config.steps):
        w = w.detach().requires_grad_()
        z = 0.5 * (w.tanh() + 1)
        logits = model(z)[0]
        other = torch.stack([value for j, value in enumerate(logits) if j != y]).max()
        distance = ((z - x) ** 2).sum()
        loss = distance + config.c * torch.clamp(logits[y] - other, min=-config.kappa)
        (gradient,) = torch.autograd.grad(loss, w)
        if int(logits.argmax()) != y and float(distance.detach()) < nearest:
            nearest, found, at = float(distance.detach()), z.detach(), step
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        scale = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        w = w.detach() - config.lr * mean / (1 - 0.9 ** (step + 1)) / scale
    return found, at


@pytest.mark.parametrize("config", [CW(steps=20, c=2.0), CW(c=3.0, kappa=0.5, steps=25, lr=0.03)])
def test_it_is_the_plain_loop_image_by_image(small_net, small_batch, config):
    x, y = small_batch[0][:12], small_batch[1][:12]
    y = torch.where(torch.arange(len(y)) % 8 == 0, (y + 1) % 4, y)  # some are misclassified from the start
    found = attack(small_net, x, y, config)
    for i in range(len(x)):
        expected, step = plain_cw(small_net, x[i : i + 1], int(y[i]), config)
        torch.testing.assert_close(found.x_adv[i : i + 1], expected, rtol=0, atol=1e-7)
        assert int(found.step[i]) == step
    assert torch.equal(found.broken, found.step >= 0)
    assert torch.equal(small_net(found.x_adv).argmax(1) != y, found.broken)
    assert len(set(found.step.tolist())) > 3


def test_with_a_large_c_it_finds_the_hyperplane():
    x = 0.4 + 0.2 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = Linear()
    y = model(x).argmax(1)
    least = model.margins(x, y) / (model.weight[0] - model.weight[1]).detach().norm()
    excess = []
    for c in (0.5, 5.0):
        found = attack(model, x, y, CW(c=c, steps=500))
        assert found.broken.all()
        excess.append(ANY.distance(found.x_adv, x) / least - 1)
        assert float(excess[-1].min()) > 0, "nothing misclassified is nearer than the hyperplane"
    assert float(excess[0].max()) < 0.02


def test_with_a_small_c_the_distance_wins_and_nothing_is_found():
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    model = Linear()
    y = model(x).argmax(1)
    found = attack(model, x, y, CW(c=1e-6))
    assert not found.broken.any()
    assert torch.equal(found.x_adv, x)
    assert found.step.tolist() == [-1]


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_a_shift_of_all_logits_changes_nothing(small_net, small_batch, shift):
    x, y = small_batch
    found = attack(small_net, x, y, CW(c=2.0, steps=30))
    assert found.broken.any()
    shifted = attack(lambda z: small_net(z) + shift, x, y, CW(c=2.0, steps=30))
    assert torch.equal(shifted.broken, found.broken)
    torch.testing.assert_close(shifted.x_adv, found.x_adv, rtol=0, atol=1e-6)


def test_an_image_s_result_does_not_depend_on_its_batch(small_net, small_batch):
    x, y = small_batch
    config = CW(steps=30, c=2.0)
    whole = attack(small_net, x, y, config)
    assert whole.broken.any()
    for size in (1, 5):
        for part in torch.arange(len(x) - 1, -1, -1).split(size):
            found = attack(small_net, x[part], y[part], config)
            torch.testing.assert_close(found.x_adv, whole.x_adv[part], rtol=0, atol=1e-9)
            assert torch.equal(found.step, whole.step[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_at_the_ends_of_the_range_move(dtype):
    x = (torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).to(dtype)
    model = Linear().to(dtype)
    y = model(x).argmax(1)
    found = attack(model, x, y, CW(c=5.0, steps=300, lr=0.1))
    assert found.x_adv.isfinite().all()
    assert found.broken.all()
    inwards = (model.weight[1 - y] - model.weight[y]).detach() * (1 - 2 * x) > 0
    assert float((found.x_adv - x).abs()[inwards].mean()) > 0.01
    assert 0 <= float(found.x_adv.min()) <= float(found.x_adv.max()) <= 1


@pytest.mark.parametrize("classes", [2, 3])
def test_two_and_three_classes(small_net, small_batch, classes):
    x = small_batch[0]
    y = small_net(x)[:, :classes].argmax(1)
    found = attack(lambda z: small_net(z)[:, :classes], x, y, CW(c=5.0))
    assert torch.equal(small_net(found.x_adv)[:, :classes].argmax(1) != y, found.broken)
    assert found.broken.any()


def test_the_threat_model_does_not_bind(small_net, small_batch):
    x, y = small_batch
    first, other = (cw(small_net, x, y, threat, CW(steps=20), keys(24)) for threat in (ANY, Threat("linf", "8/255")))
    assert torch.equal(first.x_adv, other.x_adv)


def test_gradients_that_are_no_numbers_stop_nothing():
    def model(z: Tensor) -> Tensor:
        level = z.mean((1, 2, 3)) + (z[:, 0, 0, 0] * 0).sqrt()
        return torch.stack([level, 1 - level], dim=1)

    x = torch.full((2, 3, 4, 4), 0.7)
    found = attack(model, x, torch.zeros(2, dtype=torch.long))
    assert torch.equal(found.x_adv, x)


def test_weights_random_state_and_passes(small_net, small_batch):
    x, y = small_batch
    before, model = torch.get_rng_state(), Counting(small_net)
    with torch.no_grad():
        found = attack(model, x, y, CW(steps=7))
    assert (found.forwards, found.backwards) == (model.forwards, model.backwards) == (7 * 24, 7 * 24)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in small_net.parameters())


def test_mean_l2_is_over_the_images_found():
    x = torch.zeros(3, 1, 2, 2)
    x_adv = torch.stack([torch.full((1, 2, 2), value) for value in (0.5, 1.0, 0.25)])
    broken = torch.tensor([True, False, True])
    found = AttackResult(x_adv, broken, torch.where(broken, 0, -1), 0, 0)
    assert mean_l2(found, x) == (0.75, 2)
    mean, count = mean_l2(AttackResult(x, ~broken & broken, broken.long(), 0, 0), x)
    assert math.isnan(mean)
    assert count == 0


def test_the_defaults_are_those_of_the_robust_nas_papers():
    assert CW() == CW(c=0.5, kappa=0.0, steps=100, lr=0.01)
