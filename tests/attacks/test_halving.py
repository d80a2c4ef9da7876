"""Halving: exact on linear models, whose robust images have a closed form, and its passes are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rnas_zoo.attacks import APGDT, Halving, Keys, Threat, apgd_t, halving, losses

from .test_autoattack import exactly_robust, linear

SHORT = Halving(rungs=((9, 5), (3, 8), (1, 10)))
THREATS = {"linf": Threat("linf", 0.005), "l2": Threat("l2", 0.045)}
each_norm = pytest.mark.parametrize("norm", list(THREATS))


def keys(n: int, seed: int = 0) -> Keys:
    return Keys(seed, torch.arange(n))


def images(n: int = 48) -> torch.Tensor:
    return 0.35 + 0.3 * torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
@each_norm
def test_linear_models_have_exactly_the_robust_images_of_the_closed_form(norm, classes):
    model, x, threat = linear(classes), images(), THREATS[norm]
    y = model(x).argmax(1)
    robust, slack = exactly_robust(model, x, y, threat)
    assert 0.1 < robust.double().mean() < 0.9
    result = halving(model, x, y, threat, Halving(), keys(len(x)))
    assert not (result.broken & robust).any()
    clear = slack > 1e-3
    assert int((clear & ~robust).sum()) > 3
    assert torch.equal(result.broken[clear], ~robust[clear])


@each_norm
def test_the_budget_of_a_single_rung_finds_what_targeted_apgd_finds(norm):
    """One rung is targeted Auto-PGD, but for the stream of its starts."""
    model, x, threat = linear(7), images(), THREATS[norm]
    y = model(x).argmax(1)
    _, slack = exactly_robust(model, x, y, threat)
    ours = halving(model, x, y, threat, Halving(rungs=((9, 40),)), keys(len(x)))
    theirs = apgd_t(model, x, y, threat, APGDT(steps=40), keys(len(x)))
    assert torch.equal(ours.broken[slack > 1e-3], theirs.broken[slack > 1e-3])


@each_norm
def test_found_images_lie_in_ball_and_box_and_are_misclassified(small_net, small_batch, norm):
    x, y = small_batch
    x = x.round(decimals=0) * 0.02 + x * 0.98  # some pixels at the border of the box
    y = small_net(x).argmax(1)
    threat = Threat(norm, {"linf": 0.03, "l2": 0.2}[norm])
    result = halving(small_net, x, y, threat, SHORT, keys(len(x)))
    assert float(threat.distance(result.x_adv, x).max()) <= threat.eps + 1e-9
    assert 0 <= float(result.x_adv.min()) <= float(result.x_adv.max()) <= 1
    assert torch.equal(small_net(result.x_adv).argmax(1) != y, result.broken)
    assert torch.equal(result.step >= 0, result.broken)
    assert result.broken.any()
    assert not result.broken.all()
    assert int(result.step.max()) <= sum(steps for _, steps in SHORT.rungs)


def test_unbroken_images_end_nearer_to_the_boundary_than_they_began(small_net, small_batch):
    x, y = small_batch
    result = halving(small_net, x, y, Threat("linf", 0.01), SHORT, keys(len(x)))
    left = ~result.broken
    with torch.no_grad():
        before, after = (losses.margin(small_net(z), y)[left] for z in (x, result.x_adv))
    assert left.any()
    assert (after > before).all()


def test_images_already_misclassified_are_broken_at_step_0(small_net, small_batch):
    x, y = small_batch
    wrong = (y + 1) % 4
    y = torch.where(torch.arange(len(y)) % 3 == 0, wrong, y)
    result = halving(small_net, x, y, Threat("linf", 1e-5), SHORT, keys(len(x)))
    assert result.broken[::3].all()
    assert (result.step[::3] == 0).all()
    whole = halving(small_net, x, wrong, Threat("linf", 1e-5), SHORT, keys(len(x)))
    assert (whole.step == 0).all()
    assert whole.forwards == len(x) * (1 + 3), "a look at the clean image and one at each of the three starts"


@each_norm
def test_an_image_s_result_does_not_depend_on_its_batch(small_net, small_batch, norm):
    x, y = small_batch
    threat = Threat(norm, {"linf": 0.03, "l2": 0.2}[norm])
    whole = halving(small_net, x, y, threat, SHORT, keys(len(x)))
    for chosen in (torch.tensor([17, 3, 8]), torch.tensor([5])):
        part = halving(small_net, x[chosen], y[chosen], threat, SHORT, Keys(0, chosen))
        assert torch.equal(part.broken, whole.broken[chosen])
        assert torch.equal(part.step, whole.step[chosen])
        torch.testing.assert_close(part.x_adv, whole.x_adv[chosen], rtol=0, atol=1e-9)


def test_each_image_may_have_its_own_size(small_net, small_batch):
    x, y = small_batch
    eps = torch.linspace(0, 0.05, len(x)).double()
    together = halving(small_net, x, y, Threat("linf", eps), SHORT, keys(len(x)))
    assert bool(((together.x_adv - x).flatten(1).abs().amax(1) <= eps + 1e-9).all())
    for row in (0, 11, 23):
        alone = halving(small_net, x[[row]], y[[row]], Threat("linf", float(eps[row])), SHORT, keys(24).take([row]))
        assert int(alone.step) == int(together.step[row])
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_passes_of_images_nothing_breaks_are_those_of_the_rungs(classes):
    model, x = linear(classes), images(7)
    y = model(x).argmax(1)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    result = halving(model, x, y, Threat("linf", 1e-9), SHORT, keys(len(x)))
    climbs = sum(min(count, classes - 1) * (steps + 1) for count, steps in SHORT.rungs)
    assert not result.broken.any()
    assert (result.forwards, result.backwards) == (len(x) * (1 + climbs), len(x) * climbs)
    assert sum(seen) == result.forwards


def test_passes_are_those_of_the_model_and_weights_and_random_state_stay(small_net, small_batch):
    x, y = small_batch
    small_net.requires_grad_(True)
    seen = []
    handle = small_net.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    before, generator = [p.clone() for p in small_net.parameters()], torch.random.get_rng_state()
    result = halving(small_net, x, y, Threat("linf", 0.02), SHORT, keys(24))
    handle.remove()
    assert result.broken.any()
    assert (result.forwards, result.backwards) == (sum(seen), sum(seen) - len(x))
    assert all(torch.equal(a, b) for a, b in zip(before, small_net.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in small_net.parameters())
    assert torch.equal(generator, torch.random.get_rng_state())


class Promising(nn.Module):
    """Class 0 wins; pixel k raises class k + 1, the more the larger k is, while the clean ranks go the other way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)[:, :4]
        gain = torch.tensor([1.0, 2.0, 3.0, 8.0], dtype=x.dtype)
        rank = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=x.dtype)
        others = rank + (pixels - 0.5) * gain
        return torch.cat([torch.full_like(others[:, :1], 2.0), others], 1)


