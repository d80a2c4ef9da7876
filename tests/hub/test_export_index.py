"""The index of ONNX files: generated from files and evidence, and the committed one is what is generated."""

import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest

import rnas_zoo
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.hub import export_index

ROOT = Path(rnas_zoo.__file__).parents[1]
RELEASE = ROOT / "model_cards" / "rnas_cl_s3.clean_cifar10"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_the_committed_index_is_the_generated_one(tmp_path):
    export_index.main([str(tmp_path / "index.json")])
    written = (tmp_path / "index.json").read_text(encoding="utf-8")
    assert (ROOT / "export" / "index.json").read_text(encoding="utf-8") == written, "run `make export`"
    listed = {ROOT / file["path"] for file in json.loads(written)["files"]}
    folders = (ROOT / "model_cards").iterdir()
    expected = {folder / name for folder in folders for name in ("model.onnx", "model.int8.onnx")}
    assert listed == {path for path in expected if path.is_file()}


def test_an_entry_is_the_file_and_its_own_evidence():
    file = RELEASE / "model.onnx"
    found = export_index.entry(file)
    content = file.read_bytes()
    assert (found["bytes"], found["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    graph = onnx.load(file)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert found["labels"] == json.loads(metadata["labels"]) == CLASSES
    assert found["input_size"] == json.loads(metadata["input_size"])
    assert (found["input"]["name"], found["input"]["type"]) == (graph.graph.input[0].name, "float32")
    assert (found["model"], found["dataset"]) == ("rnas_cl_s3.clean_cifar10", "cifar10")
    assert (found["training"], found["parameters"]) == ("clean", 112_790)
    runs = json.loads((RELEASE / "robustness.json").read_text())["runs"]
    mine = [run for run in runs if run["subject"]["sha256"] == found["sha256"]]
    assert 0 < len(mine) < len(runs)
    most = max(mine, key=lambda run: run["n"])
    assert found["clean"] == {"accuracy": most["clean_accuracy"], "dataset": "cifar10", "n": most["n"]}
    keys = ("norm", "eps", "protocol", "n", "interval")
    told = [(run["accuracy"], run["kind"], *(run[key] for key in keys)) for run in found["robust"]]
    recorded = [(run["robust_accuracy"], run["subject"]["kind"], *(run[key] for key in keys)) for run in mine]
    assert sorted(told, key=str) == sorted(recorded, key=str)
    assert found["robust"][0]["protocol"] == "standard"  # the strongest first


def test_a_file_with_other_bytes_has_no_evidence(tmp_path):
    folder = shutil.copytree(RELEASE, tmp_path / "copy")
    graph = onnx.load(folder / "model.onnx")
    graph.doc_string = "changed"
    onnx.save(graph, folder / "model.onnx")
    found = export_index.index([folder / "model.onnx"])["files"][0]
    assert (found["clean"], found["robust"]) == (None, [])
    assert found["path"] == "model_cards/copy/model.onnx"


def test_a_file_outside_a_release_folder_is_refused(tmp_path):
    shutil.copy(RELEASE / "model.onnx", tmp_path)
    with pytest.raises(DataError, match=r"no config\.json beside it"):
        export_index.entry(tmp_path / "model.onnx")


def test_the_command_needs_one_path():
    with pytest.raises(UsageError, match="python -m"):
        export_index.main([])
