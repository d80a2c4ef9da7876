"""The demo, with few steps: every station runs, and interrupting it loses nothing."""

import json
import os
import signal
import subprocess
import time

import pytest

from rnas_zoo import demo, genotype
from rnas_zoo.engine.progress import Silent
from rnas_zoo.errors import CheckFailedError
from rnas_zoo.models.size import count_macs
from rnas_zoo.reference import load

# Steps that do not depend on the speed of the machine, fewer images, and fewer steps of AutoAttack.
SHORT = """
import sys
from dataclasses import replace
from rnas_zoo import cli, demo
from rnas_zoo.hub import figures
from rnas_zoo.verification import protocols

STEPS = {"robust.run": 60, "control.run": 60}

def search(config, out, *, fit_seconds, **options):
    return plain_search(replace(config, total_steps=12), out, **options)

def train(config, out, *, fit_seconds, **options):
    return plain_train(replace(config, total_steps=40), out, **options)

plain_search, demo.search, plain_train, demo.train = demo.search, search, demo.train, train
demo.TEST_IMAGES, demo.AUTOATTACK_IMAGES, figures.CURVE_IMAGES = 64, 1, 16
figures.CURVE_FACTORS = (0.0, 1.0)
protocols.PROTOCOLS["standard"] = tuple(
    replace(stage, config=replace(stage.config, **({"queries": 100} if stage.scores else {"steps": 5})))
    for stage in protocols.PROTOCOLS["standard"]
)
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(installed, tmp_path_factory):
    """A demo interrupted by SIGINT in its search (soon after on a slow machine), then finished by the same command.

    It runs in an environment with the wheel, outside the checkout, and differs from a user's in `SHORT`.
    """
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [installed / "python", "-c", SHORT, "demo", "-o", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=out.parent)
    record = out / "found.run" / "record.jsonl"
    deadline = time.monotonic() + 120
    while not record.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors
    assert "the same command continues" in errors
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*.run/run.json"))]
    stopped = next((run for run in runs if run["status"] == "stopped"), runs[0])
    assert 0 < stopped["steps_done"] <= stopped["total_steps"]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=environment, cwd=out.parent, timeout=600
    )
    assert done.returncode == 0, done.stderr
    finished = [json.loads(path.read_text()) for path in sorted(out.glob("*.run/run.json"))]
    assert all(run["steps_done"] == run["total_steps"] for run in finished)
    assert stopped["total_steps"] in [run["total_steps"] for run in finished]
    assert json.loads(done.stdout) == json.loads((out / "summary.json").read_text())
    return out


def test_robust_beats_control_by_20_points_on_torch_and_onnx(folder):
    models = json.loads((folder / "summary.json").read_text())["models"]
    assert models["robust"]["pgd20"] - models["control"]["pgd20"] >= 0.20
    for model in models.values():
        assert abs(model["pgd20_onnx"] - model["pgd20"]) <= 0.02
        assert model["onnx_parity"] <= 1e-4
        assert model["macs"] <= 2_000_000


def test_the_network_is_the_found_one_and_as_wide_as_the_limit_allows(folder):
    found = genotype.load(folder / "found.json")
    network = load(folder / "robust")
    assert genotype.load(folder / "robust" / "genotype.json").hash == found.hash
    assert count_macs(network) <= demo.MAX_MACS < demo._macs(found, demo.width_for(found, demo.MAX_MACS) + 1)


def test_all_pictures_and_cards_are_there(folder):
    for name in ("cells.png", "curve.png", "robust/figures/adversarial.png", "control/figures/adversarial.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    for name in ("robust", "control"):
        assert "## What was measured" in (folder / name / "README.md").read_text()


def test_a_finished_demo_shows_its_table_again_at_once(folder):
    summary = demo.run(folder, seconds=1, reporter=Silent())
    text = demo.render(summary, folder)
    for part in ("parameters", "clean accuracy", "PGD-20", "ONNX", "ms per image", "Type next:"):
        assert part in text
    assert f"{100 * summary['models']['robust']['pgd20']:.1f} %" in text


def test_too_small_an_advantage_is_a_failed_check(folder, monkeypatch):
    monkeypatch.setattr(demo, "LEAST_ADVANTAGE", 1.01)
    with pytest.raises(CheckFailedError, match="points better than the control"):
        demo._run(folder, 1, Silent())
