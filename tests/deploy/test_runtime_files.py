"""The runtime's answers about images in files and folders, from Python and as a program."""

import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rnas_zoo import data
from rnas_zoo.data import sizes
from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.runtime import ImageError, Session

from ..graphs import graph, uint8_nhwc
from . import labelled
from .labelled import described, expected, levels

small = labelled.small  # fixture

NAMES = ["ant", "bee", "cat", "dog"]


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
