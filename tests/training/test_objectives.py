"""What objectives learn from: clean images, or images of the ball that raise the loss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo.attacks import FGSMRS, KLPGD, NFGSM, PGD, Keys, Threat, kl_pgd, n_fgsm, pgd
from rnas_zoo.attacks.pgd import offset
from rnas_zoo.errors import UnknownNameError, UsageError
from rnas_zoo.training.attention import Taps, attention_loss, attention_map, tutor_layers
from rnas_zoo.training.cross_layer import CrossLayer
from rnas_zoo.training.objectives import OBJECTIVES, SINGLE_STEP, Objective, evaluating, perturbation

from .small import copied, equal, network, taught

KEYS = Keys(3, torch.arange(24))


def test_clean_training_learns_from_the_images_as_they_are(small_net, small_batch):
    x, y = small_batch
    assert perturbation("clean", 7)(small_net, x, y, Threat(), KEYS) is x


@pytest.mark.parametrize("threat", [Threat("linf", 0.04), Threat("l2", 0.3)], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 7, 10])
def test_adversarial_images_raise_the_loss_within_the_ball(small_net, small_batch, threat, steps):
    x, y = small_batch
    small_net.train()
    state = {key: value.clone() for key, value in small_net.state_dict().items()}
    found = perturbation("pgd", steps)(small_net, x, y, threat, KEYS)
    assert small_net.training
    assert all(torch.equal(value, state[key]) for key, value in small_net.state_dict().items()), "statistics untouched"
    assert float(threat.distance(found, x).max()) <= threat.eps + 1e-7
    small_net.eval()
    before, after = (F.cross_entropy(small_net(images), y).item() for images in (x, found))
    assert after > before + 0.01
    assert not found.requires_grad


@pytest.mark.parametrize(("steps", "relative"), [(1, 1.75), (7, 0.25), (10, 0.25)])
def test_a_step_is_a_quarter_of_the_ball_or_wide_enough_to_cross_it(small_net, small_batch, steps, relative):
    x, y = small_batch
    threat = Threat("linf", 0.04)
    expected = pgd(small_net, x, y, threat, PGD(steps=steps, relative_step=relative), KEYS).x_adv
    assert torch.equal(perturbation("pgd", steps)(small_net, x, y, threat, KEYS), expected)
    assert 7 * 0.25 * threat.eps == pytest.approx(1.75 * threat.eps)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_ends_with_the_block(small_net, training):
    small_net.train(training)
    with pytest.raises(ZeroDivisionError), evaluating(small_net):
        raise ZeroDivisionError
    assert small_net.training == training
    with evaluating(small_net):
        assert not any(module.training for module in small_net.modules())


def test_unknown_objectives_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown objective 'pgf'.*Did you mean pgd.*Known: clean, pgd"):
        perturbation("pgf", 7)


@pytest.mark.parametrize("steps", [0, -1])
def test_an_attack_without_steps_is_refused(steps):
    with pytest.raises(UsageError, match="at least one attack step"):
        perturbation("pgd", steps)


@pytest.mark.parametrize(("name", "config"), [("nfgsm", NFGSM()), ("fgsm_rs", FGSMRS())])
def test_single_step_training_learns_from_the_attacks_of_its_papers(small_net, small_batch, name, config):
    x, y = small_batch
    threat = Threat("linf", 0.04)
    small_net.train()
    state = {key: value.clone() for key, value in small_net.state_dict().items()}
    found = perturbation(name, 7)(small_net, x, y, threat, KEYS)
    assert small_net.training
    assert all(torch.equal(value, state[key]) for key, value in small_net.state_dict().items()), "statistics untouched"
    small_net.eval()
    assert torch.equal(found, n_fgsm(small_net, x, y, threat, config, KEYS).x_adv)
    assert name in SINGLE_STEP


@pytest.mark.parametrize("name", ["pgd", "nfgsm", "fgsm_rs"])
def test_an_attack_in_training_mode_uses_and_updates_the_batches_statistics(small_net, small_batch, name):
    x, y = small_batch
    small_net.train()
    twin = copy.deepcopy(small_net)
    found = perturbation(name, 1, "train")(small_net, x, y, Threat("linf", 0.04), KEYS)
    assert small_net.training
    assert int(small_net[1].num_batches_tracked) == int(twin[1].num_batches_tracked) + 1
    assert not torch.equal(small_net[1].running_mean, twin[1].running_mean)
    config = {"pgd": PGD(steps=1, relative_step=1.75), "nfgsm": NFGSM(), "fgsm_rs": FGSMRS()}[name]
    attack = pgd if name == "pgd" else n_fgsm
    assert torch.equal(found, attack(twin, x, y, Threat("linf", 0.04), config, KEYS).x_adv)
    small_net.eval()
    assert not torch.equal(perturbation(name, 1)(small_net, x, y, Threat("linf", 0.04), KEYS), found)


@pytest.mark.parametrize("name", ["pgd", "nfgsm", "fgsm_rs"])
def test_unknown_attack_modes_are_refused(name):
    with pytest.raises(UsageError, match="unknown attack mode 'off'; use eval or train"):
        perturbation(name, 1, "off")


# --- losses -----------------------------------------------------------------------------------------------------------

THREAT = Threat("linf", 0.04)


def divergence(target, logits):
    """KL(target ‖ logits), mean over the batch, from probabilities."""
    p, q = target.softmax(1), logits.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def learned(objective, net, x, y, threat=THREAT):
    """What the objective makes of a copy of the network in training mode: result, gradients, the copy."""
    own = copy.deepcopy(net).train()
    found = objective(own, own, x, y, threat, KEYS)
    found.loss.backward()
    return found, [weight.grad for weight in own.parameters()], own


def naive(net, passes):
    """Gradients of a loss written out: `passes` maps a network in training mode to it."""
    own = copy.deepcopy(net).train()
    loss = passes(own)
    return loss, torch.autograd.grad(loss, list(own.parameters())), own


def compare(found, expected, statistics=True):
    (learned_loss, gradients, own), (loss, wanted, twin) = found, expected
    torch.testing.assert_close(learned_loss.loss.double(), loss, rtol=1e-5, atol=1e-7)
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    if statistics:
        assert equal(copied(own), copied(twin)), "each pass in training mode moved the running statistics once"


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(24, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (24,), generator=generator)


@pytest.mark.parametrize(("beta", "steps"), [(6.0, 10), (1.5, 3), (6.0, 12)])
def test_trades_is_cross_entropy_and_a_divergence_through_both_passes(batch, beta, steps):
    x, y = batch
    net = network()
    relative = 0.003 / 0.031 if steps >= 10 else max(0.25, 1.75 / steps)
    config = KLPGD(steps=steps, relative_step=relative)
    x_adv = kl_pgd(net.eval(), x, y, THREAT, config, KEYS).x_adv

    def passes(own):
        clean, other = own(x), own(x_adv)
        return F.cross_entropy(clean, y) + beta * divergence(clean, other)

    objective = Objective("trades", steps, beta=beta)
    assert torch.equal(objective.perturbed(net, x, y, THREAT, KEYS), x_adv)
    found = learned(objective, net, x, y)
    compare(found, naive(net, passes))
    assert found[0].parts.keys() == {"divergence"}
    assert float(found[0].parts["divergence"]) > 0


def test_the_attack_of_trades_leaves_the_statistics_alone(batch):
    net = network().train()
    before = copied(net)
    x_adv = Objective("trades", 5).perturbed(net, *batch, THREAT, KEYS)
    assert net.training
    assert equal(copied(net), before)
    assert float(THREAT.distance(x_adv, batch[0]).max()) <= THREAT.eps + 1e-9
    assert not x_adv.requires_grad


def test_in_training_mode_trades_starts_from_the_prediction_of_the_network_it_attacks(batch):
    x, y = batch
    net = network().train()
    twin = copy.deepcopy(net)
    found = Objective("trades", 10, mode="train").perturbed(net, x, y, THREAT, KEYS)
    assert torch.equal(found, kl_pgd(twin, x, y, THREAT, KLPGD(), KEYS).x_adv)
    assert int(net[1].num_batches_tracked) == 11, "one pass of clean images, ten of the attack"


def climbed(net, x, target, steps, size):
    """The loop of RSLAD's code: sign steps on KL(target ‖ network), from x plus small noise."""
    draw = kl_pgd(net, x, torch.zeros(len(x), dtype=torch.long), THREAT, KLPGD(steps=0), KEYS).x_adv
    z = draw.clone()
    for _ in range(steps):
        z = z.detach().requires_grad_()
        loss = F.kl_div(net(z).log_softmax(1), target.softmax(1), reduction="sum")
        (slope,) = torch.autograd.grad(loss, z)
        z = torch.min(torch.max(z.detach() + size * slope.sign(), x - THREAT.eps), x + THREAT.eps).clamp(0, 1)
    return z


