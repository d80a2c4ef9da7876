"""The torch-free runtime."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.runtime import Session, SessionError

from ..graphs import TO_FLOAT, UNIT, graph, net, pixels, uint8_nhwc


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


def test_a_model_of_8_bit_pixels_gets_them_as_they_are(tmp_path):
    images = np.rint(pixels(5).numpy() * 255).astype(np.uint8)
    wanted = net()(pixels(5)).numpy()
    for name, channels_last in (("last", True), ("first", False)):
        if channels_last:
            path = uint8_nhwc(tmp_path / f"{name}.onnx")
        else:
            path = graph(tmp_path / f"{name}.onnx", TO_FLOAT, UNIT, kind=onnx.TensorProto.UINT8)
        session = Session(path, provider="cpu", threads=1)
        assert session.input_type is np.uint8
        given = images.transpose(0, 2, 3, 1) if channels_last else images
        np.testing.assert_allclose(session.logits(given, batch_size=2), wanted, atol=1e-5)
        top = session.predict(images.transpose(0, 2, 3, 1))
        assert [row[0][0] for row in top] == [str(i) for i in wanted.argmax(1)]
        with pytest.raises(SessionError, match="takes uint8 pixels from 0 to 255, got float32"):
            session.logits(given.astype(np.float32))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_fixed_batch_size_is_filled_up(tmp_path, size):
    session = Session(graph(tmp_path / "fixed.onnx", shape=(size, 3, 8, 8)), provider="cpu", threads=1)
    for count in (1, 3, 4):
        np.testing.assert_allclose(session.logits(pixels(count).numpy()), net()(pixels(count)).numpy(), atol=1e-5)


def test_a_model_of_other_numbers_is_refused(tmp_path):
    path = graph(tmp_path / "int64.onnx", TO_FLOAT, kind=onnx.TensorProto.INT64)
    with pytest.raises(SessionError, match=r"images as float or uint8, found tensor\(int64\)"):
        Session(path, provider="cpu")
