"""The torch-free runtime: what a session takes, what it asks of onnxruntime, and what it answers."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from rnas_zoo import resources
from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.runtime import ImageError, Session, SessionError

from ..graphs import TO_FLOAT, UNIT, graph, net, pixels, uint8_nhwc
from . import labelled
from .labelled import described, expected, levels

small = labelled.small  # fixture


@pytest.fixture(scope="module")
def release():
    return resources.folder("model_cards") / "rnas_wrn10_1.pgd_digits_linf16"


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


def test_a_provider_asked_for_by_name_is_never_replaced(release):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or runtime._cuda_driver():
        pytest.skip("needs onnxruntime-gpu on a machine without a CUDA driver")
    with pytest.raises(SessionError, match="CUDAExecutionProvider was asked for, but onnxruntime took CPU"):
        Session(release / "model.onnx", provider="cuda")
    assert Session(release / "model.onnx", provider="auto").provider == "CPUExecutionProvider"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sessions as onnxruntime would give them on another machine; returns what was asked of it."""
    path = graph(tmp_path / "m.onnx")
    real = onnxruntime.InferenceSession

    def become(*, built=("tensorrt", "cuda", "cpu"), driver=True, works=(), owners=("onnxruntime-gpu",)):
        asked = SimpleNamespace(path=path, providers=None, fallback=True)

        def session(source, options, providers):
            asked.providers = [next(k for k, v in runtime.PROVIDERS.items() if v == name) for name in providers]
            usable = [runtime.PROVIDERS[name] for name in asked.providers if name in (*works, "cpu")]
            made = real(source, options, providers=["CPUExecutionProvider"])
            made.get_providers = lambda: usable
            made.disable_fallback = lambda: setattr(asked, "fallback", False)
            return made

        def preload():
            if not works:
                print(
                    "Failed to load libcurand.so.10: libcurand.so.10: cannot open shared object file\nPlease follow ..."
                )

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.PROVIDERS[name] for name in built])
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
        monkeypatch.setattr(runtime, "_cuda_driver", lambda: driver)
        monkeypatch.setattr(runtime.metadata, "packages_distributions", lambda: {"onnxruntime": list(owners)})
        return asked

    return become


@pytest.mark.parametrize(
    ("provider", "works", "chain", "taken"),
    [
        ("auto", ("cuda",), ["cuda", "cpu"], "cuda"),
        ("cuda", ("cuda",), ["cuda", "cpu"], "cuda"),
        ("tensorrt", ("tensorrt", "cuda"), ["tensorrt", "cuda", "cpu"], "tensorrt"),
        ("cpu", ("cuda",), ["cpu"], "cpu"),
        ("auto", (), ["cuda", "cpu"], "cpu"),
    ],
)
def test_the_session_says_what_it_took_and_keeps_to_it(machine, provider, works, chain, taken, capfd):
    asked = machine(works=works)
    assert Session(asked.path, provider).provider == runtime.PROVIDERS[taken]
    assert asked.providers == chain
    assert not asked.fallback, "a failing run must not move to the CPU"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("where", [{"driver": False}, {"built": ("cpu",)}])
def test_auto_takes_the_cpu_where_there_is_no_cuda(machine, where):
    asked = machine(works=("cuda",), **where)
    assert Session(asked.path, "auto").provider == "CPUExecutionProvider"
    assert asked.providers == ["cpu"]


@pytest.mark.parametrize(
    ("where", "provider", "words"),
    [
        ({"driver": False}, "cuda", ["onnxruntime took CPUExecutionProvider, since there is no NVIDIA driver"]),
        ({}, "cuda", ["libraries of CUDA (libcurand.so.10) are missing", 'pip install "onnxruntime-gpu[cuda,cudnn]"']),
        ({"works": ("cuda",)}, "tensorrt", ["onnxruntime took CPU", "libraries of CUDA or TensorRT are missing"]),
        (
            {"built": ("cpu",), "owners": ("onnxruntime",)},
            "cuda",
            ["onnxruntime was built without it", "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"],
        ),
        (
            {"built": ("cpu",), "owners": ("onnxruntime", "onnxruntime-gpu", "onnxruntime")},
            "tensorrt",
            ["onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"],
        ),
    ],
    ids=["driver", "libraries", "tensorrt", "build", "two"],
)
def test_a_refusal_names_cause_and_fix(machine, where, provider, words, capfd):
    asked = machine(**where)
    with pytest.raises(SessionError) as refusal:
        Session(asked.path, provider)
    text = str(refusal.value)
    assert text.startswith(f"{runtime.PROVIDERS[provider]} was asked for, but ")
    assert text.endswith("; or ask for cpu")
    for word in words:
        assert word in text
    assert "\n" not in text
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "environment", "used"), [(3, "2", 3), (0, "2", 2), (0, "4,2", 0), (0, "", 0)], ids=str
)
def test_threads_are_those_asked_for_else_those_of_the_environment(tmp_path, monkeypatch, asked, environment, used):
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    given = []
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, **rest: (given.append(options), start(source, options, **rest))[1],
    )
    Session(graph(tmp_path / "model.onnx"), provider="cpu", threads=asked)
    assert [options.intra_op_num_threads for options in given] == [used]


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


def test_images_that_are_no_batch_are_refused(tmp_path):
    path = graph(tmp_path / "flat.onnx", ("Unsqueeze", {}, np.array([0])), shape=(3, 8, 8))
    with pytest.raises(SessionError, match=r"expected images \(N, 3, H, W\), found a model that takes \[3, 8, 8\]"):
        Session(path, provider="cpu")


def test_whole_numbers_are_no_pixels_in_0_to_1(small):
    with pytest.raises(ImageError, match=r"takes floats in \[0, 1\], got uint8"):
        small.logits(levels(2).transpose(0, 3, 1, 2))
    for wrong in (levels(2).astype(np.float32), levels(2)[0], levels(2)[..., :1]):
        with pytest.raises(ImageError, match=r"expected uint8 images \(N, H, W, 3\)"):
            small.predict(wrong)
    assert small.predict(levels(0)) == small.predict([]) == []


def test_a_model_that_fails_while_it_runs_is_an_error_in_one_line(tmp_path):
    path = uint8_nhwc(tmp_path / "any.onnx", shape=("n", "h", "w", 3))
    with pytest.raises(SessionError, match=r"fails on images \(1, 0, 8, 3\): ") as error:
        Session(path, provider="cpu").predict(levels(1, 0))
    assert "\n" not in str(error.value)


def test_probabilities_are_not_softened_twice(tmp_path, small):
    path = described(graph(tmp_path / "p.onnx", after=("Softmax",)), output="probabilities")
    session, images = Session(path, provider="cpu"), levels(6)
    assert session.gives_probabilities
    assert not small.gives_probabilities
    for top, wanted in zip(session.predict(images, k=4), expected(images), strict=True):
        assert [int(name) for name, _ in top] == np.argsort(-wanted).tolist()
        np.testing.assert_allclose([share for _, share in top], np.sort(wanted)[::-1], rtol=1e-4)
    for ours, theirs in zip(session.predict(images), small.predict(images), strict=True):
        assert ours[0][1] == pytest.approx(theirs[0][1], rel=1e-5)