def test_the_target_that_comes_nearest_climbs_on_whatever_its_clean_rank():
    """The last class in the clean order comes nearest: at eps 0.2 its logit is 1.7, the others' below 1."""
    x, y = torch.full((3, 3, 4, 4), 0.5).double(), torch.zeros(3, dtype=torch.long)
    result = halving(Promising(), x, y, Threat("linf", 0.2), Halving(rungs=((4, 1), (2, 5), (1, 20))), keys(3))
    assert not result.broken.any()
    moved = (result.x_adv - x).flatten(1)[:, :4]
    torch.testing.assert_close(moved[:, 3], torch.full_like(moved[:, 3], 0.2))
    assert halving(Promising(), x, y, Threat("linf", 0.25), SHORT, keys(3)).broken.all()


def test_the_seed_changes_the_starts_only(small_net, small_batch):
    x, y = small_batch
    runs = [halving(small_net, x, y, Threat("linf", 0.01), SHORT, keys(24, seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].x_adv, runs[1].x_adv)
    assert not torch.equal(runs[0].x_adv, runs[2].x_adv)


def test_memory_format_does_not_change_results(small_net, small_batch):
    x, y = small_batch
    threat = Threat("linf", 0.02)
    one = halving(small_net, x, y, threat, SHORT, keys(24))
    other = halving(small_net, x.contiguous(memory_format=torch.channels_last), y, threat, SHORT, keys(24))
    assert torch.equal(one.step, other.step)
    torch.testing.assert_close(one.x_adv, other.x_adv, rtol=0, atol=1e-9)


def test_steps_count_on_over_the_rungs(small_net, small_batch):
    x, y = small_batch
    threat = Threat("linf", 0.02)
    first = halving(small_net, x, y, threat, Halving(rungs=((9, 1),)), keys(24))
    both = halving(small_net, x, y, threat, Halving(rungs=((9, 1), (2, 10))), keys(24))
    later = both.broken & ~first.broken
    assert first.broken.any()
    assert later.any()
    assert torch.equal(both.step[first.broken], first.step[first.broken])
    assert (both.step[later] > 1).all()


def test_a_rung_goes_on_from_where_the_kept_targets_are(small_net, small_batch):
    """A rung of no steps looks at the best image found so far, and changes nothing."""
    x, y = small_batch
    threat = Threat("linf", 0.01)
    one = halving(small_net, x, y, threat, Halving(rungs=((9, 4),)), keys(24))
    more = halving(small_net, x, y, threat, Halving(rungs=((9, 4), (2, 0), (1, 0))), keys(24))
    assert torch.equal(one.step, more.step)
    torch.testing.assert_close(more.x_adv, one.x_adv, rtol=0, atol=1e-12)
