"""Attacks against models whose worst case is known in closed form, and the laws every attack keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import (
    FGSM,
    FGSMRS,
    KLPGD,
    MIFGSM,
    PGD,
    AttackResult,
    Keys,
    MarginPGD,
    Noise,
    Threat,
    fgsm,
    kl_pgd,
    margin_pgd,
    mi_fgsm,
    n_fgsm,
    noise,
    pgd,
)

from .small import THREATS, Counting, Linear, each_threat, keys

ATTACKS = {
    "fgsm": (fgsm, FGSM()),
    "pgd": (pgd, PGD(steps=5)),
    "pgd any": (pgd, PGD(steps=5, keep="any")),
    "pgd from x": (pgd, PGD(steps=3, random_start=False)),
    "pgd best": (pgd, PGD(steps=5, keep="best")),
    "pgd restarts": (pgd, PGD(steps=2, restarts=3)),
    "pgd best restarts": (pgd, PGD(steps=2, restarts=3, keep="best")),
    "noise": (noise, Noise(draws=3)),
    "mi-fgsm": (mi_fgsm, MIFGSM(steps=4)),
    "fgsm-rs": (n_fgsm, FGSMRS()),
    "kl-pgd": (kl_pgd, KLPGD(steps=4)),
    "margin-pgd": (margin_pgd, MarginPGD(steps=4)),
    "margin-pgd targeted": (margin_pgd, MarginPGD(steps=2, targets=2, restarts=2)),
}
each_attack = pytest.mark.parametrize("name", ATTACKS)


def attack(name: str, model, x: Tensor, y: Tensor, threat: Threat, key: Keys | None = None) -> AttackResult:
    function, config = ATTACKS[name]
    return function(model, x, y, threat, config, key or keys(len(x)))


@pytest.fixture
def linear():
    """A linear model and interior images with both labels."""
    x = 0.35 + 0.3 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Linear(), x, torch.arange(12) % 2


# --- closed forms -----------------------------------------------------------------------------------------------------


@each_threat
def test_fgsm_on_a_linear_model_is_the_worst_point(linear, threat):
    model, x, y = linear
    found = attack("fgsm", model, x, y, threat)
    torch.testing.assert_close(found.x_adv, model.worst_point(x, y, threat), rtol=0, atol=1e-12)


@each_threat
@pytest.mark.parametrize(
    "config", [PGD(), PGD(random_start=False), PGD(keep="any"), PGD(steps=100, relative_step=0.05)]
)
def test_pgd_on_a_linear_model_reaches_the_worst_margin(linear, threat, config):
    model, x, y = linear
    found = pgd(model, x, y, threat, replace(config, keep="last"), keys(12))
    dual = (model.weight[0] - model.weight[1]).detach()
    size = dual.abs().sum() if threat.norm == "linf" else dual.norm()
    worst = model.margins(x, y) - threat.eps * size
    # A step along the sphere turns towards the worst direction only gradually, so L2 ends just short of it.
    short = (model.margins(found.x_adv, y) - worst) / (threat.eps * size)
    assert float(short.min()) > -1e-9
    assert float(short.max()) < (1e-9 if threat.norm == "linf" else 1e-3)
    broken = pgd(model, x, y, threat, config, keys(12)).broken
    assert torch.equal(broken, worst < 0)
    assert broken.any()
    assert not broken.all(), "the images must tell a strong attack from a weak one"


def test_attacks_stay_in_the_box_where_it_cuts_the_ball(linear):
    model, _, y = linear
    x = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    found = attack("pgd", model, x, y, Threat("linf", 0.1))
    towards = (model.weight[1 - y] - model.weight[y]).detach().sign()
    torch.testing.assert_close(found.x_adv, (x + 0.1 * towards).clamp(0, 1), rtol=0, atol=1e-12)


@each_threat
def test_fgsm_is_one_step_of_pgd(small_net, small_batch, threat):
    x, y = small_batch
    one = pgd(small_net, x, y, threat, PGD(steps=1, relative_step=1.0, random_start=False), keys(len(x)))
    found = attack("fgsm", small_net, x, y, threat)
    torch.testing.assert_close(found.x_adv, one.x_adv, rtol=0, atol=1e-12)
    assert torch.equal(found.broken, one.broken)


# --- laws of every attack ---------------------------------------------------------------------------------------------


@each_attack
@each_threat
def test_images_lie_in_ball_and_box_and_are_judged_as_reported(name, threat, small_net, small_batch):
    x, y = small_batch
    y = torch.where(torch.arange(len(y)) % 5 == 0, (y + 1) % 4, y)  # some are misclassified from the start
    found = attack(name, small_net, x, y, threat)
    assert float(threat.distance(found.x_adv, x).max()) <= threat.eps + 1e-7
    assert 0 <= float(found.x_adv.min()) <= float(found.x_adv.max()) <= 1
    wrong = small_net(found.x_adv).argmax(1) != y
    assert torch.equal(found.broken, wrong)
    assert torch.equal(found.broken, found.step >= 0)
    assert found.x_adv.requires_grad is False


@each_attack
@each_threat
def test_results_depend_on_neither_batch_size_nor_order(name, threat, small_net, small_batch):
    x, y = small_batch
    whole = attack(name, small_net, x, y, threat)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    for size in (1, 7, 24):
        for part in order.split(size):
            found = attack(name, small_net, x[part], y[part], threat, Keys(5, part))
            torch.testing.assert_close(found.x_adv, whole.x_adv[part], rtol=0, atol=1e-6)
            assert torch.equal(found.broken, whole.broken[part])
            assert torch.equal(found.step, whole.step[part])


@each_attack
@each_threat
def test_an_eps_per_image_gives_what_each_eps_gives(name, threat, small_net, small_batch):
    x, y = small_batch
    sizes = [0.0, 0.5 * threat.eps, threat.eps]
    eps = torch.tensor(sizes, dtype=x.dtype)[torch.arange(len(x)) % 3]
    mixed = attack(name, small_net, x, y, Threat(threat.norm, eps))
    passes = 0
    for index, size in enumerate(sizes):
        rows = torch.arange(index, len(x), 3)
        found = attack(name, small_net, x[rows], y[rows], Threat(threat.norm, size), Keys(5, rows))
        torch.testing.assert_close(mixed.x_adv[rows], found.x_adv, rtol=0, atol=1e-6)
        assert torch.equal(mixed.step[rows], found.step)
        passes += found.forwards
    assert mixed.forwards == passes


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"fgsm", "noise"}))
@each_threat
def test_images_keep_their_type_whatever_that_of_eps(name, threat, small_net, small_batch):
    x, y = small_batch[0].float(), small_batch[1]
    eps = torch.full((len(x),), threat.eps, dtype=torch.float64)
    assert attack(name, small_net.float(), x, y, Threat(threat.norm, eps)).x_adv.dtype == torch.float32


@each_attack
@each_threat
@pytest.mark.parametrize("classes", [2, 3])
def test_two_and_three_classes(name, threat, classes, small_net, small_batch):
    x = small_batch[0]
    few = nn.Sequential(small_net, nn.Linear(4, classes).double()).requires_grad_(False)
    few[1].weight.copy_(torch.eye(4)[:classes])
    few[1].bias.zero_()
    y = few(x).argmax(1)
    found = attack(name, few, x, y, threat)
    assert float(threat.distance(found.x_adv, x).max()) <= threat.eps + 1e-7
    assert torch.equal(found.broken, few(found.x_adv).argmax(1) != y)


class Flat(nn.Module):
    """No slope anywhere, or one that is not a number where the first pixel is 0."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        level = (x[:, 0, 0, 0] * 0).sqrt() if self.broken else x[:, 0, 0, 0] * 0
        return torch.stack([level, level - 1], dim=1)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"fgsm"}))
