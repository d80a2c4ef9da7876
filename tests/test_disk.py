"""Full disks and read-only folders: nothing half-written, what was there stays, one line that says where and why."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rnas_zoo import resources
from rnas_zoo.cli import run
from rnas_zoo.deploy.onnx_export import write_model
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import HubError, OutputNotWritableError
from rnas_zoo.files import append_line, atomic_folder, atomic_path, no_room, write_json, write_text
from rnas_zoo.hub import client
from rnas_zoo.training.config import TrainConfig, recipe_text

from .test_files import tree

resource = pytest.importorskip("resource", reason="waits for a POSIX system: limits of a file's size")
RELEASE = "rnas_wrn10_1.pgd_digits_linf16"


@contextlib.contextmanager
def largest_file(size: int):
    """Writes beyond `size` bytes of a file fail inside the block, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def savez(path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, a=np.zeros(50_000))


WRITERS = {
    "text": lambda path: write_text(path, "x" * 50_000),
    "JSON": lambda path: write_json(path, list(range(20_000))),
    "checkpoint": lambda path: checkpoint.save(path, {"a": torch.zeros(20_000)}),
    "arrays": savez,
    "model": lambda path: write_model(bytes(50_000), path),
}


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; returns exit code and the lines of standard error that are errors."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = run([str(argument) for argument in arguments])
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return code, [line for line in error.splitlines() if line.startswith("error: ")]

    return invoke


def told(result, *words):
    code, lines = result
    assert code == 2
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


# Files and folders


@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_fit_leaves_the_old_file(tmp_path, name):
    target = tmp_path / "out.file"
    target.write_bytes(b"old")
    before = tree(tmp_path)
    with largest_file(10_000), pytest.raises(OutputNotWritableError) as refused:
        WRITERS[name](target)
    assert tree(tmp_path) == before
    for words in (f"cannot write {target}: File too large", f"Make room in {tmp_path}", "unchanged"):
        assert words in str(refused.value)
    WRITERS[name](target)
    assert target.read_bytes() != b"old"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_whose_file_does_not_fit_does_not_appear(tmp_path, name, overwrite):
    target = tmp_path / "out"
    if overwrite:
        target.mkdir()
        (target / "old").write_bytes(b"old")
    before = tree(tmp_path)

    def write():
        with atomic_folder(target, overwrite=overwrite) as folder:
            WRITERS[name](folder / "out.file")

    with largest_file(10_000), pytest.raises(OutputNotWritableError) as refused:
        write()
    assert str(refused.value).startswith(f"cannot write {target}: File too large. Make room in {tmp_path}")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up_at_the_end_leaves_the_old_file(tmp_path, monkeypatch, number, step):
    target = tmp_path / "out.txt"
    target.write_text("old")
    before = tree(tmp_path)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputNotWritableError, match=os.strerror(number)):
        write_text(target, "new")
    assert tree(tmp_path) == before


def test_other_errors_of_a_block_are_not_taken_for_a_full_disk(tmp_path):
    for error in (OSError(errno.ENOENT, "no such"), ValueError("x"), FileNotFoundError(2, "x"), HubError("x")):
        assert no_room(error) is None
        with pytest.raises(type(error)), atomic_path(tmp_path / "out"):
            raise error
    assert tree(tmp_path) == {}


def test_a_line_that_does_not_fit_is_not_begun(tmp_path):
    file = tmp_path / "record.jsonl"
    append_line(file, "{}")
    with largest_file(1000), pytest.raises(OutputNotWritableError, match="File too large"):
        append_line(file, "x" * 2000)
    assert file.read_bytes() == b"{}\n"
    append_line(file, "[]")
    assert file.read_bytes() == b"{}\n[]\n"
    with pytest.raises(OutputNotWritableError, match="Is a directory"):
        append_line(tmp_path, "x")


def test_a_full_cache_of_the_hub_is_told_apart_from_a_hub_that_cannot_be_reached():
    def fail():
        with client.asking("owner/name"):
            raise OSError(errno.ENOSPC, "No space left on device", "/cache/blob")

    with pytest.raises(OutputNotWritableError, match=r"cannot write /cache/blob: No space left on device\. Make room"):
        fail()


# Commands


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    config = TrainConfig(
        "rnas_wrn10_1", "digits", eps="16/255", attack_steps=1, total_steps=2, batch_size=8, holdout=0.01
    )
    path.write_text(recipe_text(config), encoding="utf-8")
    return path


def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_when_there_is_room(call, recipe, tmp_path):
    with largest_file(50_000):
        told(
            call("train", recipe, "-o", "run", "--device", "cpu"), "run/checkpoint.safetensors: File too large", "room"
        )
    assert set(tree(tmp_path / "run")) <= {"run.json", "record.jsonl"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "new"
    assert call("train", recipe, "-o", "run", "--device", "cpu", "--resume")[0] == 0
    before = tree(tmp_path)
    with largest_file(50_000):
        told(
            call("package", "run", "-o", "release", "--n", "8", "--no-limits"), "cannot write release", "File too large"
        )
    assert tree(tmp_path) == before


def test_a_download_that_does_not_fit_leaves_nothing(call, tmp_path):
    with largest_file(100_000):
        told(call("download", RELEASE, "-o", "copy"), "cannot write copy: File too large")
    assert tree(tmp_path) == {}


def test_evidence_that_does_not_fit_leaves_the_release_as_it_was(call, tmp_path):
    shutil.copytree(resources.folder("model_cards") / RELEASE, tmp_path / "release")
    before = tree(tmp_path)
    verify = (
        "verify",
        "release",
        "--data",
        "digits",
        "-n",
        "4",
        "--protocol",
        "quick",
        "--eps",
        "1/255",
        "--device",
        "cpu",
    )
    with largest_file(20_000):
        told(call(*verify, "--resume", "pieces"), "cannot write pieces/", "File too large")
        assert {path: content for path, content in tree(tmp_path).items() if not path.startswith("pieces")} == before
        assert not [path for path in tree(tmp_path) if path.endswith(".tmp.npz")]
        shutil.rmtree("pieces")
        told(call(*verify, "--save"), "cannot write release/verdicts.npz: File too large")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["train", "download", "verify"])
def test_a_read_only_disk_is_told_before_any_work(call, recipe, tmp_path, monkeypatch, command):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, fail)
    arguments = {
        "train": ("train", recipe, "-o", "out", "--device", "cpu"),
        "download": ("download", RELEASE, "-o", "out"),
        "verify": ("verify", RELEASE, "--data", "digits", "-n", "2", "--protocol", "quick", "--resume", "out"),
    }[command]
    told(call(*arguments), "cannot write out", "Read-only file system")
    assert [path for path, content in tree(tmp_path).items() if content is not None] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="waits for /dev/full, which Linux has")
def test_a_full_disk_behind_standard_output_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rnas_zoo", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device. Make room, or write elsewhere.\n")
