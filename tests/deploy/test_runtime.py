"""The torch-free runtime."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rnas_zoo import data, resources
from rnas_zoo.data import sizes
from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.runtime import ImageError, Session, SessionError

from ..graphs import TO_FLOAT, UNIT, graph, net, pixels, uint8_nhwc

NAMES = ["ant", "bee", "cat", "dog"]


def described(path, **texts):
    """An ONNX file with texts in its metadata."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path


def levels(n, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def expected(images):
    """Probabilities of `net` for uint8 images (N, H, W, 3), in float64."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64) / 255)
    return net().double()(x).softmax(1).numpy()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A session of `net` with labels."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return Session(described(graph(path), labels='["ant", "bee", "cat", "dog"]'), provider="cpu", threads=1)


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


# Files


def saved(folder, images, suffix=".png", **options):
    """Image files of uint8 images, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index}{suffix}" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file, **options)
    return files


def test_files_and_folders_are_answered_as_arrays_are(small, tmp_path):
    images = levels(5)
    files = saved(tmp_path / "in", images)
    wanted = small.predict(images, k=2)
    assert [name for name, _ in wanted[0]] == [NAMES[i] for i in np.argsort(-expected(images)[0])[:2]]
    assert small.predict(files, k=2, batch_size=2) == wanted
    assert small.predict(tmp_path / "in", k=2) == wanted
    assert small.predict(str(files[3]), k=2) == wanted[3:4]
    np.save(tmp_path / "one.npy", images[2])
    np.savez(tmp_path / "all.npz", images=images, labels=np.arange(5))
    named = list(small.classify([tmp_path / "one.npy", tmp_path / "all.npz", files[0]], k=2, batch_size=3))
    assert [name for name, _ in named] == [
        str(tmp_path / "one.npy"), *(f"{tmp_path / 'all.npz'}[{i}]" for i in range(5)), str(files[0])
    ]  # fmt: skip
    for (_, top), row in zip(named, [2, 0, 1, 2, 3, 4, 0], strict=True):
        assert [name for name, _ in top] == [name for name, _ in wanted[row]]
        assert top[0][1] == pytest.approx(wanted[row][0][1], rel=1e-5)


def test_folders_are_searched_at_any_depth_in_order_of_their_paths(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a.webp", "b/c/0.npy", ".hidden/x.png", "b/.x.png", "b/notes.txt", "e/f.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in runtime.image_files([tmp_path])]
    assert found == ["a.webp", "b/10.JPG", "b/2.png", "b/c/0.npy"]
    assert runtime.image_files([tmp_path / "b" / "notes.txt", tmp_path / "e" / ".."])[0].name == "notes.txt"
    with pytest.raises(ImageError, match=r"e: no images in it \(\.png"):
        runtime.image_files([tmp_path / "e"])
    with pytest.raises(ImageError, match=r"x\.png: no such file"):
        runtime.image_files([tmp_path / "a.webp", tmp_path / "x.png"])


@given(size=st.tuples(st.integers(8, 70), st.integers(8, 70)), wanted=st.tuples(st.integers(8, 50), st.integers(8, 50)))
def test_photos_are_fitted_as_training_images_are(size, wanted):
    image = Image.fromarray(levels(1, *size)[0])
    pads = [False, True] if all(have <= want for have, want in zip(size, wanted, strict=True)) else [False]
    for pad in pads:
        theirs = np.asarray(sizes.fit(image, wanted, pad=pad))
        np.testing.assert_array_equal(np.asarray(runtime._fit(image, wanted, pad)), theirs)


@pytest.mark.parametrize("shapes", [[(28, 30)], [(28, 30), (29, 30)], [(50, 31), (16, 40), (32, 32)], [(32, 32)]])
def test_a_folder_of_photos_has_the_pixels_of_the_data_set(tmp_path, shapes):
    modes = ["RGB", "L", "P", "RGBA", "LA", "1"]
    for split in ("train", "test"):
        for name in ("x", "y"):
            for index, mode in enumerate(modes):
                image = Image.fromarray(levels(1, *shapes[index % len(shapes)], seed=index)[0]).convert(mode)
                if mode == "P":
                    image.info["transparency"] = 3
                file = tmp_path / split / name / f"{index}.{'jpg' if mode == 'RGB' else 'png'}"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)
    theirs = data.load(tmp_path, image_size=32)
    ours = list(runtime._read(runtime.image_files([tmp_path]), (32, 32)))
    assert [os.path.relpath(name, tmp_path).split(os.sep)[0] for name, _ in ours] == ["test"] * 12 + ["train"] * 12
    wanted = np.concatenate([theirs.test.images, theirs.train.images])
    np.testing.assert_array_equal(np.stack([image for _, image in ours]), wanted)


