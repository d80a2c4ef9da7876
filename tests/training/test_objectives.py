"""What objectives learn from: clean images, or images of the ball that raise the loss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo.attacks import FGSMRS, NFGSM, PGD, Keys, Threat, n_fgsm, pgd
from rnas_zoo.errors import UnknownNameError, UsageError
from rnas_zoo.training.objectives import OBJECTIVES, SINGLE_STEP, evaluating, keys_of_step, perturbation

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
    assert OBJECTIVES == ("clean", "pgd", "nfgsm", "fgsm_rs")


@pytest.mark.parametrize("steps", [0, -1])
def test_an_attack_without_steps_is_refused(steps):
    with pytest.raises(UsageError, match="at least one attack step"):
        perturbation("pgd", steps)


def test_images_are_numbered_through_the_whole_run():
    found = [keys_of_step(9, step, 5, torch.device("cpu")) for step in range(4)]
    assert torch.cat([keys.positions for keys in found]).tolist() == list(range(20))
    assert {keys.seed for keys in found} == {9}


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
