"""Two processes that write to the same place: both succeed with a whole result, or one is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import rnas_zoo
from rnas_zoo import resources
from rnas_zoo.engine import config as configuration
from rnas_zoo.errors import OutputNotWritableError
from rnas_zoo.files import exclusive
from rnas_zoo.hub.release import package
from rnas_zoo.testing.hub import LocalHub
from rnas_zoo.training.config import TrainConfig
from rnas_zoo.training.run import train
from rnas_zoo.verification import evidence
from rnas_zoo.verification.folder_check import check_files

from .hub.downloading import CONTENT, FOLDER, publish

RUNS = 6
# Both processes do everything at the same time: a file of theirs says that they are about to begin.
PROGRAM = """
import sys, time
from pathlib import Path
from rnas_zoo.cli import run
from rnas_zoo.hub import download
from rnas_zoo.verification import evidence, run as _

me, other, runs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def together(stage):
    me.with_suffix("." + stage).touch()
    while not other.with_suffix("." + stage).exists():
        time.sleep(0.005)

together("download")
codes = [run(["download", "hf-hub:owner/tiny"]), run(["download", "hf-hub:owner/tiny", "-o", "copy"])]
together("verify")
codes.append(run([
    "verify", "release", "--data", "digits", "-n", "4", "--protocol", "quick", "--eps", "1/255",
    "--device", "cpu", "--batch-size", "2", "--resume", "pieces", "--save",
]))
together("append")
(own, *_), (table, *_) = evidence.read("release")
for number in range(runs):
    evidence.append("release", {**own, "seed": 1000 * (1 + (me.name == "a")) + number}, table)
print(*codes)
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="waits for a POSIX system: locks of folders")


@pytest.fixture(scope="module")
def both(tmp_path_factory, warm_python):
    """Exit codes and standard error of each, and the folder they worked in."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(resources.folder("model_cards") / FOLDER.name, folder / "release")
    with LocalHub(folder / "hub") as hub:
        publish(hub, "owner/tiny", FOLDER)
        environment = {**os.environ, **hub.environment(), "PYTHONPATH": str(Path(rnas_zoo.__file__).parents[1])}
        environment |= {"HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [warm_python, "-c", PROGRAM, folder / own, folder / other, str(RUNS)],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for own, other in (("a", "b"), ("b", "a"))
        ]
        ended = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    return [([int(code) for code in out.splitlines()[-1].split()], err) for out, err in ended], folder


def test_the_cache_of_downloads_is_whole_and_one_copy_wins(both):
    results, folder = both
    assert [codes[0] for codes, _ in results] == [0, 0]
    assert sorted(codes[1] for codes, _ in results) in ([0, 0], [0, 2])
    for codes, err in results:
        assert codes[1] == 0 or "error: copy exists already and was left as it is" in err
    there = sorted(
        path.relative_to(folder / "copy").as_posix() for path in (folder / "copy").rglob("*") if path.is_file()
    )
    assert there == CONTENT
    assert all((folder / "copy" / name).read_bytes() == (FOLDER / name).read_bytes() for name in CONTENT)
    assert not list(folder.glob(".copy*"))


def test_a_verification_shared_by_both_is_finished_by_both(both):
    results, folder = both
    assert [codes[2] for codes, _ in results] == [0, 0]
    assert not [path.name for path in (folder / "pieces").iterdir() if path.name.startswith(".")]


def test_no_run_of_evidence_is_lost(both):
    folder = both[1] / "release"
    before, after = evidence.read(FOLDER)[0], evidence.read(folder)[0]
    assert len(after) == len(before) + 1 + 2 * RUNS
    assert {run["seed"] for run in after} >= {base + number for base in (1000, 2000) for number in range(RUNS)}
    assert check_files(folder) == []


# One at a time


def test_a_run_that_another_process_trains_is_refused(tmp_path):
    config = TrainConfig("rnas_wrn10_1", "digits", total_steps=1, attack_steps=1, batch_size=4, holdout=0.01)
    with exclusive(tmp_path / "run"), pytest.raises(OutputNotWritableError, match="in use by another process"):
        train(config, tmp_path / "run", device="cpu")
    assert train(config, tmp_path / "run", device="cpu", resume=True)["status"] == "finished"


def test_a_release_that_another_process_packages_is_refused_at_once(tmp_path):
    run = tmp_path / "run"
    config = configuration.to_dict(TrainConfig("rnas_wrn10_1", "digits"))
    run.mkdir()
    info = {"schema": 1, "kind": "train", "status": "finished", "config": config}
    (run / "run.json").write_text(json.dumps(info))
    with exclusive(tmp_path / "out.work"), pytest.raises(OutputNotWritableError, match="in use by another process"):
        package(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.work", "run"]


def test_a_folder_is_free_again_after_its_holder(tmp_path):
    for _ in range(2):
        with exclusive(tmp_path / "new", wait=False):
            assert (tmp_path / "new").is_dir()
