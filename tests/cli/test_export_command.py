"""`rnas-zoo export`: what each option writes and prints, and what is refused before anything is written."""

from __future__ import annotations

import json
import re
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file

from rnas_zoo.attacks import Threat
from rnas_zoo.cli import run
from rnas_zoo.deploy import onnx_export, quantize, shipped
from rnas_zoo.deploy.form import Form
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.hub import int8

from ..untrained import name_without_weights
from .test_cli import refused

MODULE = """
import torch
from torch import nn

def build():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        net[0].weight.copy_(4 * torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
        net[4].weight.copy_(5 * torch.eye(3))
        net[4].bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    net.pretrained_cfg = {"input_size": (3, 16, 16)}
    return net
"""
REF = "tiny.py:build"
UNTRAINED = name_without_weights()
ACCURACY = {"clean": 0.75, "robust": 0.5, "interval": [0.25, 0.625]}


def logits(images: np.ndarray) -> np.ndarray:
    """What `build` computes of uint8 images (N, H, W, 3): 20 times the mean colours, and a bias."""
    return 20 * images.astype(np.float64).mean((1, 2)) / 255 + [0.5, 0.0, -0.5]


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)


@pytest.fixture
def export(capfd, tmp_path, monkeypatch):
    """Runs `rnas-zoo export` beside tiny.py, with the faster exporter; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnx_export, "EXPORTERS", ("torchscript",))
    (tmp_path / "tiny.py").write_text(MODULE)

    def invoke(*arguments):
        code = run(["export", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        path.relative_to(folder).as_posix() for path in folder.rglob("__pycache__/*")
    }


def answers(path: Path, form: Form, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = images if form.grid else images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return session.run([form.output], {"image": given})[0]


FORMS = [
    ([], Form()),
    (["--input", "uint8-nhwc"], Form("uint8-nhwc")),
    (
        ["--input", "uint8-nhwc", "--resize", "--output", "probabilities"],
        Form("uint8-nhwc", "probabilities", resize=True),
    ),
    (["--output", "probabilities", "--fp16"], Form(output="probabilities", precision="float16")),
    (["--opset", "18", "--fp16"], Form(precision="float16", opset=18)),
]


@pytest.mark.parametrize(("options", "form"), FORMS, ids=[" ".join(options) or "default" for options, _ in FORMS])
def test_the_form_asked_for_is_written_and_reported(options, form, export, tmp_path):
    code, out, err = export(REF, "-o", "m.onnx", *options, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    report, path = json.loads(out), tmp_path / "m.onnx"
    assert files(tmp_path) == {"tiny.py", "m.onnx"}
    assert (report["file"], report["sha256"]) == ("m.onnx", sha256(path.read_bytes()).hexdigest())
    told = {name: report[name] for name in ("input", "output", "precision", "resize", "opset")}
    assert told == {name: getattr(form, name) for name in told}
    assert onnx.load(path).opset_import[0].version == form.opset
    images = np.tile(pixels(3)[:, :1, :1], (1, 9, 40, 1)) if form.resize else pixels(3)  # one colour at any size
    wanted = logits(images)
    if form.output == "probabilities":
        wanted = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
    np.testing.assert_allclose(answers(path, form, images), wanted, atol=1e-4 if form.precision == "float32" else 2e-2)


def test_what_is_printed(export, small_data):
    code, out, err = export(REF, "-o", "m.onnx", "--output", "probabilities")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("m.onnx: 0.00 MB, opset 20, sha256 ")
    assert first.endswith(sha256(Path("m.onnx").read_bytes()).hexdigest()[:12])
    pattern = r"probabilities differ from torch's by at most \d\.\de-\d\d; same class on 512 of 512 images"
    assert re.fullmatch(pattern, second)


def test_what_the_first_exporter_failed_at_is_printed(export, monkeypatch):
    original = onnx_export.to_onnx

    def to_onnx(network, example, opset, exporter):
        if exporter == "dynamo":
            raise ValueError("no such operator")
        return original(network, example, opset, exporter)

    monkeypatch.setattr(onnx_export, "EXPORTERS", ("dynamo", "torchscript"))
    monkeypatch.setattr(onnx_export, "to_onnx", to_onnx)
    code, out, _ = export(REF, "-o", "m.onnx")
    assert (code, out.splitlines()[-1]) == (0, "first tried: dynamo: ValueError: no such operator")
    monkeypatch.setattr(onnx_export, "EXPORTERS", ("dynamo",))
    code, out, err = export(REF, "-o", "n.onnx", "--json")
    assert (code, out) == (1, "")
    assert err == "error: no exporter wrote the same model; nothing was written. dynamo: ValueError: no such operator\n"
    assert not Path("n.onnx").exists()


def test_data_brings_the_accuracy_of_model_and_file(export, small_data, tmp_path):
    options = ["--data", small_data, "--n", 9, "--eps", "14/255", "--input", "uint8-nhwc"]
    code, out, err = export(REF, "-o", "m.onnx", *options, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    found = json.loads(out)["accuracy"]
    assert (found["n"], found["threat"], found["protocol"]) == (9, "L∞ 14/255", "quick")
    arrays = np.load(small_data)
    clean = (logits(arrays["x_test"][:9]).argmax(1) == arrays["y_test"][:9]).mean()
    assert found["model"]["clean"] == found["file"]["clean"] == clean
    assert 0 < found["file"]["robust"] == found["model"]["robust"] < clean
    assert (json.loads(out)["images"], json.loads(out)["same_class"]) == (512, 512)


@pytest.fixture
def asked(monkeypatch):
    """Replaces the measurement of accuracies; the list holds what was asked for, and torch's threads meanwhile."""
    calls = []

    def kept_accuracy(model, file, data_name, **options):
        calls.append((model, Path(file).name, data_name, torch.get_num_threads(), options))
        found = {"dataset": "blobs", "n": 24, "threat": "L2 0.5", "protocol": "fast", "model": ACCURACY}
        return {**found, "file": {"clean": 0.725, "robust": 0.48, "interval": [0.2, 0.6]}}

    monkeypatch.setattr(shipped, "kept_accuracy", kept_accuracy)
    return calls


