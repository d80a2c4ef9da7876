"""Studies: several searches, one proxy, the best genotype; the same one however often they are stopped."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest
import torch

from rnas_zoo import data, genotype
from rnas_zoo.attacks import PGD, Keys, pgd
from rnas_zoo.engine.record import read_run
from rnas_zoo.errors import (
    BudgetReachedError,
    CheckpointError,
    InterruptedRunError,
    OutputExistsError,
    UsageError,
)
from rnas_zoo.searching import fit, proxy
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.proxy import Measured, ProxyConfig
from rnas_zoo.searching.run import search
from rnas_zoo.searching.study import Candidate, Limits, study, study_folder
from rnas_zoo.training.task import TrainTask

pytestmark = pytest.mark.usefixtures("short_looks")
CPU = torch.device("cpu")
TINY = {"channels": 2, "layers": 3, "stem": "cifar_stride2", "batch_size": 16, "attack_steps": 1, "total_steps": 3}
PROXY = ProxyConfig(eps="16/255", attack_steps=1, batch_size=16, total_steps=6)


@pytest.fixture(scope="module")
def configs(small_data) -> list[SearchConfig]:
    return [
        SearchConfig(str(small_data), method, **TINY, seed=seed) for method in ("darts", "random") for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def done(configs, tmp_path_factory):
    """A finished study: the genotype's path and the result."""
    out = tmp_path_factory.mktemp("study") / "best.json"
    return out, study(configs, out, proxy_config=PROXY, device="cpu")


def test_the_best_candidate_is_kept_with_all_that_it_was_compared_with(done, configs):
    out, result = done
    best = genotype.load(out)
    told = best.provenance["study"]
    assert best.to_json() == json.loads(json.dumps(result.best.to_json()))
    assert [row["name"] for row in told["candidates"]] == ["darts-s0", "darts-s1", "random-s0", "random-s1"]
    ranks = {row["name"]: (row["pgd"], row["clean"]) for row in told["candidates"]}
    assert ranks[told["chosen"]] == max(ranks.values())
    hashes = {row["name"]: row["hash"] for row in told["candidates"]}
    assert best.hash == hashes[told["chosen"]]
    assert best.provenance["config"] in [json.loads(json.dumps(read)) for read in _configs(configs)]
    assert told["proxy"]["total_steps"] == 6
    spent = sum(row["passes"] + row["search"]["image_passes"] for row in told["candidates"])
    assert told["image_passes"] == spent > 0
    for row in told["candidates"]:
        assert row["passes"] == 6 * 16 * 4  # an attack of one step and the step itself, forward and back


def _configs(configs):
    from rnas_zoo.engine.config import to_dict

    return [to_dict(config) for config in configs]


def test_ties_are_broken_by_clean_accuracy():
    measured = Measured(clean=0.5, pgd=0.25, images=8, steps=1, passes=1, seconds=1.0)
    better = replace(measured, clean=0.6)
    worse = replace(measured, clean=0.9, pgd=0.2)
    ranks = [Candidate("", SearchConfig("x"), None, 0, 0, m).rank for m in (measured, better, worse)]
    assert max(ranks) == ranks[1]


def test_the_accuracy_is_that_of_pgd_on_images_no_search_saw(done, configs):
    _, result = done
    candidate = result.candidates[2]
    config = proxy.training(replace(PROXY), candidate.genotype, configs[0].data, "cifar_stride2")
    dataset = data.load(configs[0].data)
    task = TrainTask(config, dataset, CPU)
    for index in range(6):
        torch.manual_seed(0)
        task.step(index)
    held_out = dataset.split(0)[1]
    x, y = data.to_pixels(held_out.images, CPU), torch.from_numpy(held_out.labels)
    model = task.network.eval()
    clean = model(x).argmax(1) == y
    broken = pgd(model, x, y, config.threat, PGD(steps=10), Keys(0, torch.arange(len(y)))).broken
    assert candidate.measured.clean == pytest.approx(clean.float().mean().item())
    assert candidate.measured.pgd == pytest.approx((clean & ~broken).float().mean().item())
    assert candidate.measured.images == len(held_out) == 6


def test_the_networks_have_the_size_of_their_supernet_or_the_one_the_limits_allow(done, configs, tmp_path):
    assert {tuple(c.genotype.default.items()) for c in done[1].candidates} == {(("channels", 2), ("layers", 3))}
    limits = Limits(max_params=15_000)
    result = study(configs[2:], tmp_path / "x.json", proxy_config=PROXY, limits=limits, device="cpu")
    for candidate in result.candidates:
        assert 10_000 < candidate.params <= 15_000
        assert (candidate.params, candidate.macs) == fit.size(candidate.genotype, 3, (16, 16), "cifar_stride2")
    assert result.best.default == genotype.load(tmp_path / "x.json").default != {"channels": 2, "layers": 3}


