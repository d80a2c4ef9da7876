"""int8 files: chosen by robust accuracy, refused where they lose too much, and what they say of themselves."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from rnas_zoo import data
from rnas_zoo.attacks import PGD, Keys, Threat, pgd
from rnas_zoo.data import ImageSet
from rnas_zoo.deploy import quantize as module
from rnas_zoo.deploy.form import Form
from rnas_zoo.deploy.int8_graph import SETTINGS, Setting
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.deploy.quantize import Trial, quantize
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.twin import twin
from rnas_zoo.errors import CheckFailedError, OutputExistsError, UsageError

from ..conftest import blobs
from .small import CLASSES, SIZE, images, network, scales

THREAT = Threat("linf", "14/255")


@pytest.fixture(scope="module", autouse=True)
def short_timing():
    """Times are taken of a few calls only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "latency", partial(module.latency, seconds=0.02, repeats=5))
        yield


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return network()


@pytest.fixture(scope="module")
def made(net, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    """Report and file of the real thing, every setting tried."""
    path = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    return quantize(net, path, images(), threat=THREAT, labels=["a", "b", "c"]), path


@pytest.fixture(scope="module")
def float_file(net, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export(net, path, images=images().images)
    return path


def once(monkeypatch, real: Any = module.export) -> None:
    """Of several exports only the first is made, the others are copies."""
    made: list[tuple[bytes, dict[str, Any]]] = []

    def export(model: object, out: Path, **options: Any) -> dict[str, Any]:
        if not made:
            report = real(model, out, **options)
            made.append((out.read_bytes(), report))
        out.write_bytes(made[0][0])
        return made[0][1]

    monkeypatch.setattr(module, "export", export)


@pytest.fixture
def exported(monkeypatch, float_file):
    """Exports are copies of one made before."""

    def copy(model: object, out: Path, **options: Any) -> dict[str, Any]:
        out.write_bytes(float_file.read_bytes())
        return {"bytes": float_file.stat().st_size}

    monkeypatch.setattr(module, "export", copy)


def answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)})[0]


def weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Initializers of two or more dimensions: those of convolutions and of the last layer."""
    return [value for value in model.graph.initializer if len(value.dims) >= 2]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_holds_int8_weights_takes_any_batch_and_has_nearly_the_float_network_s_classes(made, net):
    report, path = made
    model, test = onnx.load(path), images(60, seed=3)
    assert all(value.data_type == TensorProto.INT8 for value in weights(model))
    assert sum(len(numpy_helper.to_array(value).ravel()) for value in weights(model)) == sum(
        p.numel() for p in net.parameters() if p.ndim >= 2
    )
    assert path.stat().st_size == report["bytes"] < 0.5 * report["float_bytes"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (model.graph.input[0].name, shape[0].dim_param, [dim.dim_value for dim in shape[1:]]) == (
        "image",
        "batch",
        [3, SIZE, SIZE],
    )
    assert [value.name for value in model.graph.output] == ["logits"]
    with torch.no_grad():
        wanted = net(data.to_pixels(test.images)).numpy()
    assert (wanted.argmax(1) == test.labels).all(), "the float network has learned its classes"
    for batch in (1, 2, 7, 60):
        found = answers(path, test.images[:batch])
        assert found.shape == (batch, CLASSES)
        assert (found.argmax(1) == test.labels[:batch]).mean() >= 0.95
    assert not np.array_equal(found, wanted), "something was rounded"
    np.testing.assert_allclose(found, wanted, atol=0.1 * np.abs(wanted).max())


def test_the_metadata_say_what_it_is(made, net):
    found = Session(made[1], "cpu").metadata
    assert (found["precision"], found["output"], found["architecture"]) == ("int8", "logits", "tiny")
    assert json.loads(found["input_size"]) == [3, SIZE, SIZE]
    assert json.loads(found["labels"]) == ["a", "b", "c"]
    assert found["input"].startswith("float32 RGB in [0, 1], NCHW")
    assert onnx.load(made[1]).producer_name == "rnas-zoo"


def test_the_report_tells_size_setting_trials_times_and_agreement(made, net):
    from rnas_zoo.files import sha256_file

    report, path = made
    assert (report["file"], report["sha256"]) == (path.name, sha256_file(path))
    assert (report["input"], report["output"], report["precision"], report["resize"], report["opset"]) == (
        "float32-nchw", "logits", "int8", False, 20,
    )  # fmt: skip
    settings = [
        {name: trial[name] for name in ("per_channel", "calibration", "in_float")} for trial in report["trials"]
    ]
    assert [Setting(**setting) for setting in settings] == list(SETTINGS)
    assert Setting(**report["setting"]) in SETTINGS
    for name in ("float32", "int8"):
        for batch in ("1", "32"):
            assert 0 < report["latency"][name][batch]["p50"] <= report["latency"][name][batch]["p95"]
    faster = report["latency"]["int8"]["1"]["p50"] <= 1.05 * report["latency"]["float32"]["1"]["p50"]
    assert report["better"].startswith("int8" if faster else "float32, unless size counts")
    assert f"{report['bytes'] / report['float_bytes']:.2f} times the size" in report["better"]
    assert report["images"] == 512
    assert 0.9 * 512 <= report["same_class"] <= 512
    assert json.loads(json.dumps(report)) == report


def test_selection_says_what_the_session_gets_right_before_and_after_both_attacks(made, net):
    report, path = made
    chosen, rest = report["selection"], images().take(np.arange(32, 96))
    assert (report["calibration_images"], chosen["images"], chosen["attacked"]) == (32, 64, 64)
    assert chosen["threat"] == str(THREAT)
    x, y = data.to_pixels(rest.images), torch.from_numpy(rest.labels)

    def attack(model: nn.Module) -> torch.Tensor:
        return pgd(model, x, y, THREAT, PGD(steps=10), Keys(0, torch.arange(64))).x_adv

    def right(pixels: torch.Tensor) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": pixels.numpy()})[0].argmax(1) == rest.labels

    one, other = attack(net), attack(twin(path))
    with torch.no_grad():
        assert chosen["float_clean"] == (net(x).argmax(1) == y).float().mean()
        assert chosen["float_robust"] == pytest.approx(float((net(one).argmax(1) == y).float().mean()))
    standing = right(x) & right(one) & right(other)
    assert chosen["clean"] == right(x).mean()
    assert chosen["robust"] == pytest.approx(standing.mean())
    assert 0.05 < chosen["robust"] < 0.95, "the attacks are felt"


def test_uint8_pixels_and_probabilities_go_through_the_runtime(exported, net, tmp_path):
    path, test = tmp_path / "u8.onnx", images(20, seed=5)
    form = Form(input="uint8-nhwc", output="probabilities")
    report = quantize(net, path, images(), form=form, settings=(Setting(),), labels=["a", "b", "c"])
    assert (report["input"], report["output"]) == ("uint8-nhwc", "probabilities")
    session = Session(path, "cpu")
    assert (session.input_type, session.channels_last, session.gives_probabilities) == (np.uint8, True, True)
    assert session.metadata["precision"] == "int8"
    found = session.predict(test.images, k=3)
    assert [top[0][0] for top in found] == ["abc"[label] for label in test.labels]
    assert [sum(share for _, share in top) for top in found] == pytest.approx([1.0] * 20, abs=1e-5)


def test_the_same_again_gives_the_same_bytes_and_touches_nothing_of_the_user_s(
    net, tmp_path, monkeypatch, capfd, request
):
    monkeypatch.setattr(logging.root, "handlers", [])
    logging.disable(logging.DEBUG)
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    torch.manual_seed(11)
    before, level = torch.get_rng_state(), logging.root.level
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    options = {"settings": SETTINGS[1:3], "threat": THREAT}
    reports = [quantize(net, tmp_path / f"{name}.onnx", images(), **options) for name in "ab"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert [reports[0][key] == reports[1][key] for key in ("setting", "trials", "selection")] == [True] * 3
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, tensors[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert logging.root.manager.disable == logging.DEBUG
    assert (logging.root.handlers, logging.root.level) == ([], level)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


# --- the choice -------------------------------------------------------------------------------------------------------


class Told:
    """Says of each setting what a table says."""

    table: ClassVar[dict[Setting, tuple[int, float, float | None]]] = {}
    seen: ClassVar[list[Any]] = []
    clean, robust, attacked = 0.9, 0.5, 64

    def __init__(self, network: nn.Module, chosen: ImageSet, threat: Threat, seed: int) -> None:
        self.seen.append(chosen)

    def trial(self, setting: Setting, proto: onnx.ModelProto, budget: float) -> Trial:
        self.seen.append(budget)
        size, clean, robust = self.table[setting]
        return Trial(setting, size, clean, robust)


@pytest.fixture
def told(monkeypatch, exported):
    monkeypatch.setattr(Told, "seen", [])
    monkeypatch.setattr(module, "_Chooser", Told)
    return Told


A, B, C, D = Setting(), Setting(True), Setting(calibration="percentile"), Setting(True, "percentile")


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ({A: (100, 0.89, 0.30), B: (900, 0.89, 0.40), C: (200, 0.90, 0.38)}, B),  # the most robust, whatever its size
        ({A: (100, 0.89, 0.39), B: (900, 0.89, 0.40), C: (200, 0.89, 0.395)}, B),
        ({A: (100, 0.89, 0.389), B: (900, 0.89, 0.40), C: (200, 0.80, 0.40)}, C),  # among equals the smallest
        ({A: (100, 0.50, None), B: (900, 0.89, 0.10), C: (50, 0.2, None)}, B),  # those outside the budget are out
        ({A: (100, 0.89, 0.0), B: (90, 0.89, 0.0), C: (50, 0.2, None)}, B),  # robust on no image is still a figure
        ({A: (100, 0.89, 0.4), B: (100, 0.9, 0.4), C: (100, 0.91, 0.4)}, A),  # else the first
    ],
)
def test_the_most_robust_setting_is_kept_and_among_equals_the_smallest(told, monkeypatch, net, tmp_path, table, best):
    monkeypatch.setattr(told, "table", table)
    report = quantize(net, tmp_path / "m.onnx", images(), settings=(A, B, C))
    assert Setting(**report["setting"]) == best
    assert (report["selection"]["clean"], report["selection"]["robust"]) == table[best][1:]
    assert [(t["bytes"], t["clean"], t["robust"]) for t in report["trials"]] == list(table.values())
    assert told.seen[1:] == pytest.approx([0.9 - 0.01] * 3), "the budget is a point of the float network's accuracy"
    per_channel = {count for _, count in scales(onnx.load(tmp_path / "m.onnx"))} != {1}
    assert per_channel == best.per_channel, "the file written is that of the setting"


def test_where_every_setting_loses_too_much_nothing_is_written_and_the_best_is_named(told, monkeypatch, net, tmp_path):
    monkeypatch.setattr(told, "table", {A: (1, 0.7, None), B: (1, 0.8, None)})
    with pytest.raises(CheckFailedError, match=r"from 90\.0% to 80\.0% at best, more than the 5\.0% allowed"):
        quantize(net, tmp_path / "m.onnx", images(), settings=(A, B), max_clean_loss=0.05)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "first", "second"), [(96, 32, 64), (100, 33, 67), (1000, 256, 512)])
def test_images_that_calibrate_and_those_that_select_are_disjoint_and_the_first_given(
    told, monkeypatch, net, tmp_path, n, first, second
):
    calibrating = []
    real = module.quantized

    def note(source: Path, calibration: np.ndarray, setting: Setting) -> onnx.ModelProto:
        calibrating.append(calibration)
        return real(source, calibration[:32], setting)

    monkeypatch.setattr(module, "quantized", note)
    monkeypatch.setattr(told, "table", {A: (1, 0.9, 0.5), B: (1, 0.9, 0.5)})
    given = images(n)
    report = quantize(net, tmp_path / "m.onnx", given, settings=(A, B))
    assert len(calibrating) == 2
    for found in calibrating:
        np.testing.assert_array_equal(found, given.images[:first])
    np.testing.assert_array_equal(told.seen[0].images, given.images[first : first + second])
    np.testing.assert_array_equal(told.seen[0].labels, given.labels[first : first + second])
    assert (report["calibration_images"], report["selection"]["images"]) == (first, second)


# --- refusals ---------------------------------------------------------------------------------------------------------


def outlier() -> nn.Sequential:
    """The same function, but one channel that says nothing is a million times larger than the others."""
    net = network()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, 1e6
        net[2].weight[:, 0] /= 1e6
        net[2].bias.sub_(net[2].weight[:, 0, 0, 0] * 1e6)
    return net


def test_a_network_that_does_not_quantize_well_is_refused_unless_told_to_lose_more(monkeypatch, tmp_path):
    once(monkeypatch)
    net, path = outlier(), tmp_path / "m.onnx"
    with pytest.raises(
        CheckFailedError, match=r"does not quantize well: .* on 64 images falls from \d+\.\d% to"
    ) as error:
        quantize(net, path, images(), settings=(A, D))
    assert error.value.exit_code == 1
    assert "--max-clean-loss" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    report = quantize(net, path, images(), settings=(A,), max_clean_loss=1.0)
    assert path.is_file()
    chosen = report["selection"]
    assert chosen["float_clean"] > 0.9
    assert chosen["clean"] < 0.7


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (images(95), "at least 96 training images, got 95"),
        (ImageSet(*blobs(96, 3, 12, 0)), r"the images are 12x12, the model takes 16x16: give --image-size"),
    ],
)
def test_too_few_images_and_other_sizes_are_refused(net, tmp_path, given, text):
    with pytest.raises(UsageError, match=text):
        quantize(net, tmp_path / "m.onnx", given)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_another_ending_and_another_precision_are_refused(net, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="exists already and was left as it is"):
        quantize(net, tmp_path / "m.onnx", images())
    assert (tmp_path / "m.onnx").read_bytes() == b"precious"
    with pytest.raises(UsageError, match=r"written to an \.onnx file"):
        quantize(net, tmp_path / "m.tflite", images())
    with pytest.raises(UsageError, match="made of float32 ones"):
        quantize(net, tmp_path / "n.onnx", images(), form=Form(precision="float16"))