@pytest.mark.parametrize(("steps", "relative"), [(10, 0.25), (4, 1.75 / 4)])
def test_rslad_weighs_two_divergences_from_the_teachers_clean_prediction(batch, steps, relative):
    x, y = batch
    net, teacher = network(), taught()
    target = teacher(x)
    x_adv = climbed(net.eval(), x, target, steps, relative * THREAT.eps)
    own = climbed(net, x, net(x).detach(), steps, relative * THREAT.eps)
    assert not torch.allclose(x_adv, own), "driven away from the teacher, not from the student itself"

    def passes(own):
        near = divergence(target, own(x))
        return 5 / 6 * divergence(target, own(x_adv)) + near / 6

    objective = Objective("rslad", steps, teacher=teacher)
    torch.testing.assert_close(objective.perturbed(net, x, y, THREAT, KEYS), x_adv, rtol=0, atol=1e-9)
    found = learned(objective, net, x, y)
    compare(found, naive(net, passes))
    assert found[0].parts.keys() == {"clean_divergence", "robust_divergence"}


def test_labels_play_no_part_in_rslad(batch):
    x, y = batch
    losses = [learned(Objective("rslad", 3, teacher=taught()), network(), x, labels)[0].loss for labels in (y, 3 - y)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["trades", "rslad"])