def test_a_model_of_any_size_gets_photos_as_they_are(tmp_path):
    session = Session(uint8_nhwc(tmp_path / "any.onnx", shape=("n", "h", "w", 3)), provider="cpu")
    assert session.image_size is None
    images = [levels(1, *size)[0] for size in ((9, 14), (9, 14), (20, 8), (9, 14))]
    files = saved(tmp_path / "in", images)
    for image, top in zip(images, session.predict(files), strict=True):
        wanted = expected(image[None])[0]
        assert top[0][0] == str(wanted.argmax())
        assert top[0][1] == pytest.approx(wanted.max(), rel=1e-4)


def test_files_that_are_no_images_are_named(small, tmp_path):
    np.save(tmp_path / "float.npy", np.zeros((8, 8, 3), np.float32))
    np.save(tmp_path / "wide.npy", levels(2, 8, 9))
    np.savez(tmp_path / "other.npz", pictures=levels(2))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.npy").touch()
    saved(tmp_path / "whole", levels(1, 40, 40))
    content = (tmp_path / "whole" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    for name, words in {
        "float.npy": r"expected uint8 .*got float32 \(8, 8, 3\)",
        "wide.npy": "has 8x9 pixels, the model takes 8x8; arrays are not resized",
        "other.npz": "not a readable array of images .*images",
        "pickle.npy": "not a readable array of images",
        "empty.npy": "not a readable array of images",
        "text.png": "not a readable image",
        "cut.png": "not a readable image",
        "deep.png": r"not a readable image \(more than 8 bits per channel",
    }.items():
        with pytest.raises(ImageError, match=f"{name}: {words}"):
            small.predict(tmp_path / name)


def test_without_pillow_arrays_are_read_and_photos_say_what_is_missing(small, tmp_path, monkeypatch):
    (photo,) = saved(tmp_path, levels(1))
    np.save(tmp_path / "x.npy", levels(1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert small.predict(tmp_path / "x.npy") == small.predict(levels(1))
    with pytest.raises(ImageError, match=r"0\.png: needs Pillow to be read \(pip install pillow\)"):
        small.predict(photo)


# As a program


def write_pack(path, change=0, twins=True):
    """A pack of `net`'s own answers; for the first `change` clean images and the same twins, wrong ones."""
    clean, adversarial = levels(8), levels(8, seed=1)
    logits = [np.log(expected(images)).astype(np.float32) for images in (clean, adversarial)]
    for answers in logits:
        answers[:change] = -answers[:change]
    more = {"adversarial_logits": logits[1]} if twins else {}
    np.savez(path, images=clean, adversarial=adversarial, labels=np.arange(8) % 4, logits=logits[0], **more)
    return path


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize(("change", "code"), [(0, 0), (1, 0), (2, 1)])
def test_a_check_fails_if_more_than_one_image_has_another_class(tmp_path, capsys, change, code, twins):
    path = described(graph(tmp_path / "p.onnx", after=("Softmax",)), output="probabilities")
    pack = write_pack(tmp_path / "check.npz", change, twins)
    assert runtime.main([str(path), "--check", str(pack), "--provider", "cpu"]) == code
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"another class than expected on {change} of 8 images, allowed is 1"
    assert out[1].endswith(", more than rounding" if change else ", rounding")
    assert out[2] == f"{path} on CPUExecutionProvider"


def test_a_check_compares_logits_with_logits(tmp_path):
    session = Session(graph(tmp_path / "m.onnx"), provider="cpu")
    images, twins = levels(8), levels(8, seed=1)
    answers = {"logits": session.answers(images), "adversarial_logits": session.answers(twins)}
    np.savez(tmp_path / "check.npz", images=images, adversarial=twins, labels=np.zeros(8, int), **answers)
    assert runtime.check(session, tmp_path / "check.npz") == (8, 0, 0.0, True)
    answers["adversarial_logits"][3, 1] += 0.5
    np.savez(tmp_path / "check.npz", images=images, adversarial=twins, labels=np.zeros(8, int), **answers)
    _, _, largest, rounding = runtime.check(session, tmp_path / "check.npz")
    assert largest == pytest.approx(0.5, rel=1e-5)
    assert not rounding


def test_the_program_predicts_and_refuses_in_one_line(tmp_path, capsys):
    path = described(graph(tmp_path / "m.onnx"), labels='["ant", "bee", "cat", "dog"]')
    np.save(tmp_path / "x.npy", levels(2))
    assert runtime.main([str(path), str(tmp_path / "x.npy"), "--top-k", "2"]) == 0
    first, _, last = capsys.readouterr().out.splitlines()
    wanted = expected(levels(2))[0]
    shown = ", ".join(f"{NAMES[i]} {100 * wanted[i]:.1f} %" for i in np.argsort(-wanted)[:2])
    assert first == f"{tmp_path / 'x.npy'}[0]: {shown}"
    assert last == f"{path} on CPUExecutionProvider"
    for arguments in ([str(path), "no.png"], ["no.onnx", "x.npy"], [str(path), "--check", "no.npz"]):
        assert runtime.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: no.")
        assert err.count("\n") == 1
    for arguments in ([str(path)], [str(path), "x.npy", "--check", "no.npz"]):
        with pytest.raises(SystemExit):
            runtime.main(arguments)
        assert "give either images or --check PACK" in capsys.readouterr().err
