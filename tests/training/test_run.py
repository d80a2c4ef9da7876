"""Training runs: reproducible, resumable, and what they leave is what was learned."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import DropPath

from rnas_zoo import data, reference
from rnas_zoo.attacks import Keys
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import (
    BudgetReachedError,
    CheckpointError,
    DataError,
    InterruptedRunError,
    OutputExistsError,
    UnknownNameError,
    UsageError,
)
from rnas_zoo.training import run
from rnas_zoo.training.config import TrainConfig, model_for, read_recipe, recipe_text
from rnas_zoo.training.objectives import perturbation
from rnas_zoo.training.run import train
from rnas_zoo.training.task import TrainTask
from rnas_zoo.training.watch import accuracies

CPU = torch.device("cpu")
MODEL = {"genotype": "vuln_h", "channels": 4, "layers": 3, "stem": "cifar_stride2"}


@pytest.fixture
def config(small_data) -> TrainConfig:
    return TrainConfig(
        "rnas_cells",
        str(small_data),
        attack_steps=1,
        total_steps=12,
        batch_size=16,
        learning_rate=0.05,
        seed=3,
        model_args=MODEL,
    )


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def interrupt_at(monkeypatch, index: int) -> None:
    """SIGTERM during step `index`, once."""
    plain = TrainTask.step

    def step(self, at: int):
        if at == index:
            monkeypatch.setattr(TrainTask, "step", plain)
            signal.raise_signal(signal.SIGTERM)
        return plain(self, at)

    monkeypatch.setattr(TrainTask, "step", step)


def stop_and_resume(config: TrainConfig, out, monkeypatch, at: int) -> dict:
    interrupt_at(monkeypatch, at)
    with pytest.raises(InterruptedRunError):
        train(config, out, device="cpu")
    assert not (out / "model.safetensors").exists()
    return train(config, out, resume=True, device="cpu")


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """A finished run and its configuration."""
    out = tmp_path_factory.mktemp("trained") / "run"
    config = TrainConfig(
        "rnas_cells",
        str(small_data),
        attack_steps=1,
        total_steps=12,
        batch_size=16,
        learning_rate=0.05,
        seed=3,
        model_args=MODEL,
    )
    return config, out, train(config, out, device="cpu")


# --- reproducible and resumable ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 6, 11])
def test_an_interrupted_run_ends_with_the_same_weights(trained, tmp_path, monkeypatch, at):
    config, out, info = trained
    again = stop_and_resume(config, tmp_path / "run", monkeypatch, at)
    assert equal(weights(tmp_path / "run"), weights(out))
    assert again["result"] == info["result"]
    rows = [(path / "record.jsonl").read_text() for path in (out, tmp_path / "run")]
    assert rows[0] == rows[1]


def test_the_seed_decides_the_weights(trained, tmp_path):
    config, out, _ = trained
    train(config, tmp_path / "same", device="cpu")
    train(replace(config, seed=4), tmp_path / "other", device="cpu")
    assert equal(weights(tmp_path / "same"), weights(out))
    other = weights(tmp_path / "other")
    assert not any(torch.equal(other[key], value) for key, value in weights(out).items() if value.ndim == 4)


def test_training_does_not_touch_global_random_numbers(config, tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(config, total_steps=2, drop_path=0.2), tmp_path / "run", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_training_learns(small_data, tmp_path):
    config = TrainConfig(
        "rnas_cells", str(small_data), objective="clean", augmentation="none", total_steps=40, batch_size=16,
        learning_rate=0.2, model_args=MODEL,
    )  # fmt: skip
    info = train(config, tmp_path / "run", device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40
    assert rows[-1]["accuracy"] > 0.8
    assert info["result"]["clean_accuracy"] > 0.6


def test_a_budget_stops_the_run_and_resume_finishes_it(trained, tmp_path):
    config, out, _ = trained
    with pytest.raises(BudgetReachedError):
        train(config, tmp_path / "run", time_budget=1e-9, device="cpu")
    train(config, tmp_path / "run", resume=True, time_budget=1e9, device="cpu")
    assert equal(weights(tmp_path / "run"), weights(out))


def test_a_run_killed_after_its_last_step_still_gets_its_files(trained, tmp_path, monkeypatch):
    config, out, info = trained

    def killed(self, attack_steps: int = 10):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainTask, "held_out_accuracy", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", device="cpu")
    (tmp_path / "run" / "model.safetensors").unlink()
    again = train(config, tmp_path / "run", resume=True, device="cpu")
    assert again["result"] == info["result"]
    assert equal(weights(tmp_path / "run"), weights(out))


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_weights_load_into_a_model_of_the_same_arguments_and_reach_the_stated_accuracy(trained):
    config, out, info = trained
    model = timm.create_model("rnas_cells", num_classes=3, **MODEL)
    model.load_state_dict(weights(out))
    _, held_out = data.load(config.data).split(config.seed)
    with torch.no_grad():
        found = model.eval()(data.to_pixels(held_out.images)).argmax(1).numpy()
    assert info["result"]["clean_accuracy"] == pytest.approx(np.mean(found == held_out.labels))
    assert info["result"]["pgd_accuracy"] <= info["result"]["clean_accuracy"]
    assert info["classes"] == ["0", "1", "2"]
    assert (info["status"], info["steps_done"]) == ("finished", 12)


def test_the_recipe_is_the_configuration(trained):
    config, out, info = trained
    assert read_recipe(out / "recipe.toml") == config
    assert train(read_recipe(out / "recipe.toml"), out, resume=True, device="cpu") == info


def test_the_recipe_of_a_found_genotype_is_the_configuration(trained, tmp_path):
    config, *_ = trained
    name, arguments = model_for("vuln_h")
    arguments["genotype"]["provenance"]["commit"] = None
    config = replace(config, model_args={**arguments, **MODEL, "genotype": arguments["genotype"]}, total_steps=1)
    (tmp_path / "recipe.toml").write_text(recipe_text(config), encoding="utf-8")
    info = train(config, tmp_path / "run", device="cpu")
    assert name == "rnas_cells"
    assert train(read_recipe(tmp_path / "recipe.toml"), tmp_path / "run", resume=True, device="cpu") == info


def test_an_existing_run_is_refused_and_left_as_it_is(trained):
    config, out, info = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputExistsError):
        train(config, out, device="cpu")
    with pytest.raises(CheckpointError, match="seed"):
        train(replace(config, seed=9), out, resume=True, device="cpu")
    assert train(config, out, resume=True, device="cpu") == info
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_data_decide_the_number_of_classes(npz_file, config, tmp_path):
    path = npz_file(classes=5)
    info = train(replace(config, data=str(path), total_steps=1), tmp_path / "run", device="cpu")
    assert weights(tmp_path / "run")["head.fc.weight"].shape[0] == 5
    assert info["classes"] == list("01234")


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


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"architecture": "rnas_cell"}, UnknownNameError, "Did you mean rnas_cells"),
        ({"objective": "trade"}, UnknownNameError, "unknown objective 'trade'"),
        ({"data": "digit"}, UnknownNameError, "Did you mean digits"),
        ({"data": "none.npz"}, DataError, "no such file"),
        ({"norm": "l7"}, UsageError, "unknown norm"),
        ({"eps": "8"}, UsageError, "write 8/255"),
        ({"attack_steps": 0}, UsageError, "at least one step"),
        ({"precision": "fp8"}, UsageError, "unknown precision"),
        ({"augmentation": "cutmix"}, UsageError, "unknown augmentation"),
        ({"batch_size": 1000}, UsageError, "lower --batch-size"),
        ({"total_steps": 0}, UsageError, "needs total_steps"),
        ({"total_steps": -1}, UsageError, "from 0 to"),
        ({"model_args": {"chanels": 4}}, UsageError, "chanels"),
        ({"model_args": {"num_classes": 4}}, UsageError, "num_classes"),
    ],
)
def test_a_wrong_configuration_is_refused_and_leaves_no_folder(config, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        train(replace(config, **changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_a_typo_is_refused_by_name(trained, tmp_path):
    text = recipe_text(trained[0]).replace("learning_rate", "learning_rat")
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.toml: unknown field 'learning_rat'\. Did you mean learning_rate"):
        read_recipe(tmp_path / "x.toml")


def test_model_for_takes_models_genotypes_and_files(tmp_path):
    assert model_for("rnas_vuln_h") == ("rnas_vuln_h", {})
    name, arguments = model_for("cl_s3")
    assert name == "rnas_students"
    (tmp_path / "mine.json").write_text(json.dumps(arguments["genotype"]))
    assert model_for(str(tmp_path / "mine.json")) == (name, arguments)
    own = {**model_for("vuln_h")[1]["genotype"], "default": {"channels": 6, "layers": 5}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert model_for(str(tmp_path / "own.json")) == ("rnas_cells", {"genotype": own, "channels": 6, "layers": 5})
    with pytest.raises(UnknownNameError, match="rnas_vuln_h"):
        model_for("rnas_vuln_hh")
