"""Which images a verification is asked for: their size, their positions, and adversarial ones out of files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnas_zoo import data
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.verification import evidence
from rnas_zoo.verification.request import Request
from rnas_zoo.verification.run import verify

from . import requested
from .requested import make, runs_of

robustbench = requested.robustbench  # fixture


# --- images of another size -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resized(release, tmp_path_factory) -> Path:
    """The release with evidence on 12 digits at 16x16 in place of its own."""
    folder = Path(shutil.copytree(release, tmp_path_factory.mktemp("resized") / "resized"))
    for name in ("robustness.json", "verdicts.npz"):
        (folder / name).unlink()
    report = verify(folder, data_name="digits", image_size=16, n=12, protocol="quick", device="cpu")
    assert report.run["dataset"]["name"] == "digits@16"
    evidence.append(folder, report.run, report.verdicts)
    return folder


def test_without_a_size_images_stay_as_they_are(release):
    assert make(data="digits").image_size is None
    assert make(release, against_card=True).image_size is None
    assert make(data="digits", image_size=(16, 20)).image_size == (16, 20)


def test_the_size_of_a_claim_is_taken_from_its_evidence(resized):
    for options in ({}, {"data": "digits"}, {"data": "digits", "image_size": (16, 16)}, {"data": "my/copy.npz"}):
        for source in ({"against_card": True}, {"against": resized / "robustness.json"}):
            request = make(resized, **source, **options)
            assert (request.data, request.image_size) == (options.get("data", "digits"), (16, 16))
            assert request.indices.tolist() == list(range(12))
    request = make(resized, against_card=True)
    report = request.verify(device="cpu")
    assert request.outcome(report).verdict == "reproduced"
    assert request.declared == runs_of(resized)[0]["clean_accuracy"]
    assert make(resized, data="digits").declared is None, "stated of smaller images"


def test_a_curve_is_about_images_of_the_size_asked_for(release, monkeypatch):
    seen = []
    monkeypatch.setattr("rnas_zoo.verification.request.curve", lambda chosen, images, *_, **__: seen.append(images))
    request = make(release, data="digits", image_size=(16, 24), eps="1/255,2/255", n=3, protocol="quick")
    assert request.curve(device="cpu")[0] == 3
    np.testing.assert_array_equal(seen[0].images, data.load("digits", (16, 24)).test.images[:3])


def test_another_size_than_the_claims_is_refused_at_once(release, resized, robustbench):
    with pytest.raises(UsageError, match="images brought to 16: leave --image-size out, or give 16"):
        make(resized, against_card=True, image_size=(16, 20))
    with pytest.raises(UsageError, match="the claim is about digits as it is: leave --image-size out"):
        make(release, against_card=True, image_size=(16, 16))
    with pytest.raises(UsageError, match="the claim is about cifar10 as it is: leave --image-size out"):
        make(against=robustbench, image_size=(64, 64))
    assert make(release, against_card=True, data="my/copy.npz", image_size=(32, 32)).image_size == (32, 32)


def test_of_runs_at_several_sizes_the_one_asked_about_is_the_claim(release, resized, tmp_path):
    folder = Path(shutil.copytree(release, tmp_path / "both"))
    evidence.append(folder, *(part[0] for part in evidence.read(resized)))
    for options, size, n in (
        ({}, None, 40),
        ({"data": "digits"}, None, 40),
        ({"image_size": (16, 16), "eps": "8/255"}, (16, 16), 12),
        ({"data": "digits", "image_size": (16, 16), "eps": "8/255"}, (16, 16), 12),
    ):
        request = make(folder, against_card=True, **options)
        assert (request.image_size, request.claimed[0]["n"]) == (size, n)


def test_data_sets_that_are_files_or_folders_have_to_be_given(release, tmp_path):
    folder = Path(shutil.copytree(release, tmp_path / "copy"))
    path = folder / "robustness.json"
    plain = json.loads(path.read_text())
    for kind, source in (("npz", r"digits\.npz"), ("folder", r"\./digits")):
        for run in plain["runs"]:
            run["dataset"]["kind"] = kind
        path.write_text(json.dumps(plain))
        with pytest.raises(UsageError, match=rf"FILE\.npz or FOLDER \(the claim is about {source}\)"):
            make(folder, against_card=True)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["3 1 8", "3,1,8", "3\n1\n8\n", " 3, 1,\n8 "])
def test_positions_from_a_text_file(tmp_path, text):
    (tmp_path / "rows.txt").write_text(text)
    request = make(data="digits", indices=tmp_path / "rows.txt")
    assert request.indices.tolist() == [3, 1, 8]
    assert request.n == 3
    assert make(data="digits", indices=tmp_path / "rows.txt", n=2).n == 2


def test_positions_from_an_array_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([5, 2], np.int32))
    assert make(data="digits", indices=tmp_path / "rows.npy").indices.tolist() == [5, 2]


BAD_TEXTS = {"word": b"3 a", "half": b"1.5", "huge": b"9" * 40, "binary": bytes(range(200, 256))}


@pytest.mark.parametrize("content", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_text_that_is_no_list_of_positions_is_refused(tmp_path, content):
    (tmp_path / "rows.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.txt: no readable list of positions"):
        make(data="digits", indices=tmp_path / "rows.txt")


BAD_ARRAYS = {"scalar": np.array(3), "square": np.zeros((2, 2), int), "objects": np.array([None])}


@pytest.mark.parametrize("array", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_are_no_list_of_positions_are_refused(tmp_path, array):
    np.save(tmp_path / "rows.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"rows\.npy: no readable list of positions"):
        make(data="digits", indices=tmp_path / "rows.npy")


def test_missing_damaged_and_disguised_files_of_positions_are_refused(tmp_path):
    np.savez(tmp_path / "archive", a=np.arange(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name in ("archive.npy", "cut.npy", "none.npy", "none.txt"):
        with pytest.raises(DataError, match=f"{name}: no readable list of positions"):
            make(data="digits", indices=tmp_path / name)


@pytest.mark.parametrize(
    ("text", "says"), [("", "at least one"), ("0 0", "twice"), ("0 99999", "there are"), ("-1", "from -1")]
)
def test_positions_that_name_no_images_are_refused(release, tmp_path, text, says):
    (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(UsageError, match=says):
        make(release, data="digits", indices=tmp_path / "rows.txt").verify(device="cpu")


def images(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)[:, None, None, None] / 100 + np.zeros((1, 3, 2, 2), np.float32)


def named(request: Request) -> list[int]:
    """Which of `images` a request holds."""
    return np.rint(request.adversarial[:, 0, 0, 0] * 100).astype(int).tolist()


def test_adversarial_images_come_with_their_positions(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_adv=images(4), position=np.array([12, 10, 30, 11]))
    request = make(data="digits", adversarial=path)
    assert (request.indices.tolist(), request.n, named(request)) == ([12, 10, 30, 11], 4, [0, 1, 2, 3])
    fewer = make(data="digits", adversarial=path, n=3)
    assert (fewer.indices[: fewer.n].tolist(), fewer.n, named(fewer)) == ([12, 10, 30], 3, [0, 1, 2])
    (tmp_path / "rows.txt").write_text("11 12")
    chosen = make(data="digits", adversarial=path, indices=tmp_path / "rows.txt")
    assert (chosen.indices.tolist(), chosen.n, named(chosen)) == ([11, 12], 2, [3, 0])
    (tmp_path / "rows.txt").write_text("11 13")
    with pytest.raises(UsageError, match=r"a\.npz has no image for position 13"):
        make(data="digits", adversarial=path, indices=tmp_path / "rows.txt")


def test_adversarial_images_without_positions_are_the_first_ones(tmp_path):
    path, rows = tmp_path / "a.npz", tmp_path / "rows.txt"
    np.savez(path, x_adv=images(4))
    request = make(data="digits", adversarial=path)
    assert (request.indices, request.n, named(request)) == (None, 4, [0, 1, 2, 3])
    assert named(make(data="digits", adversarial=path, n=2)) == [0, 1]
    with pytest.raises(UsageError, match="holds 4 images, 9 were asked for"):
        make(data="digits", adversarial=path, n=9)
    rows.write_text("9 8 7 6")
    assert named(make(data="digits", adversarial=path, indices=rows)) == [0, 1, 2, 3], "one image per position"
    rows.write_text("3 1")
    assert named(make(data="digits", adversarial=path, indices=rows)) == [3, 1], "or images of the whole set"


def test_files_of_adversarial_images_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=images(2))
    np.savez(tmp_path / "odd.npz", x_adv=images(2), position=np.arange(3))
    np.savez(tmp_path / "objects.npz", x_adv=np.array([None]))
    np.savez(tmp_path / "good.npz", x_adv=images(2))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:60])
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", images(2))
    with pytest.raises(DataError, match=r"other\.npz has no array x_adv; it holds x"):
        make(data="digits", adversarial=tmp_path / "other.npz")
    for name in ("odd.npz", "objects.npz", "cut.npz", "text.npz", "none.npz", "array.npy"):
        with pytest.raises(DataError, match=f"{name}: not a readable"):
            make(data="digits", adversarial=tmp_path / name)
