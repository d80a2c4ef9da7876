"""Two processes compute, stop and resume as one; one process is not bothered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rnas_zoo.engine import checkpoint, distribution
from rnas_zoo.engine.device import resolve_device
from rnas_zoo.engine.record import RunFolder
from rnas_zoo.errors import UsageError

from ..processes import torchrun
from . import several
from .walk import CONFIG, STEPS


@pytest.fixture(scope="module")
def two(tmp_path_factory, warm_python) -> tuple[Path, list[dict]]:
    """The folder two processes worked in, and what each of them found."""
    out = tmp_path_factory.mktemp("two")
    torchrun(warm_python, "tests.engine.several", out)
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_know_their_places(two):
    for rank, found in enumerate(two[1]):
        assert (found["rank"], found["world"], found["main"]) == (rank, 2, rank == 0)
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert found["closed"]


def test_tensors_are_averaged_with_the_same_bits_everywhere(two):
    first, second = (found["means"] for found in two[1])
    assert first == second
    for (dtype, stride, values), a, b in zip(first, several.tensors(0), several.tensors(1), strict=True):
        assert (dtype, tuple(stride)) == (str(a.dtype), a.stride())
        found = torch.tensor(values, dtype=torch.float64).reshape(a.shape)
        largest = max(1.0, *(float(t.double().abs().sum()) for t in (a, b)))
        mean = (a.double() + b.double()) / 2
        torch.testing.assert_close(found, mean, rtol=0, atol=2 * largest * torch.finfo(a.dtype).eps)
    assert all(found["untouched"] for found in two[1])


def test_processes_decide_together(two):
    for found in two[1]:
        assert found["agreed"] == [True, False, True]
        assert found["largest"] == 7
        assert found["fitting"] == 45, "the slower process fits 90 seconds / 2 seconds"
        assert found["broadcast"]


def test_a_budget_or_a_signal_on_one_process_stops_all_and_all_resume(two):
    out, found = two
    stopped, killed, finished = zip(*(one["runs"] for one in found), strict=True)
    for one in stopped:
        assert f"the time budget ended after step 7 of {STEPS}" in one["error"]
        assert (one["code"], one["taken"]) == (3, 7)
    for one in killed:
        assert f"stopped after step 12 of {STEPS}" in one["error"]
        assert (one["code"], one["taken"]) == (143, 12)
    for one in finished:
        assert (one["status"], one["taken"]) == ("finished", STEPS)
    assert finished[0]["position"] == finished[1]["position"]
    for one in (one["last"] for one in found):
        assert (one["code"], one["taken"]) == (130, STEPS), "a signal in the last step is known to all as well"
    folder = RunFolder(out / "walk", "train", CONFIG, resume=True)
    assert folder.finished
    rows = folder.rows()
    assert [row["step"] for row in rows] == list(range(3, STEPS + 1, 3))
    assert all(row["processes"] == 2 for row in rows)
    assert checkpoint.load(folder.checkpoint)["task"]["position"].tolist() == finished[0]["position"]


def test_stopped_runs_end_where_an_undisturbed_one_on_one_process_does(two, tmp_path):
    whole = several.run(tmp_path / "whole", several.Together())
    torch.testing.assert_close(whole["position"], two[1][0]["runs"][-1]["position"])


def test_only_the_first_process_writes_and_reports(two):
    first, second = two[1]
    assert any("run.json" in path for path in first["written"])
    assert any("checkpoint" in path for path in first["written"])
    assert second["written"] == []
    assert [one["reported"] for one in first["runs"]] == [7, 5, STEPS - 12]
    assert [one["reported"] for one in second["runs"]] == [0, 0, 0]


def test_errors_of_the_run_folder_reach_every_process(two):
    for found in two[1]:
        assert found["refused"].startswith("OutputExistsError")
        assert "--resume" in found["refused"]
        assert "see different checkpoints" in found["elsewhere"]


def test_one_process_neither_copies_nor_communicates():
    tensors = several.tensors(0)
    with distribution.group("cuda"):
        found = distribution.average(tensors)
        distribution.broadcast(tensors)
        assert all(a is b for a, b in zip(found, tensors, strict=True))
        assert (distribution.rank(), distribution.world(), distribution.local_rank()) == (0, 1, 0)
        assert distribution.main()
        assert not torch.distributed.is_initialized()
    assert distribution.gather("x") == ["x"]
    assert [distribution.agree(flag) for flag in (True, False)] == [True, False]
    assert distribution.largest(-3) == -3


def test_each_process_of_a_machine_gets_its_own_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    for name, value in {"WORLD_SIZE": 4, "RANK": 3, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match="3 processes on 2 CUDA devices"), distribution.group("cuda"):
        pass
