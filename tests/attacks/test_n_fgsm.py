"""N-FGSM and FGSM-RS against the papers' lines, and the laws N-FGSM keeps although it leaves the ball."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo.attacks import FGSMRS, NFGSM, Keys, Threat, losses, n_fgsm, n_fgsm_images
from rnas_zoo.attacks.pgd import offset

from .small import Counting, Linear, each_threat, keys

CONFIGS = {"n-fgsm": NFGSM(), "fgsm-rs": FGSMRS()}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@each_threat
@each_config
def test_it_is_the_papers_lines(small_net, small_batch, threat, config):
    x, y = small_batch
    found = n_fgsm(small_net, x, y, threat, config, keys(len(x)))
    eta = config.noise * offset(x, threat, keys(len(x)), "n-fgsm")
    noisy = (torch.maximum(torch.minimum(eta, 1 - x), -x) + x).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(small_net(noisy), y), noisy)
    move = gradient.sign() if threat.norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    delta = noisy.detach() - x + config.relative_step * threat.eps * move
    if config.project and threat.norm == "linf":
        delta = delta.clamp(-threat.eps, threat.eps)
    elif config.project:
        delta = delta * (threat.eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1)
    torch.testing.assert_close(found.x_adv, (x + delta).clamp(0, 1), rtol=0, atol=1e-8)
    assert torch.equal(found.broken, small_net(found.x_adv).argmax(1) != y)


def test_n_fgsm_on_a_linear_model_is_noise_of_two_eps_plus_a_full_step():
    x = torch.full((50, 3, 4, 4), 0.5, dtype=torch.float64)
    model, y, threat = Linear(), torch.arange(50) % 2, Threat("linf", 0.04)
    noise = n_fgsm(model, x, y, threat, NFGSM(), keys(50)).x_adv - model.worst_point(x, y, threat)
    assert float(noise.abs().max()) <= 2 * threat.eps
    assert float(noise.abs().max()) > 1.95 * threat.eps
    assert float(noise.std()) == pytest.approx(2 * threat.eps / 3**0.5, rel=0.03)


@each_threat
def test_n_fgsm_leaves_the_ball_but_not_the_box(small_net, small_batch, threat):
    x, y = small_batch
    found = n_fgsm(small_net, x, y, threat, NFGSM(), keys(len(x))).x_adv
    away = threat.distance(found, x)
    assert float(away.max()) > 1.2 * threat.eps
    assert float(away.max()) <= 3 * threat.eps + 1e-7
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@each_threat
@each_config
def test_results_depend_on_neither_batch_nor_order(small_net, small_batch, threat, config):
    x, y = small_batch
    whole = n_fgsm(small_net, x, y, threat, config, keys(len(x)))
    for size in (1, 7):
        for part in torch.arange(len(x) - 1, -1, -1).split(size):
            found = n_fgsm(small_net, x[part], y[part], threat, config, Keys(5, part))
            torch.testing.assert_close(found.x_adv, whole.x_adv[part], rtol=0, atol=1e-6)


@each_threat
def test_an_eps_per_image_gives_what_each_eps_gives(small_net, small_batch, threat):
    x, y = small_batch
    eps = threat.eps * torch.linspace(0, 1, len(x), dtype=x.dtype)
    mixed = n_fgsm(small_net, x, y, Threat(threat.norm, eps), NFGSM(), keys(len(x)))
    for i in range(len(x)):
        one, row = Threat(threat.norm, float(eps[i])), torch.tensor([i])
        found = n_fgsm(small_net, x[row], y[row], one, NFGSM(), Keys(5, row))
        torch.testing.assert_close(mixed.x_adv[row], found.x_adv, rtol=0, atol=1e-6)


def test_weights_random_state_and_passes(small_net, small_batch):
    x, y = small_batch
    before, model = torch.get_rng_state(), Counting(small_net)
    found = n_fgsm(model, x, y, Threat(), NFGSM(), keys(len(x)))
    assert (found.forwards, found.backwards) == (model.forwards, model.backwards)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in small_net.parameters())


def test_the_papers_defaults_are_the_defaults():
    assert NFGSM() == NFGSM(noise=2.0, relative_step=1.0, project=False)
    assert FGSMRS() == FGSMRS(noise=1.0, relative_step=1.25, project=True)
    assert 1.25 * Threat().eps == pytest.approx(10 / 255)


@each_threat
@each_config
def test_images_raise_the_loss_that_is_given(small_net, small_batch, threat, config):
    x, y = small_batch
    target = torch.randn(len(x), 4, generator=torch.Generator().manual_seed(3), dtype=x.dtype)

    def objective(logits):
        return losses.kl(logits, target)

    counted = Counting(small_net)
    found = n_fgsm_images(counted, x, y, threat, config, keys(len(x)), objective)
    assert (counted.forwards, counted.backwards) == (len(x), len(x))
    noisy = (x + config.noise * offset(x, threat, keys(len(x)), "n-fgsm")).clamp(0, 1).requires_grad_()
    divergence = F.kl_div(small_net(noisy).log_softmax(1), target.softmax(1), reduction="sum")
    (slope,) = torch.autograd.grad(divergence, noisy)
    move = slope.sign() if threat.norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = noisy.detach() + config.relative_step * threat.eps * move
    expected = threat.project(expected, x) if config.project else expected.clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    plain = n_fgsm_images(small_net, x, y, threat, config, keys(len(x)))
    assert torch.equal(plain, n_fgsm(small_net, x, y, threat, config, keys(len(x))).x_adv)
    labelled = n_fgsm_images(
        small_net, x, y, threat, config, keys(len(x)), lambda logits: losses.cross_entropy(logits, y)
    )
    assert torch.equal(plain, labelled)
    assert not torch.allclose(plain, found)