@each_threat
@pytest.mark.parametrize("broken", [False, True])
def test_vanishing_and_infinite_gradients_stop_nothing(name, threat, broken):
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = attack(name, Flat(broken), x, torch.zeros(4, dtype=torch.long), threat)
    assert found.x_adv.isfinite().all()
    assert float(threat.distance(found.x_adv, x).max()) <= threat.eps + 1e-6
    assert not found.broken.any()


@pytest.mark.parametrize("name", ["pgd", "noise", "fgsm-rs", "kl-pgd", "margin-pgd", "margin-pgd targeted"])
def test_another_seed_gives_other_images(name, small_net, small_batch):
    x, y = small_batch
    first, other = (attack(name, small_net, x, y, THREATS[0], keys(len(x), seed)).x_adv for seed in (0, 1))
    assert not torch.equal(first, other)


@each_attack
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(name, training, small_net, small_batch):
    x, y = small_batch
    small_net.train(training)
    small_net[1].eval()
    small_net[3].weight.requires_grad_(False)
    small_net[0].weight.grad = torch.ones_like(small_net[0].weight)
    modes = [module.training for module in small_net.modules()]
    wanted = [p.requires_grad for p in small_net.parameters()]
    state = {key: value.clone() for key, value in small_net.state_dict().items()}
    attack(name, small_net, x, y, THREATS[0])
    assert [module.training for module in small_net.modules()] == modes
    assert [p.requires_grad for p in small_net.parameters()] == wanted
    assert all(torch.equal(value, state[key]) for key, value in small_net.state_dict().items())
    grads = [p.grad for p in small_net.parameters()]
    assert torch.equal(grads[0], torch.ones_like(grads[0]))
    assert all(grad is None for grad in grads[1:])


@each_attack
def test_the_model_is_left_as_found_when_it_fails(name, small_batch):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of order")

    model = Broken()
    with pytest.raises(RuntimeError, match="out of order"):
        attack(name, model, *small_batch, THREATS[0])
    assert model.weight.requires_grad


@each_attack
def test_global_random_numbers_are_not_touched(name, small_net, small_batch):
    before = torch.get_rng_state()
    attack(name, small_net, *small_batch, THREATS[1])
    assert torch.equal(torch.get_rng_state(), before)


@each_attack
def test_attacks_work_where_gradients_are_off(name, small_net, small_batch):
    x, y = small_batch
    expected = attack(name, small_net, x, y, THREATS[0])
    with torch.no_grad():
        found = attack(name, small_net, x, y, THREATS[0])
    assert torch.equal(found.x_adv, expected.x_adv)


@each_attack
def test_reported_passes_are_those_made(name, small_net, small_batch):
    x, y = small_batch
    model = Counting(small_net)
    found = attack(name, model, x, y, THREATS[0])
    assert (found.forwards, found.backwards) == (model.forwards, model.backwards)


def test_the_papers_defaults_are_the_defaults():
    assert PGD() == PGD(steps=20, relative_step=0.25, random_start=True, keep="last", restarts=1)
    assert 0.25 * Threat().eps == pytest.approx(2 / 255)
    assert Threat() == Threat("linf", "8/255")


@each_threat
@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_without_gradients_is_no_error(name, threat):
    x, y = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.long)
    for model in (lambda z: z.detach().mean((2, 3)), lambda z: torch.zeros(len(z), 3, requires_grad=True) + 0.0):
        found = attack(name, model, x, y, threat)
        assert torch.isfinite(found.x_adv).all()
        assert float(threat.distance(found.x_adv, x).max()) <= threat.eps + 1e-6
