"""Exported ONNX files are the torch model, or they do not exist."""

import hashlib
import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from rnas_zoo import data, genotype
from rnas_zoo.deploy import onnx_export
from rnas_zoo.deploy.form import Form
from rnas_zoo.deploy.onnx_export import comparison_images, export
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.errors import CheckFailedError, OutputExistsError, UsageError

from .test_form import CHOICES, remembered, tiny

# One of each family; the exporter takes long on cells, so there are as few as have all kinds of transition.
FAMILIES = ("rnas_vuln_h_c16l8", "rnas_arnas_c16l8", "rnas_cells", "rnas_cl_s3")
DENSE = {
    "schema": 1,
    "name": "dense",
    "kind": "dense_cells",
    "share": True,
    "codes": ["11 00 01 00 10 00 01 00 00 00 00 11 00 01"],
    "default": {"channels": 16, "layers": 3},
}
SIZES = {
    "rnas_vuln_h_c16l8": {"layers": 5},
    "rnas_arnas_c16l8": {"layers": 5},
    "rnas_cells": {"genotype": DENSE, "channels": 16, "layers": 3},
}


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, **SIZES.get(name, {})).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
            made[name] = path, export(build(name), path)
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_torch_at_batches_1_2_7(name, exported):
    path, report = exported(name)
    network = build(name)
    images = data.load("digits").test.images[100:107]
    pixels = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    session = Session(path, provider="cpu")
    for batch in (1, 2, 7):
        with torch.no_grad():
            wanted = network(torch.from_numpy(pixels[:batch])).numpy()
        np.testing.assert_allclose(session.logits(pixels[:batch]), wanted, atol=1e-4)
    assert set(report["parity"]) == {"1", "2", "7", "all"}
    assert (report["images"], report["same_class"], report["exporter"]) == (512, 512, "dynamo")


@pytest.mark.parametrize("name", FAMILIES)
def test_one_checked_file_with_symbolic_batch_and_no_local_paths(name, exported):
    path, report = exported(name)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    first, *rest = image.type.tensor_type.shape.dim
    assert first.dim_param
    assert [d.dim_value for d in rest] == [3, 32, 32]
    content = path.read_bytes()
    for marker in (b"rnas_cells.py", b"ops.py", b"site-packages", b"/home/", b"stack_trace"):
        assert marker not in content
    made_by = {output: node.op_type for node in proto.graph.node for output in node.output}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert all(made_by[node.input[0]] == "Concat" for node in norms)  # a norm after a convolution is folded into it
    assert report["bytes"] == len(content)


def test_metadata_rebuilds_the_architecture(exported):
    path, _ = exported("rnas_arnas_c16l8")
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found = genotype.from_json(json.loads(texts["genotype"]))
    assert found == genotype.named("arnas")
    assert texts["genotype_sha256"] == found.hash
    assert texts["architecture"] == "rnas_arnas_c16l8"
    assert json.loads(texts["model_args"])["genotype"]["name"] == "arnas"
    assert len(texts["weights_sha256"]) == 64
    assert json.loads(texts["input_size"]) == [3, 32, 32]


def test_metadata_has_the_image_size_of_the_graph(tmp_path):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.pretrained_cfg = {"input_size": (3, 16, 24)}
    export(network, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "input_size")
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    assert json.loads(entry.value) == shape == [3, 16, 24]


