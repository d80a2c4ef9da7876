"""Who competes for a reference: files of a release, graphs made in memory, ONNX files, and what the evidence says."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from rnas_zoo.deploy import contestants
from rnas_zoo.deploy.bench import bench, compare
from rnas_zoo.deploy.contestants import Settings, of_network, pictures, resolve
from rnas_zoo.errors import CheckFailedError, ImageSizeError, OnnxFileError
from rnas_zoo.files import sha256_file
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.models.weights import bundled_releases
from rnas_zoo.verification import evidence

from ..graphs import CLASSES, graph, net, uint8_nhwc

QUICK = Settings(seconds=0.01, repeats=2, compile=False)


@pytest.fixture(scope="module")
def bundled() -> tuple[str, Path]:
    """Name and folder of the bundled release with the smallest ONNX file."""
    found = {name: folder for name, folder in bundled_releases().items() if (folder / "model.onnx").is_file()}
    if not found:
        pytest.fail("the zoo bundles no release with an ONNX file")
    return min(found.items(), key=lambda item: (item[1] / "model.onnx").stat().st_size)


@pytest.fixture
def folder(bundled, tmp_path) -> Path:
    """A copy of that release without an int8 file."""
    copied = shutil.copytree(bundled[1], tmp_path / "release")
    (copied / "model.int8.onnx").unlink(missing_ok=True)
    return copied


def shifted(source: Path, target: Path, by: float) -> Path:
    """The same graph with `by` added to every logit, so that how far the two are apart is known."""
    model = onnx.load(source)
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(by, np.float32), "by"))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "by"], [output.name]))
    onnx.save(model, target)
    return target


def add_run(folder: Path, file: Path, *, break_more: int, **changes) -> dict:
    """Evidence on a file: the folder's first run with some more images broken."""
    runs, tables = evidence.read(folder)
    table = {key: values.copy() for key, values in tables[0].items()}
    broken = np.flatnonzero(evidence.standing(table))[:break_more]
    table["broken_by"] = table["broken_by"].astype("<U20")
    table["broken_by"][broken] = "square"
    robust, n = int(evidence.standing(table).sum()), runs[0]["n"]
    subject = {"kind": "int8", "file": file.name, "sha256": sha256_file(file)}
    found = {"robust_accuracy": robust / n, "interval": list(clopper_pearson(robust, n))}
    run = {**runs[0], "attacks": {}, "subject": subject, **found, **changes}
    evidence.append(folder, run, table)
    return run


def test_a_release_competes_with_its_files_and_its_evidence(folder):
    run = next(r for r in evidence.read(folder)[0] if r["subject"]["kind"] == "torch")
    like = {"norm": run["norm"], "eps": run["eps"]}
    int8 = shifted(folder / "model.onnx", folder / "model.int8.onnx", 0.25)
    own = add_run(folder, int8, break_more=3, protocol="fast", **like)
    add_run(folder, int8, break_more=9, protocol="full", **{**like, "eps": "1/255"})
    add_run(folder, folder / "config.json", break_more=12, protocol="full", **like)
    found = resolve(folder, QUICK)
    assert (found.name, found.untrained, found.failed) == ("release", False, {})
    assert [c.runtime for c in found.contestants] == ["torch", "onnxruntime", "onnxruntime int8"]
    files = [folder / name for name in ("model.safetensors", "model.onnx", "model.int8.onnx")]
    assert [c.bytes for c in found.contestants] == [len(file.read_bytes()) for file in files]
    eager, fp32, quantized = (c.accuracy for c in found.contestants)
    assert eager is not None
    assert fp32 == eager, "the same function"
    assert quantized["robust"] == own["robust_accuracy"], "the run on its own bytes, against the same threat"
    assert (quantized["threat"], quantized["protocol"]) == (eager["threat"], "fast")
    differences = compare(found, 1e-3)
    assert differences["onnxruntime"] < 1e-3
    assert differences["onnxruntime int8"] == pytest.approx(0.25, abs=1e-3)


def test_nothing_is_said_of_an_int8_file_without_evidence_of_its_own(folder):
    shifted(folder / "model.onnx", folder / "model.int8.onnx", 0.01)
    found = resolve(folder, QUICK).contestants
    assert found[1].accuracy is not None
    assert found[2].accuracy is None
    for name in ("robustness.json", "verdicts.npz"):
        (folder / name).unlink()
    assert [c.accuracy for c in resolve(folder, QUICK).contestants] == [None] * 3


def test_a_release_whose_file_is_another_function_is_refused(folder):
    shifted(folder / "model.onnx", folder / "model.onnx", 0.1)
    with pytest.raises(CheckFailedError, match=r"release: at batch 1 .*differ from torch's by 0\.1 "):
        bench([folder], QUICK, baselines=[])


