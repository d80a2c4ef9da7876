"""Search runs: they end in a genotype that builds, the same one however often they are stopped."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch

from rnas_zoo import data, genotype
from rnas_zoo.engine import checkpoint
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
from rnas_zoo.searching.run import SearchConfig, SearchTask, search

CPU = torch.device("cpu")
TINY = {"channels": 2, "layers": 3, "stem": "cifar_stride2", "batch_size": 16, "attack_steps": 1, "total_steps": 5}


@pytest.fixture
def config(small_data) -> SearchConfig:
    return SearchConfig(str(small_data), **TINY, arch_learning_rate=0.1, seed=2)


@pytest.fixture(scope="module")
def found(small_data, tmp_path_factory):
    """A finished search: configuration, genotype file, genotype."""
    out = tmp_path_factory.mktemp("search") / "found.json"
    config = SearchConfig(str(small_data), **TINY, arch_learning_rate=0.1, seed=2)
    return config, out, search(config, out, device="cpu")


def alphas(out) -> dict[str, torch.Tensor]:
    state = checkpoint.load(out.with_suffix(".run") / "checkpoint.safetensors")["task"]["net"]
    return {role: state[f"alphas.{role}"] for role in ("normal", "reduce")}


def interrupt_at(monkeypatch, index: int) -> None:
    plain = SearchTask.step

    def step(self, at: int):
        if at == index:
            monkeypatch.setattr(SearchTask, "step", plain)
            signal.raise_signal(signal.SIGINT)
        return plain(self, at)

    monkeypatch.setattr(SearchTask, "step", step)


def test_a_search_on_digits_ends_in_a_genotype_that_builds(tmp_path):
    out = tmp_path / "deep" / "mine.json"
    result = search(SearchConfig("digits", **TINY), out, device="cpu")
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
    config, out, result = found
    told = genotype.load(out).provenance
    assert (told["status"], told["method"], told["seed"], told["dataset"]) == ("ours", "darts", 2, "blobs")
    assert told["config"] == json.loads(json.dumps(asdict(config)))
    assert told["cost"]["seconds"] > 0
    # Four of five steps come after the warm-up of 0.2; a weight step passes an image once per attack step, then once.
    assert told["cost"]["architecture_steps"] == 4
    assert told["cost"]["image_passes"] == 5 * 16 * 2 + 4 * 16
    again = search(SearchConfig(**told["config"]), tmp_path / "again.json", device="cpu")
    assert again.structure == result.structure
    assert all(torch.equal(alpha, alphas(tmp_path / "again.json")[role]) for role, alpha in alphas(out).items())


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_search_ends_with_the_same_genotype(found, tmp_path, monkeypatch, at):
    config, out, result = found
    mine = tmp_path / "found.json"
    interrupt_at(monkeypatch, at)
    with pytest.raises(InterruptedRunError):
        search(config, mine, device="cpu")
    assert not mine.exists()
    resumed = search(config, mine, resume=True, device="cpu")
    assert resumed.structure == result.structure
    assert all(torch.equal(alpha, alphas(mine)[role]) for role, alpha in alphas(out).items())
    rows = [(path.with_suffix(".run") / "record.jsonl").read_text() for path in (out, mine)]
    assert rows[0] == rows[1]


def test_the_seed_decides_the_architecture_parameters(found, tmp_path):
    config, out, _ = found
    search(replace(config, seed=5, total_steps=2), tmp_path / "other.json", device="cpu")
    other = alphas(tmp_path / "other.json")
    assert not any(torch.equal(alpha, other[role]) for role, alpha in alphas(out).items())


def test_searching_does_not_touch_global_random_numbers(config, tmp_path):
    before = torch.get_rng_state()
    search(replace(config, total_steps=2), tmp_path / "x.json", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_the_architecture_is_frozen_while_the_weights_warm_up(config):
    task = SearchTask(replace(config, total_steps=5, warmup=0.4), data.load(config.data), CPU)
    before = [alpha.clone() for alpha in task.net.arch_parameters()]
    weights = [weight.clone() for weight in task.weights]
    for index in range(5):
        metrics = task.step(index)
        frozen = all(torch.equal(a, b) for a, b in zip(task.net.arch_parameters(), before, strict=True))
        assert frozen == (index < 2)
        assert ("validation_loss" in metrics) == (index >= 2)
    assert all(not torch.equal(a, b) for a, b in zip(task.weights, weights, strict=True))


def test_weights_and_architecture_learn_from_different_images_of_the_training_split(config):
    dataset = data.load(config.data)
    task = SearchTask(config, dataset, CPU)
    halves = [
        {data.pixel_hash(image.permute(1, 2, 0).numpy()) for image in part.images}
        for part in (task.train, task.validation)
    ]
    kept, held = ({data.pixel_hash(image) for image in part.images} for part in dataset.split(config.seed))
    assert halves[0] & halves[1] == set()
    assert halves[0] | halves[1] == kept
    assert (halves[0] | halves[1]) & held == set()
    assert abs(len(halves[0]) - len(halves[1])) <= 1


def test_architecture_steps_are_adam_on_the_clean_validation_loss(config):
    """The first one, written out: Adam's first step is the sign of gradient plus decay."""
    config = replace(config, warmup=0.0, arch_learning_rate=1e-3, arch_weight_decay=0.0)
    task, twin = (SearchTask(config, data.load(config.data), CPU) for _ in range(2))
    x, y = twin.validation(0)
    loss = torch.nn.functional.cross_entropy(twin.net(x), y)
    gradients = torch.autograd.grad(loss, twin.net.arch_parameters())
    metrics = task.step(0)
    assert float(metrics["validation_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for new, old, slope in zip(task.net.arch_parameters(), twin.net.arch_parameters(), gradients, strict=True):
        clear = slope.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close((new - old)[clear], -1e-3 * slope.sign()[clear], rtol=1e-2, atol=1e-6)


def test_observations_describe_the_cell_that_would_be_derived(config):
    task = SearchTask(config, data.load(config.data), CPU)
    with torch.no_grad():
        task.net.alphas["normal"].fill_(-50.0)[:, 3] = 50.0
        task.net.alphas["reduce"].zero_()
    assert task.observations() == {"entropy": pytest.approx(0.0, abs=1e-6), "skips": 8.0}
    assert {edge.op for edge in task.derive()["normal"].edges} == {"skip_connect"}
    assert {edge.op for edge in task.derive()["reduce"].edges} == {"max_pool_3x3"}
    np.testing.assert_array_equal(task.alphas()["normal"][0], [-50, -50, -50, 50, -50, -50, -50, -50])


# --- outputs and refusals ---------------------------------------------------------------------------------------------


def test_a_finished_search_is_returned_as_it_is(found):
    config, out, result = found
    before = {path: path.read_bytes() for path in [out, *out.with_suffix(".run").iterdir()]}
    again = search(config, out, resume=True, device="cpu")
    assert again.to_json() == json.loads(json.dumps(result.to_json()))
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_without_its_genotype_writes_it_again(found, tmp_path):
    config, out, result = found
    shutil.copytree(run.run_folder(out), tmp_path / "x.run")
    again = search(config, tmp_path / "x.json", resume=True, device="cpu")
    assert again.structure == result.structure == genotype.load(tmp_path / "x.json").structure


def test_existing_files_are_refused_and_kept(found, tmp_path):
    config, out, _ = found
    before = out.read_bytes()
    with pytest.raises(OutputExistsError, match="add --resume"):
        search(config, out, device="cpu")
    with pytest.raises(CheckpointError, match="seed"):
        search(replace(config, seed=8), out, resume=True, device="cpu")
    assert out.read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_json_is_never_overwritten(config, tmp_path, resume):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputExistsError):
        search(config, tmp_path / "mine.json", resume=resume, device="cpu")
    assert (tmp_path / "mine.json").read_text() == "{}"
    assert not (tmp_path / "mine.run").exists()


@pytest.mark.parametrize("name", ["found", "found.txt", "found.json.gz"])
def test_a_genotype_goes_to_a_json_file(config, tmp_path, name):
    with pytest.raises(UsageError, match=r"\.json"):
        search(config, tmp_path / name, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"method": "dart"}, UnknownNameError, "Did you mean darts"),
        ({"objective": "pgf"}, UnknownNameError, "Did you mean pgd"),
        ({"data": "digit"}, UnknownNameError, "Did you mean digits"),
        ({"channels": 1}, UsageError, "at least 2 channels"),
        ({"batch_size": 40}, UsageError, "lower --batch-size"),
        ({"eps": "8"}, UsageError, "write 8/255"),
        ({"attack_steps": 0}, UsageError, "attack step"),
        ({"precision": "fp8"}, UsageError, "unknown precision"),
        ({"total_steps": 0}, UsageError, "needs --steps"),
        ({"total_steps": -3}, UsageError, "at least 1"),
    ],
)
def test_a_wrong_configuration_is_refused_and_leaves_nothing(config, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        search(replace(config, **changes), tmp_path / "x.json", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_steps_are_fitted_to_the_budget_once(config, tmp_path, monkeypatch):
    open_ended = replace(config, total_steps=0)
    monkeypatch.setattr(run, "seconds_per_step", lambda step: step(0) and 1.0)
    interrupt_at(monkeypatch, 0)
    with pytest.raises(InterruptedRunError, match="after step 1 of 12"):
        search(open_ended, tmp_path / "x.json", time_budget=14, device="cpu")
    monkeypatch.setattr(run, "seconds_per_step", lambda step: pytest.fail("measured again"))
    interrupt_at(monkeypatch, 1)
    with pytest.raises(InterruptedRunError, match="after step 2 of 12"):
        search(open_ended, tmp_path / "x.json", resume=True, time_budget=1e6, device="cpu")
    assert read_run(tmp_path / "x.run")["config"]["total_steps"] == 12


def test_a_budget_stops_a_search_resumably(config, tmp_path):
    with pytest.raises(BudgetReachedError, match="after step 0 of 5"):
        search(config, tmp_path / "x.json", time_budget=1e-9, device="cpu")
    assert read_run(tmp_path / "x.run")["status"] == "stopped"
    assert not (tmp_path / "x.json").exists()