def test_options_of_the_measurement_reach_it(export, asked, small_data):
    before = torch.get_num_threads()
    options = ["--norm", "l2", "--eps", "0.5", "--protocol", "fast", "--n", 24, "--seed", 5]
    code, out, err = export(
        REF, "-o", "m.onnx", "--data", small_data, *options, "--image-size", 16, "--threads", before + 1
    )
    assert (code, err) == (0, "")
    ((model, file, data_name, threads, given),) = asked
    assert (model, file, data_name, threads) == (REF, "m.onnx", str(small_data), before + 1)
    del given["reporter"]
    wanted = {"threat": Threat("l2", 0.5), "protocol": "fast", "n": 24, "seed": 5, "image_size": (16, 16)}
    assert given == {**wanted, "checkpoint": None}
    assert torch.get_num_threads() == before
    about, header, _, *rows = out.splitlines()[-5:]
    assert about == "first 24 test images of blobs, L2 0.5, protocol fast"
    assert [" ".join(line.split()) for line in (header, *rows)] == [
        "clean robust 95 % interval",
        "model 75.0 % 50.0 % 25.0 % to 62.5 %",
        "file 72.5 % 48.0 % 20.0 % to 60.0 %",
    ]


@pytest.fixture
def rounded(monkeypatch):
    """One setting instead of all; the list holds what was asked for."""
    original, calls = quantize.quantize, []

    def once(ref, out, images, **options):
        calls.append((ref, images, options))
        return partial(original, settings=(quantize.Setting(),))(ref, out, images, **options)

    monkeypatch.setattr(quantize, "quantize", once)
    return calls


def test_int8_is_written_beside_the_numbers_of_float32(export, asked, rounded, npz_file, tmp_path):
    data = npz_file(n=120)
    options = ["--quantize", "int8", "--data", data, "--max-clean-loss", "0.25", "--seed", "2", "--eps", "4/255"]
    code, out, err = export(
        REF, "-o", "m.onnx", *options, "--input", "uint8-nhwc", "--output", "probabilities", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert out.count("\n") == 1
    ((ref, images, given),) = rounded
    assert ref == REF
    np.testing.assert_array_equal(images.images, np.load(data)["x_train"])
    assert (given["max_clean_loss"], given["seed"], given["threat"]) == (0.25, 2, Threat("linf", 4 / 255))
    session = Session(tmp_path / "m.onnx", "cpu")
    assert session.metadata["precision"] == report["precision"] == "int8"
    given = np.load(data)["x_test"]
    wanted = np.exp(logits(given))
    np.testing.assert_allclose(session.logits(given), wanted / wanted.sum(1, keepdims=True), atol=0.2)
    assert (session.logits(given).argmax(1) == wanted.argmax(1)).mean() > 0.9
    assert asked[0][4]["protocol"] == "fast", "one that attacks int8 files well is the default"
    assert report["accuracy"]["model"] == ACCURACY
    assert files(tmp_path) == {"tiny.py", "m.onnx"}
    code, out, err = export(REF, "-o", "m.onnx", "--quantize", "int8", "--data", data, "--force")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].startswith("rounded: weights and activations, minmax calibration, one scale per tensor (best of 1)")
    assert [line.split()[0] for line in lines[4:6]] == ["float32", "int8"]
    assert lines[7].startswith("the better file: ")


