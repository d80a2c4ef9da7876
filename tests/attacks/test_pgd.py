"""PGD against a plain loop: start points, restarts, and which iterate is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.attacks import PGD, Keys, Threat, pgd
from rnas_zoo.attacks.pgd import start_point
from rnas_zoo.errors import UsageError

from .small import each_threat, keys

# --- PGD against a plain loop -----------------------------------------------------------------------------------------


def plain_pgd(model, x, y, threat, start, steps, size):
    """The loop as papers print it."""
    z = start.clone()
    for _ in range(steps):
        z = z.detach().requires_grad_()
        F.cross_entropy(model(z), y).backward()
        with torch.no_grad():
            if threat.norm == "linf":
                z = x + (z + size * z.grad.sign() - x).clamp(-threat.eps, threat.eps)
            else:
                z = z + size * z.grad / z.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                length = (z - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                z = x + (z - x) * torch.where(length > threat.eps, threat.eps / length, torch.ones_like(length))
            z = z.clamp(0, 1)
    return z


@each_threat
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_is_the_plain_loop(small_net, small_batch, threat, random_start):
    x, y = small_batch
    found = pgd(small_net, x, y, threat, PGD(steps=7, random_start=random_start), keys(len(x)))
    start = start_point(x, threat, keys(len(x)), "pgd") if random_start else x
    expected = plain_pgd(small_net, x, y, threat, start, 7, 0.25 * threat.eps)
    torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=1e-8)
    assert torch.equal(found.broken, small_net(expected).argmax(1) != y)
    assert found.broken.any()
    assert not found.broken.all()


@each_threat
def test_start_points_fill_the_ball_and_depend_on_the_position(threat):
    x = torch.full((400, 3, 4, 4), 0.5, dtype=torch.float64)
    start = start_point(x, threat, keys(400), "pgd")
    offsets = (start - x).flatten(1)
    size = offsets.abs().amax(1) if threat.norm == "linf" else offsets.norm(dim=1)
    assert float(size.max()) <= threat.eps * (1 + 1e-6)
    assert float(size.max()) > 0.95 * threat.eps
    assert float(offsets.mean().abs()) < 0.01 * threat.eps
    if threat.norm == "linf":
        assert float(offsets.std()) == pytest.approx(threat.eps / 3**0.5, rel=0.02)
    else:
        assert float(size.mean()) == pytest.approx(threat.eps / 2, rel=0.1)
    assert len({tuple(row) for row in offsets.tolist()}) == 400
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    again = start_point(x, threat, Keys(5, order), "pgd")
    assert torch.equal(again, start[order])
    assert not torch.equal(start_point(x, threat, keys(400, seed=6), "pgd"), start)


# --- last iterate and any iterate -------------------------------------------------------------------------------------


@each_threat
def test_any_keeps_the_first_misclassified_iterate(small_net, small_batch, threat):
    x, y = small_batch
    found = pgd(small_net, x, y, threat, PGD(steps=6, keep="any"), keys(len(x)))
    first, images = torch.full_like(y, -1), None
    for steps in range(7):
        iterate = pgd(small_net, x, y, threat, PGD(steps=steps), keys(len(x)))
        new = (small_net(iterate.x_adv).argmax(1) != y) & (first < 0)
        first[new] = steps
        images = iterate.x_adv if images is None else images
        images = torch.where(((first == steps) | (first < 0))[:, None, None, None], iterate.x_adv, images)
    assert torch.equal(found.step, first)
    assert torch.equal(found.broken, first >= 0)
    torch.testing.assert_close(found.x_adv, images, rtol=0, atol=1e-12)
    assert len(set(first.tolist())) > 2, "some break early, some late, some never"


class Valley(nn.Module):
    """Class 1 in a thin shell of brightness only, so that an iterate can pass through it."""

    def forward(self, x: Tensor) -> Tensor:
        distance = (x.mean((1, 2, 3)) - 0.5195).square()
        return torch.stack([distance, torch.full_like(distance, 1e-6)], dim=1)


def test_last_judges_the_last_iterate_only():
    x, y = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    threat, config = Threat("linf", 0.08), PGD(steps=2, random_start=False)  # steps of 0.02: in at 0.52, out at 0.50
    last = pgd(Valley(), x, y, threat, config, keys(1))
    anywhere = pgd(Valley(), x, y, threat, replace(config, keep="any"), keys(1))
    assert (last.broken.tolist(), last.step.tolist()) == ([False], [-1])
    assert (anywhere.broken.tolist(), anywhere.step.tolist()) == ([True], [1])
    torch.testing.assert_close(anywhere.x_adv, torch.full_like(x, 0.52))
    torch.testing.assert_close(last.x_adv, x)


def iterates(model, x, y, threat, start, steps):
    """Iterates 0 to `steps` of the plain loop, their cross-entropy, and whether they are misclassified."""
    images = [plain_pgd(model, x, y, threat, start, n, 0.25 * threat.eps) for n in range(steps + 1)]
    logits = [model(z).detach() for z in images]
    values = torch.stack([F.cross_entropy(row, y, reduction="none") for row in logits])
    return torch.stack(images), values, torch.stack([row.argmax(1) != y for row in logits])


@each_threat
def test_best_judges_the_iterate_of_highest_loss(small_net, small_batch, threat):
    x, y = small_batch
    found = pgd(small_net, x, y, threat, PGD(steps=6, keep="best"), keys(len(x)))
    start = start_point(x, threat, keys(len(x)), "pgd")
    images, values, wrong = iterates(small_net, x, y, threat, start, 6)
    best, each = values.argmax(0), torch.arange(len(x))
    torch.testing.assert_close(found.x_adv, images[best, each], rtol=0, atol=1e-8)
    assert torch.equal(found.broken, wrong[best, each])
    assert torch.equal(found.step, torch.where(found.broken, best, -1))
    assert found.broken.any()
    assert not found.broken.all()


def test_best_sees_the_iterate_that_last_forgets():
    x, y = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    found = pgd(Valley(), x, y, Threat("linf", 0.08), PGD(steps=2, random_start=False, keep="best"), keys(1))
    assert (found.broken.tolist(), found.step.tolist()) == ([True], [1])


# --- restarts ---------------------------------------------------------------------------------------------------------


@each_threat
@pytest.mark.parametrize("keep", ["last", "any", "best"])
def test_restarts_are_runs_on_the_images_still_unbroken(small_net, small_batch, threat, keep):
    x, y = small_batch
    restarts, steps = 4, 1
    found = pgd(small_net, x, y, threat, PGD(steps=steps, keep=keep, restarts=restarts), keys(len(x)))
    passes = 0
    for i in range(len(x)):
        image, label, key, most = x[i : i + 1], y[i : i + 1], Keys(5, torch.tensor([i])), -1.0
        for run in range(restarts):
            start = start_point(image, threat, key, "pgd", run)
            images, values, wrong = iterates(small_net, image, label, threat, start, steps)
            at = {"last": steps, "any": int(wrong[:, 0].int().argmax()) if wrong.any() else steps}.get(keep)
            at = int(values[:, 0].argmax()) if at is None else at
            passes += 1
            if wrong[at] or values[at] > most:
                most, kept, step = float(values[at]), images[at], steps * run + at if wrong[at] else -1
            if wrong[at]:
                break
        torch.testing.assert_close(found.x_adv[i : i + 1], kept, rtol=0, atol=1e-6)
        assert int(found.step[i]) == step
    assert (found.forwards, found.backwards) == (passes * (steps + 1), passes * steps)
    assert int((found.step > steps).sum()) > 0, "a later run must break some image"


def test_restarts_break_more_images_and_none_less(small_net, small_batch):
    x, y = small_batch
    once, often = (
        pgd(small_net, x, y, Threat("linf", 0.02), PGD(steps=2, restarts=n), keys(len(x))).broken for n in (1, 8)
    )
    assert (often | ~once).all()
    assert int(often.sum()) > int(once.sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "first"}, "known are last, any, best"),
        ({"restarts": 0}, "at least 1"),
        ({"restarts": 2, "random_start": False}, "set restarts=1"),
    ],
)
def test_senseless_settings_are_refused_with_the_fix(changes, message):
    with pytest.raises(UsageError, match=message):
        PGD(**changes)
