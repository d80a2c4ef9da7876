"""int8 files in release folders: kept with their evidence, or left out and said so."""

import functools
import json
import shutil

import pytest

from rnas_zoo.attacks import Threat
from rnas_zoo.deploy import quantize as quantizing
from rnas_zoo.deploy.int8_graph import SETTINGS
from rnas_zoo.deploy.quantize import quantize
from rnas_zoo.errors import UsageError
from rnas_zoo.files import sha256_file
from rnas_zoo.hub import card, int8
from rnas_zoo.hub.int8 import FILE, ship_int8
from rnas_zoo.verification import evidence
from rnas_zoo.verification.folder_check import check_files

THREAT = Threat("linf", "16/255")


ROUNDED, WEIGHTS_ALONE = SETTINGS[:1], SETTINGS[-1:]


@pytest.fixture
def folder(release, tmp_path, monkeypatch, short_protocols):
    for count, fewer in (("CALIBRATION", 32), ("SELECTION", 64), ("ATTACKED", 32)):
        monkeypatch.setattr(quantizing, count, fewer)
    monkeypatch.setattr(quantizing, "latency", functools.partial(quantizing.latency, seconds=0.02, repeats=5))
    return shutil.copytree(release, tmp_path / release.name)


def ship(folder, monkeypatch, settings=ROUNDED):
    monkeypatch.setattr(int8, "quantize", functools.partial(quantize, settings=settings))
    return ship_int8(folder, "digits", threat=THREAT, protocol="fast", n=8)


def test_a_file_that_costs_little_is_kept_with_its_evidence(folder, monkeypatch):
    monkeypatch.setattr(int8, "within_budget", lambda losses: True)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors")}
    exported = json.loads((folder / "export.json").read_text())
    report = ship(folder, monkeypatch)
    assert report["kept"]
    assert report["sha256"] == sha256_file(folder / FILE)
    assert report["bytes"] == (folder / FILE).stat().st_size < report["float_bytes"]
    (run,) = (run for run in evidence.read(folder)[0] if run["subject"]["kind"] == "int8")
    assert run["subject"] == {"kind": "int8", "file": FILE, "sha256": report["sha256"]}
    assert (run["protocol"], run["n"], run["eps"]) == ("fast", 8, "16/255")
    assert list(run["attacks"]) == ["apgd-ce", "apgd-ce-fp", "halving-t", "halving-t-fp", "square"]
    assert report["accuracy"]["int8"] == {"clean": run["clean_accuracy"], "robust": run["robust_accuracy"]}
    assert json.loads((folder / "export.json").read_text()) == {**exported, "int8": json.loads(json.dumps(report))}
    assert check_files(folder) == []
    card.check(folder)
    text = (folder / "README.md").read_text()
    assert any(line.startswith(f"| `{FILE}` | ") and "| first 8 |" in line for line in text.splitlines())
    assert "is the same network in 8 bits" in text
    assert "apgd-ce-fp" not in text
    assert all((folder / name).read_bytes() == content for name, content in before.items())


def test_a_file_that_costs_much_is_left_out_and_the_folder_says_so(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(int8, "within_budget", lambda losses: asked.append(losses))
    report = ship(folder, monkeypatch, WEIGHTS_ALONE)
    found = report["accuracy"]
    assert asked == [{name: found["model"][name] - found["int8"][name] for name in ("clean", "robust")}]
    assert not report["kept"]
    assert not (folder / FILE).exists()
    runs = evidence.read(folder)[0]
    assert {run["subject"]["kind"] for run in runs} == {"torch", "onnx"}
    (beside,) = (run for run in runs if (run["subject"]["kind"], run["protocol"], run["n"]) == ("torch", "fast", 8))
    assert found["model"] == {"clean": beside["clean_accuracy"], "robust": beside["robust_accuracy"]}
    assert "sha256" not in json.loads((folder / "export.json").read_text())["int8"]
    assert check_files(folder) == []
    card.check(folder)
    assert "is not shipped: clean accuracy" in (folder / "README.md").read_text()


def test_only_release_folders_with_an_onnx_file(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is no release folder with an ONNX file"):
        ship(tmp_path, monkeypatch)
    (folder / "export.json").unlink()
    with pytest.raises(UsageError, match="is no release folder with an ONNX file"):
        ship(folder, monkeypatch)
