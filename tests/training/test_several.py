"""Two processes train as one: the same weights on both, files from the first, and a run that resumes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from rnas_zoo.engine.record import read_run
from rnas_zoo.training.run import train

from ..processes import torchrun
from .several import without_batch_norm
from .small import equal


@pytest.fixture(scope="module")
def two(small_data, tmp_path_factory, warm_python):
    """The folder two processes trained in, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    torchrun(warm_python, "tests.training.several", small_data, folder)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_both_end_with_the_same_weights_and_have_seen_the_same(two):
    _, (first, second) = two
    for name in ("plain", "whole", "resumed"):
        assert equal(first[name]["model"], second[name]["model"]), name
        assert equal(first[name]["average"], second[name]["average"])
        assert first[name]["seen"] == second[name]["seen"]
    assert first["whole"]["average"]
    assert first["whole"]["seen"].keys() >= {"held_out_pgd10", "held_out_average_pgd10"}
    assert first["shapes"] == second["shapes"] == [4], "each takes half of the batch of 8"


def test_they_learn_what_one_process_learns(two, small_data, tmp_path):
    train(without_batch_norm(small_data), tmp_path / "one", device="cpu")
    one, both = (load_file(path / "model.safetensors") for path in (tmp_path / "one", two[0] / "plain"))
    assert one.keys() == both.keys()
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert equal(both, two[1][0]["plain"]["model"])
    results = [read_run(path)["result"] for path in (tmp_path / "one", two[0] / "plain")]
    assert results[0] == results[1]


def test_files_are_written_once_by_the_first_process(two):
    folder, (first, second) = two
    assert second["written"] == []
    for name in ("plain", "whole", "parts"):
        for file in ("model.safetensors", "recipe.toml"):
            assert first["written"].count(str(folder / name / file)) == 1
    info = read_run(folder / "whole")
    assert (info["processes"], info["status"], info["steps_done"]) == (2, "finished", 6)
    assert equal(load_file(folder / "whole" / "model.safetensors"), first["whole"]["model"])


def test_a_run_stopped_on_one_process_stops_on_both_and_resumes(two):
    folder, (first, second) = two
    assert "after step 4 of 6" in first["stopped"]
    assert first["stopped"] == second["stopped"]
    assert equal(first["resumed"]["model"], first["whole"]["model"])
    assert first["resumed"]["seen"] == first["whole"]["seen"]
    records = [(folder / name / "record.jsonl").read_text() for name in ("whole", "parts")]
    assert records[0] == records[1]