def test_a_network_without_files_is_exported_in_memory():
    found = of_network("net", net(), QUICK, (8, 8), untrained=True)
    eager, session = found.contestants
    assert (eager.bytes, eager.accuracy, session.accuracy) == (None, None, None)
    assert session.bytes > 4 * found.parameters
    assert found.parameters == 6 * 27 + 6 + 6 * 4 + 4
    assert found.macs == 6 * 27 * 64 + 6 * 4
    assert compare(found, 1e-3)["onnxruntime"] < 1e-4


def test_what_cannot_be_exported_or_compiled_is_noted(monkeypatch):
    def no_compiler(*given, **options):
        raise RuntimeError("\nNo working C++ compiler found\n  in this place")

    def no_export(*given):
        raise ValueError("unsupported operator")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(contestants, "to_onnx", no_export)
    found = of_network("net", net(), Settings(), (8, 8))
    assert [c.runtime for c in found.contestants] == ["torch"]
    assert found.failed == {"torch.compile": "No working C++ compiler found", "onnxruntime": "unsupported operator"}


def test_every_network_is_compiled_for_every_batch_size(monkeypatch):
    compiled = []

    def backend(module, example):
        compiled.append(tuple(example[-1].shape) if example else ())
        return module.forward

    class Small(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(12, classes)

        def forward(self, x):
            return self.head(x.flatten(1))

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for classes in range(2, 8):  # more of one class than torch compiles by itself
        network = Small(classes)
        call = contestants._compiled(network, torch.device("cpu"), (2, 2))
        images = pictures(32, (2, 2))
        np.testing.assert_allclose(call(images), network(torch.from_numpy(images)).detach().numpy(), atol=1e-6)
    assert len(compiled) == 6 * len(contestants.BATCHES)


def test_an_onnx_file_competes_by_itself_and_gets_what_it_takes(tmp_path):
    path = uint8_nhwc(tmp_path / "model.onnx", shape=("n", "h", "w", 3))
    found = resolve(path, Settings(image_size=(8, 8)))
    (session,) = found.contestants
    images = pictures(5, (8, 8))
    given = session.prepare(images)
    assert (given.dtype, given.shape) == (np.uint8, (5, 8, 8, 3))
    np.testing.assert_array_equal(given.transpose(0, 3, 1, 2) / np.float32(255), images)
    with torch.no_grad():
        wanted = net()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.call(given), wanted, atol=1e-4)
    assert wanted.shape == (5, CLASSES)
    assert (found.name, session.runtime, session.bytes) == (
        f"{tmp_path.name}/model.onnx",
        "onnxruntime",
        path.stat().st_size,
    )
    assert found.macs == 6 * 27 * 64 + 6 * 4


def test_quantized_files_are_told_from_others(tmp_path):
    scale = np.array(0.01, np.float32)
    path = graph(tmp_path / "q.onnx", ("QuantizeLinear", {}, scale), ("DequantizeLinear", {}, scale))
    (session,) = resolve(path, QUICK).contestants
    assert (session.runtime, session.exact) == ("onnxruntime int8", False)
    model = onnx.load(graph(tmp_path / "half.onnx"))
    entry = model.metadata_props.add()
    entry.key, entry.value = "precision", "float16"
    onnx.save(model, tmp_path / "half.onnx")
    (session,) = resolve(tmp_path / "half.onnx", QUICK).contestants
    assert (session.runtime, session.exact) == ("onnxruntime fp16", False)


def test_evidence_beside_an_onnx_file_counts_if_it_is_on_its_bytes(folder):
    run = evidence.read(folder)[0][0]
    other = shifted(folder / "model.onnx", folder / "other.onnx", 0.5)
    assert resolve(other, QUICK).contestants[0].accuracy is None
    own = add_run(folder, other, break_more=2, norm=run["norm"], eps=run["eps"])
    found = resolve(other, QUICK).contestants[0].accuracy
    assert (found["robust"], found["n"]) == (own["robust_accuracy"], own["n"])


def test_a_file_of_any_size_is_measured_at_the_one_it_names(tmp_path):
    path = uint8_nhwc(tmp_path / "model.onnx", shape=("n", "h", "w", 3))
    assert resolve(path, QUICK).image_size == (32, 32)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    for text, size in (("[3, 12, 16]", (12, 16)), ("12x16", (32, 32)), ("[12, 16]", (32, 32))):
        entry.key, entry.value = "input_size", text
        onnx.save(model, path)
        assert resolve(path, QUICK).image_size == size
    assert resolve(path, Settings(image_size=(8, 8))).image_size == (8, 8)


def test_sizes_that_a_model_does_not_take_are_refused(tmp_path):
    path = graph(tmp_path / "model.onnx")
    with pytest.raises(ImageSizeError, match=r"model\.onnx takes images of 8x8 only, not 16x16"):
        resolve(path, Settings(image_size=(16, 16)))
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ImageSizeError, match="fixed does not take images of 8x8"):
        of_network("fixed", fixed, QUICK, (8, 8))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(OnnxFileError, match=r"broken\.onnx"):
        resolve(tmp_path / "broken.onnx", QUICK)
