"""Search runs: they end in a genotype that builds, the same one however often they are stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from rnas_zoo import genotype
from rnas_zoo.engine.record import read_run
from rnas_zoo.errors import (
    BudgetReachedError,
    CheckpointError,
    InterruptedRunError,
    OutputExistsError,
    UnknownNameError,
    UsageError,
)
from rnas_zoo.searching import run
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.run import configured, search

from ..processes import torchrun
from .small import TINY, config, differences, interrupt_at, left_behind, search_in_parts, teacher_in


@pytest.fixture
def settings(small_data) -> SearchConfig:
    return config(small_data, total_steps=4)


@pytest.fixture(scope="module")
def found(small_data, tmp_path_factory):
    """A finished search: configuration, genotype file, genotype."""
    out = tmp_path_factory.mktemp("search") / "found.json"
    settings = config(small_data, total_steps=5, warmup=0.2)
    return settings, out, search(settings, out, device="cpu")


def alphas(out: Path) -> dict[str, torch.Tensor]:
    state = left_behind(out)["checkpoint"]["task"]["net"]
    return {name: state[name] for name in ("alphas.normal", "alphas.reduce")}


def test_a_search_on_digits_ends_in_a_genotype_that_builds(tmp_path):
    out = tmp_path / "deep" / "mine.json"
    result = search(SearchConfig("digits", total_steps=2, **TINY), out, device="cpu")
    assert result.name == "mine"
    read = genotype.load(out)
    assert read.to_json() == json.loads(json.dumps(result.to_json()))
    assert read.kind == "cells"
    for role in ("normal", "reduce"):
        assert len(read.structure[role].edges) == 8
        assert all(edge.op != "none" for edge in read.structure[role].edges)
    model = timm.create_model("rnas_cells", genotype=str(out), channels=4, layers=5).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert read.provenance["dataset"] == "digits"


def test_provenance_tells_how_to_search_it_again(found, tmp_path):
    settings, out, result = found
    told = genotype.load(out).provenance
    assert (told["status"], told["method"], told["seed"], told["dataset"]) == ("ours", "darts", 2, "blobs")
    assert told["config"] == json.loads(json.dumps(asdict(settings)))
    assert told["cost"]["seconds"] > 0
    # Four of five steps come after the warm-up of 0.2. Forward and backward, an architecture step passes an image once,
    # a weight step once per attack step and once; the 6 held-out images are looked at once, 12 times forward, 10 back.
    assert told["cost"]["architecture_steps"] == 4
    assert told["cost"]["image_passes"] == 2 * 8 * (5 * 2 + 4) + 6 * 22
    assert told["cost"]["processes"] == 1
    again = search(SearchConfig(**told["config"]), tmp_path / "again.json", device="cpu")
    assert again.structure == result.structure
    assert differences(alphas(out), alphas(tmp_path / "again.json")) == []


def test_the_history_of_alpha_ends_with_what_was_derived(found):
    _, out, result = found
    history = left_behind(out)["alphas"]
    assert set(history) == {"step", "normal", "reduce"}
    assert history["step"].tolist() == [1, 2, 3, 4, 5]
    for role in ("normal", "reduce"):
        torch.testing.assert_close(history[role][-1], alphas(out)[f"alphas.{role}"].softmax(1))
        for edge, (node, place) in zip(result.structure[role].edges, np.ndindex(4, 2), strict=True):
            first = sum(2 + earlier for earlier in range(node))
            row = history[role][-1, first + edge.source]
            assert genotype.PRIMITIVES[1 + int(row[1:].argmax())] == edge.op, place


CASES = {
    "darts": {"attack": "nfgsm"},
    "darts_clean": {"attack": "clean"},
    "rnas_noise": {"attack": "clean"},
    "rnas_vuln": {"tail": 0.5, "warmup": 0.1},
    "arnas": {"none": False},
    "e2rnas": {"attack": "fgsm_rs"},
    "rnas_cl": {"attack": "clean", "tail": 0.5, "shared": True, "optimizer": "adam", "settings": {"depth": 1}},
    "random": {},
}


@pytest.mark.usefixtures("short_looks")
@pytest.mark.parametrize("method", CASES)
def test_an_interrupted_search_ends_as_an_uninterrupted_one(small_data, tmp_path, monkeypatch, method):
    """Interrupted in a first step, in a tail and in the step after one; once where steps are slow."""
    changes = dict(CASES[method])
    steps, stops = (3, (1,)) if method in ("arnas", "e2rnas") else (5, (0, 3, 4))
    if method == "rnas_cl":
        changes["teacher"] = teacher_in(tmp_path)
    settings = config(small_data, method, steps, **changes)
    whole = search(settings, tmp_path / "whole.json", device="cpu")
    parts = search_in_parts(monkeypatch, settings, tmp_path / "parts.json", *stops)
    assert parts.structure == whole.structure
    assert differences(left_behind(tmp_path / "whole.json"), left_behind(tmp_path / "parts.json")) == []
    for told in (parts.provenance, whole.provenance):
        told["cost"].pop("seconds")
    assert parts.provenance == whole.provenance
    if "tail" in changes:
        assert [index % 2 for index in (3, 4)] == [1, 0], "an epoch has two steps, of which the second is the tail"


def test_an_interrupted_search_leaves_no_genotype(settings, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(InterruptedRunError, match="after step 2 of 4"):
        search(settings, tmp_path / "x.json", device="cpu")
    assert not (tmp_path / "x.json").exists()


def test_the_seed_decides_the_architecture_parameters(found, tmp_path):
    settings, out, _ = found
    search(replace(settings, seed=5, total_steps=1), tmp_path / "other.json", device="cpu")
    assert len(differences(alphas(out), alphas(tmp_path / "other.json"))) == 2


def test_searching_does_not_touch_global_random_numbers(settings, tmp_path):
    before = torch.get_rng_state()
    search(replace(settings, total_steps=1), tmp_path / "x.json", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


# --- outputs and refusals ---------------------------------------------------------------------------------------------


def test_a_finished_search_is_returned_as_it_is(found):
    settings, out, result = found
    before = {path: path.read_bytes() for path in [out, *out.with_suffix(".run").iterdir()]}
    again = search(settings, out, resume=True, device="cpu")
    assert again.to_json() == json.loads(json.dumps(result.to_json()))
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_without_its_genotype_writes_it_again(found, tmp_path):
    settings, out, result = found
    shutil.copytree(run.run_folder(out), tmp_path / "x.run")
    again = search(settings, tmp_path / "x.json", resume=True, device="cpu")
    assert again.structure == result.structure == genotype.load(tmp_path / "x.json").structure


def test_existing_files_are_refused_and_kept(found, tmp_path):
    settings, out, _ = found
    before = out.read_bytes()
    with pytest.raises(OutputExistsError, match="add --resume"):
        search(settings, out, device="cpu")
    with pytest.raises(CheckpointError, match="seed"):
        search(replace(settings, seed=8), out, resume=True, device="cpu")
    assert out.read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_json_is_never_overwritten(settings, tmp_path, resume):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputExistsError):
        search(settings, tmp_path / "mine.json", resume=resume, device="cpu")
    assert (tmp_path / "mine.json").read_text() == "{}"
    assert not (tmp_path / "mine.run").exists()


@pytest.mark.parametrize("name", ["found", "found.txt", "found.json.gz"])
def test_a_genotype_goes_to_a_json_file(settings, tmp_path, name):
    with pytest.raises(UsageError, match=r"\.json"):
        search(settings, tmp_path / name, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"method": "dart"}, UnknownNameError, "Did you mean darts"),
        ({"attack": "pgf"}, UnknownNameError, "Did you mean pgd"),
        ({"data": "digit"}, UnknownNameError, "Did you mean digits"),
        ({"channels": 1}, UsageError, "at least 2 channels"),
        ({"partial": 2}, UsageError, "multiple of 4"),
        ({"batch_size": 40}, UsageError, "lower --batch-size"),
        ({"eps": "8"}, UsageError, "write 8/255"),
        ({"attack_steps": 0}, UsageError, "attack step"),
        ({"attack_mode": "off"}, UsageError, "use eval or train"),
        ({"optimizer": "lion"}, UsageError, "use sgd or adam"),
        ({"augmentation": "rotate"}, UsageError, "known are none"),
        ({"precision": "fp8"}, UsageError, "unknown precision"),
        ({"total_steps": -3}, UsageError, "at least 1"),
        ({"settings": {"balance": 1.0}}, UsageError, "unknown field 'balance'"),
        ({"method": "rnas_cl", "attack": "clean"}, UsageError, "none is known for blobs"),
    ],
)
def test_a_wrong_configuration_is_refused_and_leaves_nothing(settings, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        search(replace(settings, **changes), tmp_path / "x.json", device="cpu")
    assert list(tmp_path.iterdir()) == []


# --- how many steps ---------------------------------------------------------------------------------------------------


def test_steps_are_fitted_to_the_budget_once(settings, tmp_path, monkeypatch):
    open_ended = replace(settings, total_steps=0)
    monkeypatch.setattr(run, "seconds_per_step", lambda step, probes: step(0) and 1.0)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(InterruptedRunError, match="after step 2 of 11"):
        search(open_ended, tmp_path / "x.json", fit_seconds=14.6, device="cpu")
    monkeypatch.setattr(run, "seconds_per_step", lambda step, probes: pytest.fail("measured again"))
    interrupt_at(monkeypatch, 2)
    with pytest.raises(InterruptedRunError, match="after step 3 of 11"):
        search(open_ended, tmp_path / "x.json", resume=True, time_budget=1e6, device="cpu")
    assert read_run(tmp_path / "x.run")["config"]["total_steps"] == 11  # 0.9 of the time, a tenth of it for looks


def test_steps_fit_the_time_that_is_left_unless_they_are_not_to(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "seconds_per_step", lambda step, probes: 1.0)
    for name, options, fewest, most in (("fit", {}, 780, 818), ("epochs", {"fit_budget": False}, 150, 150)):
        interrupt_at(monkeypatch, 0)
        with pytest.raises(InterruptedRunError):
            search(
                replace(settings, total_steps=0), tmp_path / f"{name}.json", time_budget=1000, device="cpu", **options
            )
        assert fewest <= read_run(tmp_path / f"{name}.run")["config"]["total_steps"] <= most


def test_a_budget_stops_a_search_resumably(settings, tmp_path):
    with pytest.raises(BudgetReachedError, match="after step 0 of 4"):
        search(settings, tmp_path / "x.json", time_budget=1e-9, device="cpu")
    assert read_run(tmp_path / "x.run")["status"] == "stopped"
    assert not (tmp_path / "x.json").exists()


def test_without_a_budget_the_steps_are_epochs(settings, tmp_path):
    # 54 images are not held out; half of them make 3 batches of 8.
    search(replace(settings, total_steps=0, epochs=1, attack="clean"), tmp_path / "x.json", device="cpu")
    assert read_run(tmp_path / "x.run")["config"]["total_steps"] == 3


def test_steps_are_fitted_to_image_passes(small_data, tmp_path):
    settings = config(small_data, "rnas_noise", 0, attack="clean", warmup=0.5)
    search(settings, tmp_path / "x.json", pass_budget=640, device="cpu")
    spent = genotype.load(tmp_path / "x.json").provenance["cost"]["image_passes"]
    # A step that warms up takes 16 passes, another one 48. Looks of 132 take a tenth of what steps of 5 passes take: 20
    # of them in 1000 steps, and the one there is at least.
    steps = int(640 / ((16 + 48) / 2 + 20 * 132 / 1000))
    assert read_run(tmp_path / "x.run")["config"]["total_steps"] == steps == 18
    assert spent == 9 * 16 + 9 * 48 + 132


# --- configurations ---------------------------------------------------------------------------------------------------

DARTS = {"epochs": 50, "batch_size": 64, "learning_rate": 0.025, "last_rate": 0.001, "arch_learning_rate": 3e-4,
         "arch_betas": (0.5, 0.999), "arch_weight_decay": 1e-3, "weight_decay": 3e-4, "momentum": 0.9, "clip": 5.0,
         "warmup": 0.0, "tail": 0.0, "channels": 16, "layers": 8, "none": True, "partial": 1, "optimizer": "sgd",
         "shared": False, "attack": "pgd", "attack_steps": 7, "attack_mode": "eval", "eps": "8/255", "norm": "linf",
         "augmentation": "", "settings": {}}  # fmt: skip
PAPERS = {
    "darts": {},
    "darts_clean": {"attack": "clean"},
    "rnas_noise": {"attack": "clean"},
    "arnas": {"batch_size": 32, "channels": 24, "none": False, "attack_mode": "train"},
    "e2rnas": {"attack": "fgsm_rs", "eps": "2/255", "augmentation": "pad_crop_flip_cutout"},
    "rnas_vuln": {"epochs": 60, "batch_size": 128, "warmup": 15 / 60, "tail": 0.5, "learning_rate": 0.01,
                  "last_rate": 0.0, "arch_learning_rate": 6e-4, "settings": {"limit": 1e-4}},
    "rnas_cl": {"epochs": 100, "batch_size": 256, "attack": "clean", "tail": 0.2, "shared": True, "optimizer": "adam",
                "learning_rate": 0.004, "last_rate": 0.004 * 4e-5, "weight_decay": 2e-4, "arch_learning_rate": 0.1,
                "arch_betas": (0.9, 0.999), "arch_weight_decay": 1e-4, "clip": 0.0, "augmentation": "pad_crop_flip"},
}  # fmt: skip


@pytest.mark.parametrize("method", PAPERS)
def test_the_presets_of_papers_are_the_papers(method):
    found = configured("digits", method, "paper")
    values = {**asdict(found), "last_rate": found.learning_rate * found.learning_rate_floor}
    wanted = {**DARTS, **PAPERS[method]}
    assert values.pop("last_rate") == pytest.approx(wanted.pop("last_rate"))
    assert {name: values[name] for name in wanted} == wanted
    assert (found.data, found.method, found.preset) == ("digits", method, "paper")
    assert found.arch_learning_rate_floor == (4e-5 if method == "rnas_cl" else 1.0)


@pytest.mark.parametrize("method", ["darts", "darts_clean", "rnas_noise", "rnas_vuln", "arnas", "e2rnas"])
def test_fast_presets_have_partial_channels_and_cheap_images(method):
    found = configured("digits", method)
    assert found.attack == ("clean" if method in ("darts_clean", "rnas_noise") else "nfgsm")
    assert (found.batch_size, found.partial, found.warmup, found.learning_rate) == (256, 4, 0.3, 0.1)
    assert (found.learning_rate_floor, found.arch_learning_rate) == (0.0, 0.0)


def test_the_learning_rate_follows_the_batch_of_the_fast_preset():
    assert configured("digits", batch_size=64).learning_rate == pytest.approx(0.025)
    assert configured("digits", batch_size=64, learning_rate=0.3).learning_rate == 0.3
    assert configured("digits", preset="paper", batch_size=128).learning_rate == 0.025
    assert configured("digits", "rnas_cl", batch_size=64).learning_rate == 0.004


def test_settings_are_merged_into_those_of_the_preset():
    found = configured("digits", "rnas_vuln", "paper", settings={"reading": "gaussian"})
    assert found.settings == {"limit": 1e-4, "reading": "gaussian"}
    found = configured("digits", "rnas_vuln", "paper", settings={"limit": 2e-3}, epochs=7)
    assert (found.settings, found.epochs) == ({"limit": 2e-3}, 7)


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "text"),
    [
        (("darts", "quick"), {}, UsageError, "unknown preset 'quick'; use fast or paper"),
        (("dart",), {}, UnknownNameError, "Did you mean darts"),
        (("darts",), {"bach_size": 3}, UsageError, "unknown field 'bach_size'"),
        (("darts",), {"epochs": "many"}, UsageError, "wrong type"),
        (("darts",), {"batch_size": "64"}, UsageError, "wrong type"),
        (("darts",), {"channels": "64"}, UsageError, "wrong type"),
        (("darts",), {"settings": 3}, UsageError, "wrong type"),
    ],
)
def test_wrong_configurations_are_refused(arguments, changes, error, text):
    with pytest.raises(error, match=text):
        configured("digits", *arguments, **changes)


# --- two processes ----------------------------------------------------------------------------------------------------


def test_two_processes_search_as_one(small_data, tmp_path, warm_python):
    torchrun(warm_python, "tests.searching.several", small_data, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert differences(first["net"], second["net"]) == [], "α, weights and running statistics"
    assert first["structure"] == second["structure"] == genotype.load(tmp_path / "whole.json").to_json()["cells"]
    assert first["shapes"] == second["shapes"] == [4], "each takes half of the batch of 8"
    assert not torch.equal(first["positions"], second["positions"])
    assert second["written"] == []
    assert any("whole" in Path(name).name for name in first["written"])
    # Both stopped when one was asked to, and what rank 0 saved is enough to go on as if nothing had happened.
    assert "after step 2 of 3" in first["stopped"]
    assert first["stopped"] == second["stopped"]
    assert differences(left_behind(tmp_path / "whole.json"), left_behind(tmp_path / "parts.json")) == []
    assert differences(first["net"], first["resumed"]) == differences(first["net"], second["resumed"]) == []
    cost = genotype.load(tmp_path / "whole.json").provenance["cost"]
    assert cost["processes"] == 2
    assert cost["image_passes"] == 2 * 8 * 3 * 3 + 2 * 6 * 22  # every process looks at all 6 held-out images
