"""PGD on the margin against a plain loop, with and without targets, and what kappa is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import PGD, Keys, MarginPGD, Threat, losses, margin_pgd
from rnas_zoo.attacks.pgd import start_point

from .small import Linear, each_threat, keys


def plain_margin_pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, start: Tensor, steps: int, kappa: float, target: int = -1
) -> Tensor:
    """One image; the loss as training papers write it: -max(z_y - max z_j + kappa, 0)."""
    z, label = start.clone(), int(y)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        logits = model(z)[0]
        others = [j for j in range(len(logits)) if j != label] if target < 0 else [target]
        loss = -(logits[label] - logits[others].max() + kappa).clamp_min(0)
        (gradient,) = torch.autograd.grad(loss, z)
        if threat.norm == "linf":
            move = gradient.sign()
        else:
            move = gradient / gradient.norm().clamp_min(1e-12)
        z = threat.project(z.detach() + 0.25 * threat.eps * move, x)
    return z


@each_threat
@pytest.mark.parametrize("kappa", [0.0, 50.0])
def test_it_is_the_plain_loop(small_net, small_batch, threat, kappa):
    x, y = small_batch
    found = margin_pgd(small_net, x, y, threat, MarginPGD(steps=5, kappa=kappa), keys(len(x)))
    start = start_point(x, threat, keys(len(x)), "margin-pgd")
    for i in range(len(x)):
        row = slice(i, i + 1)
        expected = plain_margin_pgd(small_net, x[row], y[row], threat, start[row], 5, kappa)
        torch.testing.assert_close(found.x_adv[row], expected, rtol=0, atol=1e-6)
    assert torch.equal(found.broken, small_net(found.x_adv).argmax(1) != y)
    assert found.broken.any()
    assert not found.broken.all()


class Shadowed(nn.Module):
    """One more class, which never wins but, for some images, always comes second."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        behind = torch.where(x[:, :, 0].mean((1, 2)) > 0.5, 1e-3, 50.0)
        return torch.cat([logits, (logits.amax(1) - behind)[:, None]], 1)


@each_threat
def test_targets_are_tried_in_turn_until_one_breaks(small_net, small_batch, threat):
    x, y = small_batch
    model, config = Shadowed(small_net), MarginPGD(steps=3, targets=9)  # five classes: four others
    found = margin_pgd(model, x, y, threat, config, keys(len(x)))
    clean, runs = model(x).detach(), 0
    for i in range(len(x)):
        row, key, step = slice(i, i + 1), Keys(5, torch.tensor([i])), -1
        order = [j for j in clean[i].argsort(descending=True).tolist() if j != y[i]]
        for run, target in enumerate(order):
            start = start_point(x[row], threat, key, "margin-pgd-targeted", run)
            z = plain_margin_pgd(model, x[row], y[row], threat, start, 3, 50.0, target)
            runs += 1
            if int(model(z).argmax()) != int(y[i]):
                torch.testing.assert_close(found.x_adv[row], z, rtol=0, atol=1e-6)
                step = 3 * (run + 1)
                break
        assert int(found.step[i]) == step
    assert (found.forwards, found.backwards) == (len(x) + 4 * runs, 3 * runs)
    assert {-1, 3, 6} <= set(found.step.tolist()), "some break at the first target, some later, some never"


@each_threat
@pytest.mark.parametrize("targets", [0, 9])
def test_on_a_linear_model_it_ends_at_the_worst_margin(threat, targets):
    x = 0.35 + 0.3 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model, y = Linear(), torch.arange(12) % 2
    found = margin_pgd(model, x, y, threat, MarginPGD(targets=targets), keys(12))
    worst = model.worst_point(x, y, threat)
    assert torch.equal(found.broken, model.margins(worst, y) < 0)
    torch.testing.assert_close(
        model.margins(found.x_adv, y), model.margins(worst, y), rtol=0, atol=1e-9 if threat.norm == "linf" else 1e-3
    )


def test_kappa_zero_stops_at_the_boundary_and_fifty_goes_on():
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    model, threat = Linear(), Threat("linf", 0.2)
    y = model(x).argmax(1)
    config = MarginPGD(steps=20, relative_step=0.05, random_start=False)
    near, far = (margin_pgd(model, x, y, threat, replace(config, kappa=kappa), keys(1)) for kappa in (0.0, 50.0))
    assert near.broken.item()
    assert far.broken.item()
    assert float(model.margins(far.x_adv, y)) < 3 * float(model.margins(near.x_adv, y)) < 0


def test_the_targeted_margin_by_hand():
    logits, y = torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0])
    assert losses.targeted_margin(logits, y, torch.tensor([2])).tolist() == [-2.5]


def test_defaults():
    assert MarginPGD() == MarginPGD(
        steps=30, relative_step=0.25, random_start=True, keep="last", restarts=1, kappa=50.0, targets=0
    )
    assert MarginPGD().relative_step == PGD().relative_step