@pytest.mark.parametrize(("single", "config"), [("nfgsm", NFGSM()), ("fgsm_rs", FGSMRS())])
def test_one_step_may_stand_in_for_several(batch, name, single, config):
    x, y = batch
    net, teacher = network().eval(), taught()
    target = net(x).detach() if name == "trades" else teacher(x)
    noisy = (x + config.noise * offset(x, THREAT, KEYS, "n-fgsm")).clamp(0, 1).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(target, net(noisy)), noisy)
    expected = noisy.detach() + config.relative_step * THREAT.eps * slope.sign()
    if config.project:
        expected = torch.min(torch.max(expected, x - THREAT.eps), x + THREAT.eps)
    objective = Objective(name, 7, single, teacher=teacher)
    found = objective.perturbed(net, x, y, THREAT, KEYS)
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=0, atol=1e-9)
    assert objective.images == single
    several = objective.with_steps(2)
    assert (several.name, several.single, several.attack_steps, several.images) == (name, "", 2, "pgd")
    assert several.teacher is teacher


# --- teachers ---------------------------------------------------------------------------------------------------------


def attention_of(student, teacher, x, names, tutors, teacher_names):
    """Logits and A, with chosen tutors, from the maps of the taps."""
    with Taps(student, names) as own:
        logits = student(x)
    with torch.no_grad(), Taps(teacher, teacher_names) as other:
        teacher(x)
    maps = [attention_map(output, 14) for output in own.outputs]
    aims = [attention_map(other.outputs[i], 14) for i in tutors]
    return logits, attention_loss(maps, aims, torch.eye(len(maps)))


