"""The steps of a training run: what the optimiser does, how regularisers act, and how many fit a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath

from rnas_zoo import data, reference
from rnas_zoo.attacks import Keys
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import InterruptedRunError, UsageError
from rnas_zoo.training import run
from rnas_zoo.training.config import TrainConfig, read_recipe
from rnas_zoo.training.objectives import perturbation
from rnas_zoo.training.run import train
from rnas_zoo.training.task import TrainTask
from rnas_zoo.training.watch import accuracies

from . import runs
from .runs import MODEL, interrupt_at, stop_and_resume, weights
from .small import equal

config = runs.config  # fixture

CPU = torch.device("cpu")


# --- the optimisation -------------------------------------------------------------------------------------------------


def test_weight_decay_acts_on_tensors_with_more_than_one_dimension(config):
    task = TrainTask(replace(config, weight_decay=0.1), data.load(config.data), CPU)
    decayed, plain = task.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in task.model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        name for name, p in task.model.named_parameters() if len(p.shape) in (2, 4)
    }
    assert sorted(names[id(p)] for p in [*decayed["params"], *plain["params"]]) == sorted(names.values())
    assert any(name.endswith(".bias") for name in map(names.get, map(id, plain["params"])))


def test_the_first_step_is_plain_sgd_on_the_adversarial_loss(config):
    """One step with every schedule at its peak, against the update written out."""
    config = replace(config, peak_at=0.0, eps_ramp=0.0, augmentation="none", weight_decay=0.01, label_smoothing=0.1)
    task, twin = (TrainTask(config, data.load(config.data), CPU) for _ in range(2))
    metrics = task.step(0)
    x, y = twin.batches(0)
    x = perturbation("pgd", 1)(twin.model, x, y, config.threat, Keys(3, torch.arange(16)))
    assert 0.02 < float((x - twin.batches(0)[0]).abs().max()) <= 8 / 255 + 1e-6
    logits = twin.model.train()(x)
    target = torch.full((16, 3), 0.1 / 3).scatter_add(1, y[:, None], torch.full((16, 1), 0.9))
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    moved = dict(task.model.named_parameters())
    for name, parameter in twin.model.named_parameters():
        slope = parameter.grad + (0.01 * parameter.data if parameter.ndim > 1 else 0)
        expected = parameter.data - 0.05 * 1.9 * slope  # Nesterov's first step is 1 + momentum
        torch.testing.assert_close(moved[name].data, expected, rtol=1e-4, atol=1e-5)


def test_schedules_are_functions_of_the_fraction_done(config, monkeypatch):
    task = TrainTask(replace(config, total_steps=20, eps_ramp=0.5, peak_at=0.25), data.load(config.data), CPU)
    seen = []
    plain = task.objectives["single"]

    def watched(network, attacked, x, y, threat, keys):
        seen.append(float(threat.eps))
        return plain(network, attacked, x, y, threat, keys)

    task.objectives["single"] = watched
    rates = []
    for index in (0, 2, 5, 10, 19):
        task.step(index)
        rates.append({group["lr"] for group in task.optimizer.param_groups})
    assert seen == pytest.approx([0, 8 / 255 * 0.2, 8 / 255 * 0.5, 8 / 255, 8 / 255])
    cosine = [0.5 * (1 + np.cos(np.pi * (f - 0.25) / 0.75)) for f in (0.5, 0.95)]
    assert [rate for (rate,) in rates] == pytest.approx([0, 0.05 * 0.4, 0.05, 0.05 * cosine[0], 0.05 * cosine[1]])


def test_held_out_images_are_never_trained_on(config):
    task = TrainTask(replace(config, augmentation="none"), data.load(config.data), CPU)
    held = {data.pixel_hash(image) for image in task.held_out.images}
    trained_on = {data.pixel_hash(image.permute(1, 2, 0).numpy()) for image in task.batches.images}
    assert held
    assert not held & trained_on
    test = {data.pixel_hash(image) for image in data.load(config.data).test.images}
    assert not test & (held | trained_on)


# --- drop path and auxiliary head -------------------------------------------------------------------------------------


@pytest.fixture
def regularised(config, npz_file) -> TrainConfig:
    """Drop path and auxiliary head together; the head needs maps of at least 5x5."""
    return replace(
        config,
        data=str(npz_file(size=20)),
        objective="clean",
        total_steps=6,
        drop_path=0.3,
        auxiliary_weight=0.4,
        model_args={**MODEL, "stem": "cifar", "channels": 2},
    )


def test_regularisers_leave_no_trace_in_the_deployed_network(regularised, tmp_path):
    info = train(regularised, tmp_path / "run", device="cpu")
    plain = timm.create_model("rnas_cells", num_classes=3, **regularised.model_args)
    assert weights(tmp_path / "run").keys() == plain.state_dict().keys()
    plain.load_state_dict(weights(tmp_path / "run"))
    _, held_out = data.load(regularised.data).split(3)
    found = accuracies(plain, held_out, regularised.threat, 10, 3, CPU)
    assert found == info["result"]


def test_regularised_runs_resume_with_the_same_weights(regularised, tmp_path, monkeypatch):
    train(regularised, tmp_path / "whole", device="cpu")
    stop_and_resume(regularised, tmp_path / "run", monkeypatch, 2)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    states = [checkpoint.load(tmp_path / name / "checkpoint.safetensors")["task"] for name in ("whole", "run")]
    assert equal(states[0]["auxiliary"], states[1]["auxiliary"])


def test_the_auxiliary_head_trains_and_shapes_the_network(regularised):
    config = replace(regularised, drop_path=0.0)
    task = TrainTask(config, data.load(config.data), CPU)
    without = TrainTask(replace(config, auxiliary_weight=0.0), data.load(config.data), CPU)
    before = {name: p.clone() for name, p in task.auxiliary.named_parameters()}
    for index in range(2):
        task.step(index)
        without.step(index)
    moved = [name for name, p in task.auxiliary.named_parameters() if not torch.equal(p, before[name])]
    assert "classifier.weight" in moved
    assert len(moved) == len(before)
    changed = [
        name
        for (name, a), b in zip(task.model.named_parameters(), without.model.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert any(name.startswith("cells.2") for name in changed)


@pytest.mark.parametrize("auxiliary", [0.0, 0.4])
def test_drop_path_grows_with_the_fraction_done(regularised, auxiliary):
    config = replace(regularised, auxiliary_weight=auxiliary)
    task = TrainTask(config, data.load(config.data), CPU)
    for index in (0, 3, 5):
        task.step(index)
        rates = [module.drop_prob for module in task.model.modules() if isinstance(module, DropPath)]
        assert rates == pytest.approx([0.3 * index / 6] * len(rates))
        assert rates


def test_an_auxiliary_head_needs_a_cell_network_and_large_maps(config):
    for changes in ({"architecture": "test_resnet", "model_args": {}}, {}):
        with pytest.raises(UsageError, match="auxiliary"):
            TrainTask(replace(config, auxiliary_weight=0.4, **changes), data.load(config.data), CPU)


# --- foreign networks -------------------------------------------------------------------------------------------------


def test_a_network_of_others_is_trained_behind_the_normalisation_it_is_loaded_with(config, tmp_path):
    config = replace(config, architecture="test_resnet", model_args={}, total_steps=2, attack_steps=1)
    info = train(config, tmp_path / "run", device="cpu")
    loaded = reference.load("test_resnet", checkpoint=tmp_path / "run" / "model.safetensors")
    task = TrainTask(config, data.load(config.data), CPU)
    task.load_state_dict(checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["task"])
    x = data.to_pixels(task.held_out.images)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), task.network.eval()(x))
    assert accuracies(loaded, task.held_out, config.threat, 10, 3, CPU) == info["result"]


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_fit_chooses_the_steps_that_fill_nine_tenths_of_the_budget(config, monkeypatch):
    asked = []

    def measured(step):
        step(0)
        asked.append(step)
        return 0.02

    monkeypatch.setattr(run, "seconds_per_step", measured)
    fitted = run.fit(replace(config, total_steps=0), data.load(config.data), CPU, 1.0)
    assert fitted == replace(config, total_steps=45)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"objective": "nfgsm", "multi_step_from": 0.5}, 30),  # 0.02 s for one half, 0.04 s for the other
        ({"objective": "nfgsm", "multi_step_from": 0.0}, 22),
        ({"objective": "nfgsm", "multi_step_from": 1.0}, 45),
        ({"objective": "pgd", "multi_step_from": 0.0}, 45),
    ],
)
def test_fit_measures_the_steps_of_each_phase(config, monkeypatch, changes, steps):
    phases = []
    plain = TrainTask.phase

    def phase(self, fraction):
        phases.append(plain(self, fraction))
        return phases[-1]

    monkeypatch.setattr(TrainTask, "phase", phase)

    def measured(step):
        step(0)
        return 0.04 if phases[-1] == "multi" else 0.02

    monkeypatch.setattr(run, "seconds_per_step", measured)
    assert run.fit(replace(config, total_steps=0, **changes), data.load(config.data), CPU, 1.0).total_steps == steps


def test_a_fitted_run_keeps_its_steps_when_resumed(config, tmp_path, monkeypatch):
    open_ended = replace(config, total_steps=0)
    monkeypatch.setattr(run, "seconds_per_step", lambda step: 1.0)
    interrupt_at(monkeypatch, 4)
    with pytest.raises(InterruptedRunError):
        train(open_ended, tmp_path / "run", time_budget=14, fit_budget=True, device="cpu")
    monkeypatch.setattr(run, "seconds_per_step", lambda step: pytest.fail("measured again"))
    info = train(open_ended, tmp_path / "run", resume=True, time_budget=1e6, fit_budget=True, device="cpu")
    assert info["config"]["total_steps"] == info["steps_done"] == 12
    assert read_recipe(tmp_path / "run" / "recipe.toml").total_steps == 12