def test_the_same_weights_give_the_same_bytes(tmp_path, exported):
    path, _ = exported("rnas_cl_s3")
    export(build("rnas_cl_s3"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_output_path_is_checked_first(tmp_path):
    with pytest.raises(UsageError, match=r"\.onnx"):
        export("rnas_cl_s3", tmp_path / "model.bin")
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(OutputExistsError, match="left as it is"):
        export("rnas_cl_s3", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"


class Scores(nn.Module):
    """Mean colours (N, 3) plus a shift: the smallest network that can become another function."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.register_buffer("shift", torch.as_tensor(shift))

    def forward(self, x):
        return x.mean((2, 3)) + self.shift


class Reply:
    """A session that adds something to the answers of the network it was given."""

    def __init__(self, network, change):
        self.network, self.change = network, change

    def __call__(self, payload, provider, threads):
        return self

    def logits(self, images, batch_size=256):
        with torch.no_grad():
            return self.change(self.network(torch.from_numpy(images)).numpy().copy())


@pytest.fixture(scope="module")
def once():
    """`to_onnx`, once for each network of these tests."""
    return remembered(onnx_export.to_onnx)


@pytest.fixture
def quickly(monkeypatch):
    """Only the faster exporter."""
    monkeypatch.setattr(onnx_export, "EXPORTERS", ("torchscript",))


def test_the_report_says_what_was_written_and_compared(once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "to_onnx", once)
    path = tmp_path / "net.onnx"
    report = export(tiny(), path, form=Form("uint8-nhwc", "probabilities", "float16", resize=True, opset=18))
    parity = report.pop("parity")
    assert set(parity) == {"1", "2", "7", "resized", "all"}
    assert 0 <= min(parity.values()) <= max(parity.values()) <= 0.02
    assert 500 <= report.pop("same_class") <= 512
    content = path.read_bytes()
    assert report == {
        "file": "net.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "opset": 18,
        "input": "uint8-nhwc",
        "output": "probabilities",
        "precision": "float16",
        "resize": True,
        "exporter": "dynamo",
        "tolerance": 2e-2,
        "images": 512,
    }
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("opset", range(17, 24))
def test_every_opset_is_written_and_runs(opset, once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "to_onnx", once)
    network = tiny()
    report = export(network, tmp_path / "net.onnx", form=Form(opset=opset))
    proto = onnx.load(tmp_path / "net.onnx")
    assert report["opset"] == opset
    assert [(entry.domain, entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")] == [
        ("", opset)
    ]
    onnx.checker.check_model(proto, full_check=True)
    images = np.random.default_rng(0).random((3, 3, 12, 10), np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": images})[0], network(torch.from_numpy(images)), atol=1e-4)
    assert ("failures" in report) == (report["exporter"] == "torchscript")


@pytest.mark.parametrize("exporter", onnx_export.EXPORTERS)
def test_the_same_weights_give_the_same_bytes_in_every_form(exporter, once, tmp_path, monkeypatch):
    images, digests = np.random.default_rng(2).integers(0, 256, (512, 12, 10, 3), np.uint8), []
    monkeypatch.setattr(onnx_export, "EXPORTERS", (exporter,))
    for convert in (once, remembered(onnx_export.to_onnx)):  # the second converts anew, then for no form again
        monkeypatch.setattr(onnx_export, "to_onnx", convert)
        asked = {"images": images, "overwrite": True}
        reports = [export(tiny(), tmp_path / "net.onnx", form=form, **asked) for form in CHOICES]
        assert {report["exporter"] for report in reports} == {exporter}
        digests.append([report["sha256"] for report in reports])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == len(CHOICES)


def another_function(original, *exporters):
    """`to_onnx`, but what these exporters write is off by 0.01 in the last class."""

    def convert(network, example, opset, exporter):
        shift = torch.tensor([0.0, 0.0, 0.01]) if exporter in exporters else 0.0
        return original(Scores(network.shift + shift), example, opset, exporter)

    return convert


def failing(original, *exporters):
    def convert(network, example, opset, exporter):
        if exporter in exporters:
            raise ValueError("no such\n  operator")
        return original(network, example, opset, exporter)

    return convert


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (another_function, r"^dynamo: the ONNX model is not the torch model: at batch 1 outputs differ by 0\.01 "),
        (failing, r"^dynamo: ValueError: no such operator$"),
    ],
    ids=["another function", "an error"],
)
def test_the_second_exporter_takes_over(break_it, why, once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "to_onnx", break_it(once, "dynamo"))
    report = export(Scores(0.5), tmp_path / "net.onnx")
    assert report["exporter"] == "torchscript"
    (failure,) = report["failures"]
    assert re.search(why, failure)
    images = np.random.default_rng(0).random((4, 3, 32, 32), np.float32)
    np.testing.assert_allclose(
        Session(tmp_path / "net.onnx", "cpu").logits(images), images.mean((2, 3)) + 0.5, atol=1e-5
    )


@pytest.mark.parametrize("break_it", [another_function, failing], ids=["another function", "an error"])
def test_when_both_exporters_fail_nothing_is_written(break_it, once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "to_onnx", break_it(once, "dynamo", "torchscript"))
    with pytest.raises(CheckFailedError, match=r"nothing was written\. dynamo: .+\. torchscript: ") as caught:
        export(Scores(), tmp_path / "net.onnx")
    if break_it is another_function:
        pattern = (
            r"torchscript: the ONNX model is not the torch model: at batch 1 outputs differ by 0\.01 "
            r"\(allowed 0\.0001\): image 0, class 2: torch (\S+), ONNX (\S+)$"
        )
        wanted, found = map(float, re.search(pattern, str(caught.value)).groups())
        assert found - wanted == pytest.approx(0.01, abs=1e-5)
        digit = data.load("digits").test.images[0]
        assert wanted == pytest.approx(digit[..., 2].mean() / 255, abs=1e-5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(CheckFailedError):
        export(Scores(), tmp_path / "net.onnx", overwrite=True)
    assert (tmp_path / "net.onnx").read_text() == "mine"


def test_a_network_that_gives_no_numbers_is_refused(quickly, tmp_path):
    with pytest.raises(CheckFailedError, match="nan"):
        export(Scores(float("nan")), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


PICTURES = np.random.default_rng(5).integers(0, 256, (100, 4, 4, 3), np.uint8)


def swap_two_classes(row):
    def change(logits):
        if len(logits) > row:
            logits[row] = logits[row, [1, 0, 2]]
        return logits

    return change


def test_one_image_of_another_class_is_refused_by_name(monkeypatch):
    network = Scores()
    monkeypatch.setattr(onnx_export, "Session", Reply(network, swap_two_classes(90)))
    first, second = PICTURES[90, ..., :2].mean((0, 1)) / 255
    assert abs(first - second) > 0.01
    with pytest.raises(
        CheckFailedError, match=rf"at batch 100 outputs differ by {abs(first - second):.3g} .*image 90,"
    ):
        onnx_export.compare(network, b"", PICTURES, Form())


def test_near_ties_may_fall_either_way(monkeypatch):
    class Tie(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), x.mean((1, 2, 3)) + 8e-5], 1)

    network = Tie()
    monkeypatch.setattr(onnx_export, "Session", Reply(network, lambda logits: logits[:, ::-1]))
    found = onnx_export.compare(network, b"", PICTURES, Form())
    assert (found["images"], found["same_class"]) == (100, 0)
    assert found["parity"]["all"] == pytest.approx(8e-5, rel=0.01)


@pytest.mark.parametrize(
    ("precision", "scale", "allowed"), [("float32", 1, 1e-4), ("float32", 50, 5e-3), ("float16", 1, 2e-2)]
)
def test_the_tolerance_is_of_the_largest_logit_or_one(precision, scale, allowed, monkeypatch):
    class Scaled(nn.Module):
        def forward(self, x):
            return scale * x.amax((2, 3))

    network, white = Scaled(), PICTURES.copy()
    white[0] = 255
    form = Form(precision=precision)
    for factor, fine in ((0.95, True), (-0.95, True), (1.05, False), (-1.05, False), (np.nan, False), (np.inf, False)):
        monkeypatch.setattr(
            onnx_export, "Session", Reply(network, lambda logits, d=factor * allowed: logits + np.float32(d))
        )
        if fine:
            found = onnx_export.compare(network, b"", white, form)
            assert found["parity"].values() == pytest.approx([0.95 * allowed] * 4, rel=0.01)
            assert found["tolerance"] == {"float32": 1e-4, "float16": 2e-2}[precision]
        else:
            with pytest.raises(CheckFailedError, match=rf"allowed {allowed:g}"):
                onnx_export.compare(network, b"", white, form)


def test_outputs_of_another_shape_are_refused(monkeypatch):
    network = Scores()
    monkeypatch.setattr(onnx_export, "Session", Reply(network, lambda logits: logits[:, :2]))
    with pytest.raises(CheckFailedError, match=r"at batch 1 it gives \(1, 2\) outputs"):
        onnx_export.compare(network, b"", PICTURES, Form())


def test_images_to_compare_on_are_those_given_then_digits():
    digits = data.load("digits")
    every = np.concatenate([digits.test.images, digits.train.images])
    given = np.random.default_rng(1).integers(0, 256, (500, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(comparison_images(None, (32, 32)), every[:512])
    found = comparison_images(given, (32, 32))
    assert (found.dtype, found.shape) == (np.uint8, (512, 32, 32, 3))
    np.testing.assert_array_equal(found[:500], given)
    np.testing.assert_array_equal(found[500:], every[:12])
    np.testing.assert_array_equal(comparison_images(np.concatenate([given, given]), (32, 32))[500:], given[:12])
    np.testing.assert_array_equal(comparison_images(given[:0], (32, 32)), every[:512])


def test_images_of_another_size_are_scaled_as_pillow_does():
    given = np.random.default_rng(1).integers(0, 256, (5, 40, 24, 3), np.uint8)
    found = comparison_images(given, (16, 20))
    assert (found.dtype, found.shape) == (np.uint8, (512, 16, 20, 3))
    for image, scaled in zip((*given, data.load("digits").test.images[0]), found, strict=False):
        wanted = np.asarray(Image.fromarray(image).resize((20, 16), Image.Resampling.BILINEAR))
        assert np.abs(scaled.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    "images",
    [np.zeros((9, 32, 32, 3), np.float32), np.zeros((9, 3, 32, 32), np.uint8), np.zeros((32, 32, 3), np.uint8)],
    ids=["floats", "channels first", "one image"],
)
def test_images_of_another_type_are_refused(images, tmp_path):
    with pytest.raises(UsageError, match=r"uint8 \(N, H, W, 3\), got \w+ \("):
        export(Scores(), tmp_path / "net.onnx", images=images)
    assert list(tmp_path.iterdir()) == []


def test_the_images_given_are_compared_and_labels_written(quickly, tmp_path, monkeypatch):
    seen = []
    original = onnx_export.compare

    def compare(network, payload, pixels, form):
        seen.append(pixels)
        return original(network, payload, pixels, form)

    monkeypatch.setattr(onnx_export, "compare", compare)
    given = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
    export(Scores(), tmp_path / "net.onnx", images=given, labels=["r", "g", "b"], metadata={"site": "roof"})
    np.testing.assert_array_equal(seen[0][:20], given)
    session = Session(tmp_path / "net.onnx", "cpu")
    assert session.labels == ["r", "g", "b"]
    assert session.metadata["site"] == "roof"