def test_a_checkpoint_s_weights_are_exported_under_no_name(export, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = timm.create_model("rnas_wrn10_1", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    code, _, err = export("rnas_wrn10_1", "-o", "m.onnx", "--checkpoint", "own.safetensors", "--bundle", "out")
    assert (code, err) == (0, "")
    session = Session(tmp_path / "m.onnx", "cpu")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(session.logits(images.numpy()), network(images), atol=1e-4)
    assert session.metadata["architecture"] == "rnas_wrn10_1"
    assert not {"model", "dataset", "labels", "threat_model", "weights"} & session.metadata.keys()
    assert not (tmp_path / "out" / "check.npz").exists(), "made with other weights"


def test_a_name_without_weights_is_exported_with_a_warning(export, tmp_path):
    code, out, err = export(UNTRAINED, "-o", "m.onnx", "--json")
    assert code == 0
    assert err == f"warning: {UNTRAINED} has no weights; exporting it untrained (seed 0)\n"
    assert json.loads(out)["same_class"] == 512
    session = Session(tmp_path / "m.onnx", "cpu")
    assert session.metadata["weights"] == "untrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(UNTRAINED).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(session.logits(images.numpy()), network(images), atol=1e-4)


def test_files_called_like_a_name_without_weights_are_not_untrained(export, tmp_path):
    (tmp_path / f"{UNTRAINED}.py").write_text(MODULE)
    code, _, err = export(f"{UNTRAINED}.py:build", "-o", f"{UNTRAINED}.onnx")
    assert (code, err) == (0, "")
    assert "weights" not in Session(tmp_path / f"{UNTRAINED}.onnx", "cpu").metadata


def test_an_onnx_file_can_be_bundled_as_it_is_and_not_exported_again(export, tmp_path):
    assert export(REF, "-o", "m.onnx")[0] == 0
    code, out, err = export("m.onnx", "--bundle", "out")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["out: README.md, model.onnx, runtime.py"]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    code, out, err = export("m.onnx", "-o", "again.onnx")
    assert (code, out) == (2, "")
    assert "m.onnx is an ONNX file already: export the model that it was made of" in err


def test_a_bundle_alone_leaves_no_other_file(export, tmp_path):
    code, out, err = export(REF, "--bundle", "out", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert files(tmp_path) == {"tiny.py", *(f"out/{name}" for name in ("README.md", "model.onnx", "runtime.py"))}
    report = json.loads(out)
    assert report["bundle"]["files"]["model.onnx"] == report["sha256"]
    assert report["bundle"]["check"] is None
    code, out, _ = export(REF, "--bundle", "out", "-o", "m.onnx", "--force", "--input", "uint8-nhwc")
    assert code == 0
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()
    assert Session(tmp_path / "m.onnx", "cpu").input_type is np.uint8
    assert out.splitlines()[-1] == "out: README.md, model.onnx, runtime.py"


@pytest.mark.parametrize("tag", ["", ".pgd_digits_linf16"])
def test_the_bundle_of_a_release_has_its_labels_and_check_pack(tag, export, tmp_path):
    code, out, err = export(f"rnas_wrn10_1{tag}", "--bundle", "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(
        "out: README.md, check.npz, labels.txt, model.onnx, runtime.py, checked on 64 "
    )
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list("0123456789")
    facts = Session(tmp_path / "out" / "model.onnx", "cpu").metadata
    assert (facts["model"], facts["dataset"], facts["threat_model"]) == (
        "rnas_wrn10_1.pgd_digits_linf16",
        "digits",
        "L∞ 16/255",
    )


REFUSED = [
    (["-o", "m.bin"], "an ONNX model is written to an .onnx file, got 'm.bin'"),
    (["-o", "m.onnx", "--quantize", "int8"], "--quantize int8 needs --data"),
    (
        ["-o", "m.onnx", "--quantize", "int8", "--data", "digits", "--fp16"],
        "--quantize int8 and --fp16 exclude each other",
    ),
    (["-o", "m.onnx", "--device", "cuda"], "export works on the CPU, got --device cuda"),
    (["-o", "m.onnx", "--opset", "16"], "opset is 17 to 23, got 16"),
    (["-o", "m.onnx", "--resize"], "choose the input uint8-nhwc as well"),
    (["-o", "m.onnx", "--resize", "--input", "uint8-nhwc", "--opset", "17"], "opset 18 or newer, got 17"),
    (["-o", "m.onnx", "--data", "digitz"], "unknown data set 'digitz'"),
    (["-o", "m.onnx", "--data", "digits", "--protocol", "fats"], "unknown protocol 'fats'"),
    (["-o", "m.onnx", "--data", "digits", "--eps", "8"], "8/255"),
    (["-o", "old.onnx"], "old.onnx exists already and was left as it is"),
    (["-o", "m.onnx", "--bundle", "old"], "old exists already and was left as it is"),
    (["--save", "--data", "digits"], "--save goes with --quantize int8"),
    (["--save", "--quantize", "int8", "--data", "digits", "-o", "m.onnx"], "--save goes with --quantize int8"),
    (["--save", "--quantize", "int8", "--data", "digits", "--fp16"], "with no other form"),
    (["--save", "--quantize", "int8", "--data", "digits", "--opset", "18"], "with no other form"),
    (["--save", "--quantize", "int8", "--data", "digits", "--checkpoint", "a.safetensors"], "--save goes with"),
    (["--save", "--quantize", "int8", "--data", "digits", "--device", "cuda"], "export works on the CPU"),
    (["--save", "--quantize", "int8", "--data", "digits"], "is no release folder"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_cannot_be_done_is_refused_before_anything_is_written(options, message, export, tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("old.onnx", "old/mine"):
        (tmp_path / name).write_text("mine")
    refused(export(REF, *options, "--json"), message)
    assert files(tmp_path) == {"tiny.py", "old.onnx", "old/mine"}
    assert {(tmp_path / name).read_text() for name in ("old.onnx", "old/mine")} == {"mine"}


def test_somewhere_to_write_is_needed(export, tmp_path):
    code, out, err = export(REF)
    assert (code, out) == (2, "")
    assert "Missing option '-o': the .onnx file to write (or --bundle DIR)." in err
    for wrong in (["--input", "float32-nhwc"], ["--output", "classes"], ["--quantize", "int4"], ["--n", "0"]):
        code, out, err = export(REF, "-o", "m.onnx", *wrong)
        assert (code, out) == (2, "")
        assert wrong[0] in err
    assert files(tmp_path) == {"tiny.py"}


def test_force_replaces_what_is_there(export, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("m.onnx", "out/mine"):
        (tmp_path / name).write_text("mine")
    code, _, err = export(REF, "-o", "m.onnx", "--bundle", "out", "--force")
    assert (code, err) == (0, "")
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", Form(), pixels(2)), logits(pixels(2)), atol=1e-4)
    assert files(tmp_path / "out") == {"README.md", "model.onnx", "runtime.py"}


def test_references_that_are_none_are_one_line(export):
    refused(export("tiny.py:bild", "-o", "m.onnx"), "tiny.py defines no function 'bild'")
    refused(export("rnas_cl_s4", "-o", "m.onnx"), "unknown model 'rnas_cl_s4'", "rnas_cl_s3")
    refused(export("nothing.onnx", "-o", "m.onnx"), "nothing.onnx")
    refused(export("rnas_wrn10_1", "-o", "m.onnx", "--checkpoint", "none.safetensors"), "none.safetensors: no such")


def test_save_hands_over_to_the_release_folder(export, monkeypatch):
    calls = []

    def ship_int8(folder, data_name, **options):
        calls.append((folder, data_name, options))
        return {"file": "model.int8.onnx", "kept": True}

    monkeypatch.setattr(int8, "ship_int8", ship_int8)
    options = ["--quantize", "int8", "--data", "digits", "--n", 100, "--eps", "2/255", "--seed", 4, "--save"]
    code, out, err = export("folder", *options, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"file": "model.int8.onnx", "kept": True}
    ((folder, data_name, given),) = calls
    assert (folder, data_name) == ("folder", "digits")
    assert (given["n"], given["seed"], given["threat"]) == (100, 4, Threat("linf", 2 / 255))
