"""The torch-free runtime."""

import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.runtime import Session, SessionError


@pytest.fixture(scope="module")
def session(release):
    return Session(release / "model.onnx", provider="cpu")


def test_predictions_are_softmax_of_logits_with_labels(session):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    logits = session.logits(images.transpose(0, 3, 1, 2) / np.float32(255))
    shares = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    for row, top in zip(shares, session.predict(images, k=3), strict=True):
        assert [name for name, _ in top] == [str(i) for i in np.argsort(-row)[:3]]
        np.testing.assert_allclose([share for _, share in top], np.sort(row)[::-1][:3], rtol=1e-4)


def test_batching_does_not_change_logits(session):
    images = np.random.default_rng(1).random((9, 3, 32, 32), dtype=np.float32)
    np.testing.assert_allclose(session.logits(images, batch_size=4), session.logits(images), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32), (3, 32, 32)])
def test_wrong_shapes_name_both_sides(session, shape):
    with pytest.raises(SessionError, match=r"32.*got"):
        session.logits(np.zeros(shape, np.float32))


@pytest.mark.parametrize("content", [b"", b"not an onnx file", b"\x08\x07" * 50], ids=["empty", "text", "bytes"])
def test_files_that_are_no_model_are_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(SessionError, match="not a usable ONNX model"):
        Session(tmp_path / "x.onnx", provider="cpu")


def test_missing_file_and_unknown_provider(release):
    with pytest.raises(SessionError, match="no such file"):
        Session("missing.onnx")
    with pytest.raises(SessionError, match="known are auto, cpu, cuda"):
        Session(release / "model.onnx", provider="tpu")


def test_a_provider_asked_for_by_name_is_never_replaced(release, monkeypatch):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or runtime._cuda_driver():
        pytest.skip("needs onnxruntime-gpu on a machine without a CUDA driver")
    with pytest.raises(SessionError, match="CUDAExecutionProvider was asked for, but onnxruntime took CPU"):
        Session(release / "model.onnx", provider="cuda")
    assert Session(release / "model.onnx", provider="auto").provider == "CPUExecutionProvider"


def test_an_empty_onnxruntime_is_explained(release, monkeypatch):
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(SessionError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        Session(release / "model.onnx")


def test_the_file_alone_runs_without_torch_and_without_this_package(release, tmp_path):
    shutil.copy(runtime.__file__, tmp_path / "runtime.py")
    shutil.copy(release / "model.onnx", tmp_path)
    code = (
        "import sys, numpy\n"
        "from runtime import Session\n"
        "s = Session('model.onnx', provider='cpu')\n"
        "print(s.predict(numpy.zeros((1, 32, 32, 3), numpy.uint8))[0][0][0] in s.labels)\n"
        "assert not {'torch', 'timm', 'rnas_zoo'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
