"""Run folders: made once, reopened by the same configuration only, readable after a crash."""

from __future__ import annotations

import json

import pytest

from rnas_zoo.engine.record import RunFolder, read_run
from rnas_zoo.errors import CheckpointError, OutputExistsError

CONFIG = {"data": "digits", "seed": 1, "shape": (2, 3), "nested": {"a": [1, None]}}


def test_a_new_run_says_what_it_is(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "run", "train", CONFIG, resume=False)
    info = json.loads((tmp_path / "deep" / "run" / "run.json").read_text())
    assert info == folder.info
    assert (info["kind"], info["status"], info["steps_done"], info["schema"]) == ("train", "new", 0, 1)
    assert info["config"] == {"data": "digits", "seed": 1, "shape": [2, 3], "nested": {"a": [1, None]}}
    assert not folder.finished
    assert folder.rows() == []


def test_a_run_may_be_made_in_an_empty_folder(tmp_path):
    assert RunFolder(tmp_path, "train", CONFIG, resume=False).info["status"] == "new"


def test_resume_starts_a_run_that_is_not_there(tmp_path):
    assert RunFolder(tmp_path / "run", "train", CONFIG, resume=True).info["status"] == "new"


def test_an_existing_run_is_refused_unless_resumed(tmp_path):
    first = RunFolder(tmp_path / "run", "train", CONFIG, resume=False)
    first.update(status="finished", steps_done=7, result={"clean_accuracy": 0.5})
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(OutputExistsError, match="Add --resume"):
        RunFolder(tmp_path / "run", "train", CONFIG, resume=False)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    again = RunFolder(tmp_path / "run", "train", CONFIG, resume=True)
    assert again.finished
    assert again.info == first.info


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [("train", {"seed": 2}, "seed"), ("train", {"extra": 1}, "extra"), ("search", {}, "train")],
)
def test_a_run_of_another_configuration_is_refused(tmp_path, kind, change, named):
    RunFolder(tmp_path / "run", "train", CONFIG, resume=False)
    with pytest.raises(CheckpointError, match=rf"another run \(.*{named}.* differ\)"):
        RunFolder(tmp_path / "run", kind, {**CONFIG, **change}, resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_foreign_folder_or_file_is_left_alone(tmp_path, resume):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text.md").write_text("mine")
    for path in (tmp_path / "notes", tmp_path / "notes" / "text.md"):
        with pytest.raises(OutputExistsError, match="is no run folder"):
            RunFolder(path, "train", CONFIG, resume=resume)
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "text.md"]


def test_rows_are_kept_in_order(tmp_path):
    folder = RunFolder(tmp_path / "run", "train", CONFIG, resume=False)
    for step in (10, 20, 30):
        folder.append({"step": step, "loss": 1 / step})
    assert [row["step"] for row in folder.rows()] == [10, 20, 30]
    assert folder.rows()[1] == {"step": 20, "loss": 0.05}
    folder.forget_after(20)
    assert [row["step"] for row in folder.rows()] == [10, 20]
    folder.append({"step": 30, "loss": 2.0})
    assert folder.rows()[2] == {"step": 30, "loss": 2.0}


@pytest.mark.parametrize("rest", ["{", '{"step": 30', '{"step": 30, "loss": 0.1', '{"step": 30, "lo'])
def test_a_half_written_line_is_dropped(tmp_path, rest):
    folder = RunFolder(tmp_path / "run", "train", CONFIG, resume=False)
    folder.append({"step": 10})
    folder.append({"step": 20})
    with open(tmp_path / "run" / "record.jsonl", "a") as file:
        file.write(rest)
    assert [row["step"] for row in folder.rows()] == [10, 20]
    folder.forget_after(100)
    folder.append({"step": 30})
    assert [row["step"] for row in folder.rows()] == [10, 20, 30]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "damaged"),
        ('{"schema": 1', "damaged"),
        ("[]", "not written by"),
        ('{"schema": 2, "config": {}}', "not written by"),
    ],
)
def test_a_damaged_run_file_is_refused(tmp_path, text, cause):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=cause):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match=cause):
        RunFolder(tmp_path, "train", CONFIG, resume=True)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no run\.json"):
        read_run(tmp_path)