def test_the_report_has_every_candidate_and_its_pictures(done):
    out, result = done
    text = (study_folder(out) / "report.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 4
    for candidate in result.candidates:
        assert f"| {candidate.params:,} | {candidate.macs:,} |" in text
    assert f"**{result.best.provenance['study']['chosen'].split('-')[0]}**" in text
    for picture in ("cells.svg", "pareto.svg"):
        assert f"]({picture})" in text
        assert (study_folder(out) / picture).read_text().startswith("<?xml")


@pytest.mark.parametrize(("task", "at"), [("search", 2), ("train", 3)])
def test_an_interrupted_study_ends_like_an_uninterrupted_one(done, configs, tmp_path, monkeypatch, task, at):
    from rnas_zoo.searching.task import SearchTask

    cls = {"search": SearchTask, "train": TrainTask}[task]
    plain, calls = cls.step, []

    def step(self, index):
        if index == at:
            calls.append(index)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
        return plain(self, index)

    monkeypatch.setattr(cls, "step", step)
    out = tmp_path / "best.json"
    with pytest.raises(InterruptedRunError):
        study(configs, out, proxy_config=PROXY, device="cpu")
    assert not out.exists()
    monkeypatch.setattr(cls, "step", plain)
    resumed = study(configs, out, proxy_config=PROXY, resume=True, device="cpu")
    assert resumed.best.structure == done[1].best.structure
    assert [(c.rank, c.genotype.hash) for c in resumed.candidates] == [
        (c.rank, c.genotype.hash) for c in done[1].candidates
    ]


def test_a_finished_study_is_returned_as_it_is(done, configs, monkeypatch):
    out, result = done
    before = {
        path: path.read_bytes() for path in study_folder(out).rglob("*") if path.suffix in (".json", ".safetensors")
    }
    written = out.read_bytes()
    monkeypatch.setattr(TrainTask, "held_out_accuracy", None)
    again = study(configs, out, proxy_config=PROXY, resume=True, device="cpu")
    assert again.best.to_json() == json.loads(json.dumps(result.best.to_json()))
    assert out.read_bytes() == written
    assert {path: path.read_bytes() for path in before if path.parent.name != "best.study"} == {
        path: content for path, content in before.items() if path.parent.name != "best.study"
    }


def test_a_budget_of_passes_is_shared_and_kept(configs, tmp_path):
    free = [replace(config, total_steps=0) for config in configs[1:3]]
    config = replace(PROXY, total_steps=0, share=0.5)
    result = study(free, tmp_path / "x.json", proxy_config=config, pass_budget=2_600, device="cpu")
    searched, drawn = result.candidates
    assert drawn.row()["search"]["image_passes"] == 0
    assert 0.5 * 1_300 < searched.row()["search"]["image_passes"] <= 1.1 * 1_300
    # Half of it is 1,300 passes for two trainings of 64 passes a step.
    assert {c.measured.steps for c in result.candidates} == {1_300 // (2 * 64)}


def test_a_time_budget_stops_resumably(configs, tmp_path):
    out = tmp_path / "x.json"
    with pytest.raises(BudgetReachedError, match="--resume"):
        study(configs[:2], out, proxy_config=PROXY, time_budget=1e-3, device="cpu")
    assert read_run(study_folder(out))["seconds_planned"] == 1e-3
    assert study(configs[:2], out, proxy_config=PROXY, resume=True, device="cpu").best.hash


def test_steps_fit_the_seconds_together(configs, monkeypatch):
    dataset = data.load(configs[0].data)
    network = fit.sized(genotype.named("vuln_h"), 2, 3)
    training = proxy.training(PROXY, network, configs[0].data, "cifar_stride2")
    monkeypatch.setattr(proxy, "seconds_per_step", lambda step: float(step(0)["loss"] > 0) / 100)
    held_out = proxy.EVALUATION * len(dataset.split(training.seed)[1])
    measuring = held_out / proxy.passes_per_step(training, dataset, CPU)
    for count in (1, 2, 3):
        found = proxy.steps_within([training] * count, dataset, CPU, seconds=60.0)
        assert found == pytest.approx(0.9 * 60.0 / (count / 100) - measuring, abs=1)


def test_one_search_is_just_a_search(configs, tmp_path):
    alone = study(configs[:1], tmp_path / "x.json", device="cpu")
    assert alone.candidates == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.run"]
    assert alone.best.structure == search(configs[0], tmp_path / "y.json", device="cpu").structure
    sized = study(configs[:1], tmp_path / "z.json", limits=Limits(max_params=15_000), device="cpu").best
    assert sized.structure == alone.best.structure
    assert fit.size(genotype.load(tmp_path / "z.json"), 3, (16, 16), "cifar_stride2")[0] <= 15_000


def test_what_cannot_be_compared_is_refused(configs, tmp_path):
    out = tmp_path / "x.json"
    with pytest.raises(UsageError, match="darts-s0 twice"):
        study([configs[0], configs[0]], out)
    with pytest.raises(UsageError, match="held_out_seed differs"):
        study([configs[0], replace(configs[1], held_out_seed=4)], out)
    with pytest.raises(UsageError, match="make them equal"):
        study([replace(config, held_out_seed=4) for config in configs], out)
    with pytest.raises(UsageError, match=r"\.json"):
        study(configs, tmp_path / "x.txt")
    with pytest.raises(UsageError, match="at least one search"):
        study([], out)
    with pytest.raises(UsageError, match="between 0 and 1"):
        ProxyConfig(share=1.0)
    assert list(tmp_path.iterdir()) == []


def test_other_files_and_other_studies_are_left_alone(done, configs, tmp_path):
    out, _ = done
    with pytest.raises(OutputExistsError, match="add --resume"):
        study(configs, out, proxy_config=PROXY, device="cpu")
    with pytest.raises(CheckpointError, match="proxy"):
        study(configs, out, proxy_config=replace(PROXY, total_steps=7), resume=True, device="cpu")
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputExistsError):
        study(configs, tmp_path / "mine.json", proxy_config=PROXY, resume=True, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