def test_rnas_cl_is_cross_entropy_divergence_and_attention(batch):
    x, y = batch
    net, teacher = network(), taught()
    layers = tutor_layers(net, (8, 8)), tutor_layers(teacher, (8, 8))
    assert layers == (["0", "3"], ["0", "3"])

    def passes(own):
        logits, attention = attention_of(own, teacher, x, ["0", "3"], (1, 1), ["0", "3"])
        return F.cross_entropy(logits, y, label_smoothing=0.1) + 0.7 * divergence(teacher(x), logits) + 3 * attention

    own = copy.deepcopy(net).train()
    cross = CrossLayer(own, teacher, (8, 8), tutors=(1, 1))
    objective = Objective("rnas_cl", smoothing=0.1, teacher=teacher, cross_layer=cross, distill=0.7, attention=3.0)
    assert objective.images == "clean"
    found = objective(own, own, x, y, THREAT, KEYS)
    found.loss.backward()
    compare((found, [weight.grad for weight in own.parameters()], own), naive(net, passes))
    assert found.parts.keys() == {"distillation", "attention"}


@pytest.mark.parametrize("name", ["clean", "pgd", "nfgsm"])
def test_a_teacher_joins_its_divergence_to_cross_entropy(batch, name):
    """The teacher sees the clean images, the student those it learns from."""
    x, y = batch
    net, teacher = network(), taught()
    x_adv = perturbation(name, 3)(net.eval(), x, y, THREAT, KEYS)

    def passes(own):
        logits = own(x_adv)
        return F.cross_entropy(logits, y) + 2 * divergence(teacher(x), logits)

    compare(learned(Objective(name, 3, teacher=teacher, distill=2.0), net, x, y), naive(net, passes))


def test_with_trades_a_teacher_speaks_of_the_clean_pass(batch):
    x, y = batch
    net, teacher = network(), taught()
    x_adv = Objective("trades", 3).perturbed(net.eval(), x, y, THREAT, KEYS)
    own = copy.deepcopy(net).train()
    cross = CrossLayer(own, teacher, (8, 8))

    def passes(own):
        clean, attention = attention_of(own, teacher, x, ["0", "3"], cross.tutors, ["0", "3"])
        told = divergence(teacher(x), clean) + 0.5 * attention
        return F.cross_entropy(clean, y) + told + 4 * divergence(clean, own(x_adv))

    objective = Objective("trades", 3, beta=4.0, teacher=teacher, cross_layer=cross, attention=0.5)
    found = objective(own, own, x, y, THREAT, KEYS)
    found.loss.backward()
    compare((found, [weight.grad for weight in own.parameters()], own), naive(net, passes))
    assert found.parts.keys() == {"distillation", "attention", "divergence"}


def test_teachers_learn_nothing(batch):
    teacher = taught()
    before = copied(teacher)
    for name in OBJECTIVES:
        learned(Objective(name, 2, teacher=teacher), network(), *batch)
    assert equal(copied(teacher), before)
    assert not any(weight.requires_grad or weight.grad is not None for weight in teacher.parameters())
    assert not teacher.training


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "single", "images", "several"),
    [
        ("clean", "", "clean", "clean"),
        ("pgd", "", "pgd", "pgd"),
        ("nfgsm", "", "nfgsm", "pgd"),
        ("fgsm_rs", "", "fgsm_rs", "pgd"),
        ("trades", "", "pgd", "trades"),
        ("trades", "fgsm_rs", "fgsm_rs", "trades"),
        ("rslad", "", "pgd", "rslad"),
        ("rnas_cl", "", "clean", "rnas_cl"),
    ],
)
def test_the_images_of_each_objective(name, single, images, several):
    objective = Objective(name, 7, single, teacher=taught())
    assert objective.images == images
    assert (objective.with_steps(3).name, objective.with_steps(3).attack_steps) == (several, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": "trade"}, UnknownNameError, "unknown objective 'trade'.*Did you mean trades"),
        ({"name": "rslad"}, UsageError, "rslad learns from a robust teacher: name one with --teacher"),
        ({"name": "rnas_cl"}, UsageError, "rnas_cl learns from a robust teacher"),
        ({"name": "trades", "single": "pgd"}, UsageError, "unknown single-step attack 'pgd'; use nfgsm or fgsm_rs"),
        ({"name": "clean", "attack_steps": 0}, UsageError, "attacks need at least one step, got 0"),
        ({"name": "clean", "mode": "off"}, UsageError, "unknown attack mode 'off'; use eval or train"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        Objective(**arguments)
