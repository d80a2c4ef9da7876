"""Model references that name no model: refused in one line that names the cause."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rnas_zoo.errors import CheckpointError, NoWeightsError, OnnxFileError, UnknownNameError, UsageError, WeightsError
from rnas_zoo.reference import load, subject

from . import references
from .references import FOREIGN, OURS

checkpoints, folders = references.checkpoints, references.folders  # fixtures
networks, python_file = references.networks, references.python_file


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("rnas_vuln_hh", "Did you mean rnas_vuln_h"),
        ("resnet19", "resnet18"),
        ("rnas_vuln_h.no_such_tag", "rnas_vuln_h"),
        ("resnet18.no_such_tag", "no_such_tag"),
        ("none.py:net", "no such Python file"),
    ],
)
def test_unknown_names_are_refused(ref, text):
    with pytest.raises(UnknownNameError) as error:
        load(ref)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_python_file_without_the_function_or_a_network_is_refused(python_file):
    with pytest.raises(UnknownNameError, match="defines no function 'nett'"):
        load(f"{python_file}:nett")
    with pytest.raises(UnknownNameError, match="returned str"):
        load(f"{python_file}:text")


def test_an_architecture_without_weights_says_so():
    with pytest.raises(NoWeightsError, match="no weights exist yet"):
        load("rnas_robnet_large_v2")
    with pytest.raises(NoWeightsError, match="has no pretrained weights; give --checkpoint"):
        load(next(name for name in timm.list_models("test_*") if not timm.is_model_pretrained(name)))


def test_a_folder_that_is_no_release_is_refused(tmp_path, folders):
    with pytest.raises(WeightsError, match=r"is not a release folder: it has no config\.json; nor is it .* run\.json"):
        load(tmp_path)
    config = tmp_path / OURS / "config.json"
    whole = config.read_text()
    for damaged in ("", "{", "[]", "{}", json.dumps({"architecture": OURS})):
        config.write_text(damaged)
        with pytest.raises(WeightsError, match=r"config\.json: damaged, or not written by timm"):
            load(tmp_path / OURS)
    config.write_text(whole)
    (tmp_path / OURS / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load(tmp_path / OURS)


def test_a_training_run_that_is_not_finished_or_damaged_is_refused(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    for changes, error, text in (
        ({"status": "stopped"}, CheckpointError, "no finished training run .*train, stopped.*--resume"),
        ({"kind": "search"}, CheckpointError, "no finished training run .*search, finished"),
        ({"config": {}}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"image_size": 7}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"classes": 7}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"classes": ["a", "b"]}, WeightsError, "does not hold weights of rnas_cells"),
    ):
        (run / "run.json").write_text(json.dumps({**info, **changes}))
        with pytest.raises(error, match=text):
            load(run)


@pytest.mark.parametrize("kept", [0, 4, 0.3, 0.99])
@pytest.mark.parametrize("name", [OURS, FOREIGN])
def test_cut_off_weights_are_refused(checkpoints, folders, tmp_path, name, kept):
    for path, ref in ((tmp_path / f"{name}.st", name), (tmp_path / name / "model.safetensors", folders[name])):
        content = path.read_bytes()
        path.write_bytes(content[: kept if kept > 1 else int(len(content) * kept)])
        with pytest.raises(WeightsError, match="damaged"):
            load(ref, checkpoint=path if ref == name else None)


def test_other_formats_and_missing_files_are_refused(tmp_path, networks):
    torch.save(networks[OURS].state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load(OURS, checkpoint=tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="no such weight file"):
        load(OURS, checkpoint=tmp_path / "none.safetensors")


def test_weights_of_another_shape_are_refused_with_both_shapes(checkpoints):
    with pytest.raises(WeightsError) as error:
        load("rnas_vuln_h", checkpoint=checkpoints[OURS])
    # The first tensor that differs: 3x16 channels there, 3x36 in the paper's network.
    assert "(48, 3, 3, 3) there and (108, 3, 3, 3) in rnas_vuln_h" in str(error.value)


def test_weights_of_another_network_are_refused_with_counts(checkpoints, tmp_path):
    with pytest.raises(WeightsError, match="tensors are missing"):
        load(OURS, checkpoint=checkpoints[FOREIGN])
    state = load_file(checkpoints[OURS])
    del state["stem.0.weight"]
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "other.st")
    with pytest.raises(WeightsError, match="1 tensors are missing, 1 unknown"):
        load(OURS, checkpoint=tmp_path / "other.st")


@pytest.mark.parametrize("name", ["none.onnx", "bad.onnx"])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, name):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for resolve in (load, subject):
        with pytest.raises(OnnxFileError, match=name):
            resolve(str(tmp_path / name))


def test_an_onnx_model_of_vectors_is_refused(tmp_path):
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "vectors",
        [value("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "vectors.onnx")
    with pytest.raises(OnnxFileError, match=r"expected images \(N, 3, H, W\)"):
        subject(str(tmp_path / "vectors.onnx"))


def test_a_network_without_logits_is_refused():
    with pytest.raises(UsageError, match=r"must return logits \(N, classes\)"):
        subject(nn.Conv2d(3, 2, 1))
