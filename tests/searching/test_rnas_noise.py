"""RNAS with noise examples: without noise and regulariser it is DARTS; the regulariser is its formula."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.attacks import Keys
from rnas_zoo.errors import UsageError
from rnas_zoo.searching.methods.rnas_noise import RnasNoise, RnasNoiseSettings

from .small import config, everything, same, task_of


@pytest.mark.parametrize("noise", ["uniform", "gaussian", "sign"])
def test_without_noise_and_regulariser_it_is_darts_bit_for_bit(small_data, noise):
    changes = {"attack": "clean", "total_steps": 4}
    darts = task_of(config(small_data, "darts", **changes))
    task = task_of(config(small_data, "rnas_noise", eps="0", settings={"balance": 0.0, "noise": noise}, **changes))
    for index in range(4):
        darts.step(index)
        task.step(index)
    assert same(everything(task), everything(darts))
    assert task.passes == darts.passes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uniform_noise_stays_in_the_ball_and_is_fresh(small_data, norm):
    task = task_of(config(small_data, "rnas_noise", attack="clean", norm=norm, eps="0.1"))
    x, _ = task.train(0)
    first, again, later = (task.method.noisy(task, x, Keys(2, torch.arange(k, k + 8))) for k in (0, 0, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert 0 < float(task.threat.distance(first, x).max()) <= 0.1 + 1e-6
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_the_other_noises(small_data):
    x = torch.full((8, 3, 16, 16), 0.5)
    keys = Keys(2, torch.arange(8))
    for noise in ("gaussian", "sign"):
        task = task_of(config(small_data, "rnas_noise", attack="clean", eps="0.05", settings={"noise": noise}))
        delta = task.method.noisy(task, x, keys) - x
        if noise == "sign":
            torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.05))
        assert float(delta.mean()) == pytest.approx(0, abs=0.005)
        assert float(delta.std()) == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize("regulariser", ["kl", "logits", "loss"])
def test_the_regulariser_is_its_formula(regulariser):
    generator = torch.Generator().manual_seed(0)
    clean, noisy = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.arange(6) % 4
    p, q = clean.softmax(1), noisy.softmax(1)
    wanted = {
        "kl": sum(p[i, k] * torch.log(p[i, k] / q[i, k]) for i in range(6) for k in range(4)) / 6,
        "logits": sum(((clean[i] - noisy[i]) ** 2).sum() for i in range(6)) / 6,
        "loss": sum(abs(torch.log(p[i, y[i]] / q[i, y[i]])) for i in range(6)) / 6,
    }[regulariser]
    found = RnasNoise(RnasNoiseSettings(regulariser=regulariser)).regulariser(clean, noisy, y)
    torch.testing.assert_close(found, wanted)


def test_the_balance_weighs_the_regulariser(small_data):
    slopes = []
    for balance in (0.0, 1.0, 3.0):
        task = task_of(config(small_data, "rnas_noise", attack="clean", eps="0.3", settings={"balance": balance}))
        task.step(0)
        slopes.append(torch.cat([alpha.grad.flatten() for alpha in task.alphas]))
    torch.testing.assert_close(slopes[2] - slopes[0], 3 * (slopes[1] - slopes[0]), rtol=1e-2, atol=1e-4)
    assert float((slopes[1] - slopes[0]).norm()) > 1e-3


def test_global_random_numbers_have_no_part_in_it(small_data):
    task = task_of(config(small_data, "rnas_noise", attack="clean"))
    state = torch.get_rng_state()
    task.step(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{"noise": "salt"}, {"regulariser": "l1"}, {"balance": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match=r"noise is one of|must not be negative"):
        RnasNoiseSettings(**settings)
