"""RNAS beyond DARTS: projections bring F under H while the weights rest; search steps add both losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo.attacks import Keys
from rnas_zoo.errors import UsageError
from rnas_zoo.searching.methods.rnas_vuln import RnasVulnSettings
from rnas_zoo.searching.task import ARCHITECTURE_DRAWS, SearchTask
from rnas_zoo.searching.vulnerability import READINGS

from .small import config, everything, same, task_of

ALL = {
    "tail": 1.0,
    "batch_size": 27,
    "augmentation": "none",
    "eps": "16/255",
}  # every step is a projection on one batch


def spread(task: SearchTask) -> SearchTask:
    """α of a search that has come some way."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for alpha in task.alphas:
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
    return task


@pytest.mark.parametrize("reading", READINGS)
def test_projections_bring_the_vulnerability_under_its_limit_while_the_weights_rest(small_data, reading):
    settings = {"reading": reading, "relative_limit": 0.8}
    task = spread(task_of(config(small_data, "rnas_vuln", 40, settings=settings, **ALL)))
    alphas = [alpha.detach().clone() for alpha in task.alphas]
    before = [
        value for value, name in zip(everything(task), task.net.state_dict(), strict=True) if "alphas" not in name
    ]
    task.watch.period = 99
    values = []
    for index in range(16):
        metrics = task.step(index)
        values.append(float(metrics["vulnerability"]))
        if values[-1] <= values[0] * 0.8:
            break
    limit = float(metrics["vulnerability_limit"])
    assert limit == pytest.approx(0.8 * values[0], rel=1e-5)
    assert values[0] > 1.2 * limit
    assert values[-1] <= limit
    after = [value for value, name in zip(everything(task), task.net.state_dict(), strict=True) if "alphas" not in name]
    assert same(before, after), "weights and running statistics"
    assert "train_loss" not in metrics
    # Under the limit α rests as well.
    assert not same(task.alphas, alphas)
    task.method.state["limit"].fill_(1e9)
    alphas = [alpha.detach().clone() for alpha in task.alphas]
    task.step(16)
    assert same(task.alphas, alphas)


def test_the_limit_is_kept_once_it_is_known(small_data):
    settings = config(small_data, "rnas_vuln", 40, **ALL)
    task = spread(task_of(settings))
    assert task.method.state["limit"] == 0
    first = float(task.step(0)["vulnerability"])
    limit = task.method.state["limit"].clone()
    assert float(limit) == pytest.approx(first / 2)
    resumed = task_of(settings)
    resumed.load_state_dict(task.state_dict())
    assert torch.equal(resumed.method.state["limit"], limit)
    assert float(resumed.step(1)["vulnerability_limit"]) == float(limit)
    given = spread(task_of(config(small_data, "rnas_vuln", 40, settings={"limit": 1e-4}, **ALL)))
    assert float(given.step(0)["vulnerability_limit"]) == pytest.approx(1e-4)


@pytest.mark.parametrize("adversarial_only", [False, True])
def test_search_steps_descend_on_the_validation_losses(small_data, adversarial_only):
    settings = config(small_data, "rnas_vuln", settings={"adversarial_only": adversarial_only})
    task, twin = task_of(settings), task_of(settings)
    u, v = twin.validation(0)
    u_adv = twin.attack(u, v, Keys(twin.seed, twin.train.positions(0) + ARCHITECTURE_DRAWS))
    adversarial, natural = F.cross_entropy(twin.net(u_adv), v), F.cross_entropy(twin.net(u), v)
    wanted = torch.autograd.grad(adversarial if adversarial_only else adversarial + natural, twin.alphas)
    metrics = task.step(0)
    for alpha, gradient in zip(task.alphas, wanted, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-3, atol=1e-6)
    assert float(metrics["adversarial_validation_loss"]) == pytest.approx(adversarial.item(), rel=1e-4)
    assert ("validation_loss" in metrics) == (not adversarial_only)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"reading": "l2"}, "reading must be one of"),
        ({"limit": -1.0}, "limit must not"),
        ({"relative_limit": 0.0}, "positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(UsageError, match=text):
        RnasVulnSettings(**settings)
