"""Attacks against models whose worst case is known in closed form, and the laws every attack keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
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
from rnas_zoo.attacks.pgd import start_point
from rnas_zoo.attacks.threat import NORMS
from rnas_zoo.errors import UsageError

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
THREATS = [Threat("linf", 0.04), Threat("l2", 0.3)]
each_attack = pytest.mark.parametrize("name", ATTACKS)
each_threat = pytest.mark.parametrize("threat", THREATS, ids=NORMS)


def keys(n: int, seed: int = 5) -> Keys:
    return Keys(seed, torch.arange(n))


def attack(name: str, model, x: Tensor, y: Tensor, threat: Threat, key: Keys | None = None) -> AttackResult:
    function, config = ATTACKS[name]
    return function(model, x, y, threat, config, key or keys(len(x)))


class Linear(nn.Module):
    """Two logits, linear in the image; the label's margin at the worst point of the ball has a closed form."""

    def __init__(self, shape: tuple[int, ...] = (3, 4, 4)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape, generator=torch.Generator().manual_seed(3)).double())

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self(x).detach()
        return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]

    def worst_point(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Interior images only: the ball's point farthest along the other class's weights."""
        towards = (self.weight[1 - y] - self.weight[y]).detach()
        if threat.norm == "linf":
            return x + threat.eps * towards.sign()
        return x + threat.eps * towards / towards.flatten(1).norm(dim=1)[:, None, None, None]


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
def test_fgsm_is_one_step_of_pgd(small_net, small_batch, threat):
    x, y = small_batch
    one = pgd(small_net, x, y, threat, PGD(steps=1, relative_step=1.0, random_start=False), keys(len(x)))
    found = attack("fgsm", small_net, x, y, threat)
    torch.testing.assert_close(found.x_adv, one.x_adv, rtol=0, atol=1e-12)
    assert torch.equal(found.broken, one.broken)


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


# --- noise ------------------------------------------------------------------------------------------------------------


@each_threat
def test_noise_is_of_full_size_and_random(threat):
    x = torch.full((20, 3, 6, 6), 0.5, dtype=torch.float64)
    silent = lambda z: torch.zeros(len(z), 2)  # noqa: E731
    found = noise(silent, x, torch.zeros(20, dtype=torch.long), threat, Noise(draws=4), keys(20))
    offsets = (found.x_adv - x).flatten(1)
    size = offsets.abs().amax(1) if threat.norm == "linf" else offsets.norm(dim=1)
    assert size.tolist() == pytest.approx([threat.eps] * 20)
    assert not found.broken.any()
    assert float(offsets.mean().abs()) < 0.1 * float(offsets.std())
    assert len({tuple(row) for row in offsets.tolist()}) == 20


def test_noise_returns_the_first_draw_that_breaks(small_net, small_batch):
    x, y = small_batch
    threat = Threat("linf", 0.2)
    found = noise(small_net, x, y, threat, Noise(draws=6), keys(len(x)))
    for draws in range(1, 7):
        fewer = noise(small_net, x, y, threat, Noise(draws=draws), keys(len(x)))
        expected = torch.where((found.step > 0) & (found.step <= draws), found.step, -1)
        assert torch.equal(fewer.step, expected)
    assert len(set(found.step.tolist())) > 2


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


class Counting(nn.Module):
    """Counts the images that pass forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


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
