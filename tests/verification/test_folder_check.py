"""What refutes a release folder by itself: files that are not what they say."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from scipy import stats

import rnas_zoo  # noqa: F401  (registers the architectures)
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.errors import DataError, OnnxFileError, WeightsError
from rnas_zoo.models.weights import tensor_digest
from rnas_zoo.verification import evidence
from rnas_zoo.verification.folder_check import check_files

K = 12
ARGUMENTS = {"genotype": "vuln_h", "channels": 4, "layers": 3, "stem": "cifar_stride2", "num_classes": 10}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def declare(folder: Path) -> None:
    """Write the digest of the tensors at hand into config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"]["notes"] = ["tensors-sha256:" + tensor_digest(load_file(folder / "model.safetensors"))]
    path.write_text(json.dumps(config))


def record(folder: Path, kind: str, file: str) -> None:
    """Evidence about a file: five images, all robust."""
    exact = stats.binomtest(5, 5).proportion_ci(method="exact")
    run = {
        "subject": {"kind": kind, "file": file, "sha256": sha256(folder / file)},
        "dataset": {"name": "digits", "split": "test", "images_sha256": "0"},
        "norm": "linf",
        "eps": "8/255",
        "protocol": "quick",
        "seed": 0,
        "n": 5,
        "refused": 0,
        "clean_accuracy": 1.0,
        "robust_accuracy": 1.0,
        "interval": [float(exact.low), float(exact.high)],
    }
    zeros, text = np.zeros(5, np.float32), np.full(5, "")
    verdicts = {"position": np.arange(5), "pixels_sha256": np.arange(5).astype("U64"), "clean_correct": zeros == 0}
    verdicts |= {"broken_by": text, "route": text, "refused": zeros == 1, "step": zeros - 1}
    evidence.append(folder, run, verdicts | dict.fromkeys(("clean_margin", "margin", "norm"), zeros + 1))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A release folder of an untrained network, made without the package's own writer."""
    folder = tmp_path_factory.mktemp("release") / "made"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("rnas_cells", **ARGUMENTS).eval()
    timm.models.save_for_hf(network, str(folder), model_args=ARGUMENTS, safe_serialization=True)
    declare(folder)
    images = np.random.default_rng(0).integers(0, 256, (K, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    np.savez_compressed(folder / "check.npz", images=images, adversarial=images, labels=np.zeros(K), logits=logits)
    report = export(folder, folder / "model.onnx", images=images)
    (folder / "export.json").write_text(json.dumps(report))
    record(folder, "torch", "model.safetensors")
    record(folder, "onnx", "model.onnx")
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def change_weights(folder: Path, amount: float = 0.1) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.fc.bias"][0] += amount
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_onnx(folder: Path, amount: float = 0.1) -> None:
    model = onnx.load(folder / "model.onnx")
    (bias,) = (t for t in model.graph.initializer if list(t.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(amount), bias.name))
    onnx.save(model, folder / "model.onnx")


def state_again(folder: Path) -> None:
    """Forge every checksum, so that only the functions can tell."""
    declare(folder)
    for name in ("robustness.json", "export.json"):
        value = json.loads((folder / name).read_text())
        for entry in [run["subject"] for run in value["runs"]] if "runs" in value else [value]:
            entry["sha256"] = sha256(folder / entry["file"])
        (folder / name).write_text(json.dumps(value))


def test_a_sound_folder_has_no_problems(folder):
    assert check_files(folder) == []


@pytest.mark.parametrize("name", ["check.npz", "export.json", "model.onnx", "robustness.json"])
def test_files_that_are_absent_are_not_compared(folder, name):
    (folder / name).unlink()
    assert check_files(folder) == []


def test_other_weights_are_found_by_digest_and_by_evidence(folder):
    change_weights(folder)
    digest, subject = check_files(folder)
    assert "model.safetensors holds other tensors" in digest
    assert "model.safetensors is not the file of robustness.json" in subject


def test_other_weights_with_forged_checksums_are_found_by_their_logits(folder):
    change_weights(folder)
    state_again(folder)
    golden, parity = check_files(folder)
    assert "the network differs by 0.1 from check.npz" in golden
    assert "model.onnx differs by 0.1 from the network" in parity


def test_another_onnx_file_is_found_by_checksums_and_logits(folder):
    change_onnx(folder)
    problems = check_files(folder)
    assert [text.partition(": ")[0] for text in problems[:2]] == [
        "model.onnx is not the file of robustness.json",
        "model.onnx is not the file of export.json",
    ]
    assert "model.onnx differs by 0.1 from the network" in problems[2]
    state_again(folder)
    assert check_files(folder) == problems[2:]


@pytest.mark.parametrize("change", [change_weights, change_onnx])
def test_rounding_is_no_problem(folder, change):
    with np.load(folder / "check.npz") as check:
        scale = max(1.0, float(np.abs(check["logits"]).max()))
    change(folder, 0.9e-3 * scale)
    state_again(folder)
    assert check_files(folder) == []
    change(folder, 0.3e-3 * scale)
    state_again(folder)
    assert len(check_files(folder)) in (1, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_golden_logits_that_are_no_numbers_are_found(folder, value):
    with np.load(folder / "check.npz") as check:
        arrays = {key: check[key].copy() for key in check.files}
    arrays["logits"][3, 2] = value
    np.savez(folder / "check.npz", **arrays)
    assert any("from check.npz" in text for text in check_files(folder))
    np.savez(folder / "check.npz", **{**arrays, "logits": arrays["logits"][:, :7]})
    assert any("shape (12, 10), those of check.npz are (12, 7)" in text for text in check_files(folder))


def test_check_images_of_another_form_are_errors(folder):
    with np.load(folder / "check.npz") as check:
        arrays = {key: check[key].copy() for key in check.files}
    for images in (arrays["images"][0], arrays["images"][:0], arrays["images"] / 255, arrays["images"][..., :1]):
        np.savez(folder / "check.npz", **{**arrays, "images": images})
        with pytest.raises(DataError, match=r"check\.npz: damaged"):
            check_files(folder)


@pytest.mark.parametrize("name", ["logits", "adversarial_logits"])
def test_check_logits_that_are_no_numbers_are_errors(folder, name):
    with np.load(folder / "check.npz") as check:
        arrays = {key: check[key].copy() for key in check.files}
    for logits in (arrays["logits"].astype("U4"), arrays["logits"][0], np.float32(3)):
        np.savez(folder / "check.npz", **{**arrays, name: logits})
        with pytest.raises(DataError, match=rf"check\.npz: damaged .*{name} are"):
            check_files(folder)


def test_int8_files_have_logits_of_their_own(folder):
    change_onnx(folder)
    (folder / "model.onnx").rename(folder / "model.int8.onnx")
    record(folder, "int8", "model.int8.onnx")
    assert check_files(folder) == []
    (folder / "model.int8.onnx").rename(folder / "small.onnx")
    assert len(check_files(folder)) == 1


def test_an_onnx_file_with_a_fixed_batch_is_compared(folder):
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(model, folder / "model.onnx")
    state_again(folder)
    assert check_files(folder) == []


@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_an_onnx_file_of_8_bit_pixels_is_compared(folder, amount):
    change_onnx(folder, amount)
    graph = (model := onnx.load(folder / "model.onnx")).graph
    inner, shape = graph.input[0].name, ["batch", 32, 32, 3]
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, shape))
    graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    steps = [("Cast", ["pixels"], "floats", {"to": onnx.TensorProto.FLOAT}), ("Div", ["floats", "white"], "unit", {})]
    steps.append(("Transpose", ["unit"], inner, {"perm": [0, 3, 1, 2]}))
    nodes = [onnx.helper.make_node(kind, given, [out], **how) for kind, given, out, how in steps]
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    onnx.save(model, folder / "model.onnx")
    state_again(folder)
    assert len(check_files(folder)) == (1 if amount else 0)


def test_records_that_do_not_add_up_are_found(folder):
    value = json.loads((folder / "robustness.json").read_text())
    value["runs"][1]["robust_accuracy"] = 0.99
    (folder / "robustness.json").write_text(json.dumps(value))
    (problem,) = check_files(folder)
    assert "onnx quick: evidence does not add up: robust_accuracy is stated as 0.99" in problem


def test_files_outside_the_folder_are_never_read(folder, tmp_path):
    (tmp_path / "secret").write_text("x")
    value = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**value, "file": "../secret"}))
    assert check_files(folder) == []


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("config.json", DataError, "no readable JSON"),
        ("export.json", DataError, "no readable JSON"),
        ("check.npz", DataError, "damaged"),
        ("model.safetensors", WeightsError, "damaged"),
        ("model.onnx", OnnxFileError, "not a usable ONNX model"),
        ("robustness.json", DataError, "damaged evidence"),
        ("verdicts.npz", DataError, "damaged evidence"),
    ],
)
def test_files_cut_off_are_errors_that_name_them(folder, name, error, words):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(error, match=words):
        check_files(folder)


def test_no_release_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no release folder"):
        check_files(tmp_path)
