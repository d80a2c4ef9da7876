"""Training runs: reproducible, resumable, and what they leave is what was learned."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from rnas_zoo import data
from rnas_zoo.errors import (
    BudgetReachedError,
    CheckpointError,
    DataError,
    OutputExistsError,
    UnknownNameError,
    UsageError,
)
from rnas_zoo.training.config import TrainConfig, model_for, read_recipe, recipe_text
from rnas_zoo.training.run import train
from rnas_zoo.training.task import TrainTask

from . import runs
from .runs import MODEL, short, stop_and_resume, weights
from .small import equal

config = runs.config  # fixture


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """A finished run and its configuration."""
    out = tmp_path_factory.mktemp("trained") / "run"
    config = short(small_data)
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
