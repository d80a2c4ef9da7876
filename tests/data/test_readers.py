"""Data sets in their official order, and damaged ones refused."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from rnas_zoo import data
from rnas_zoo.data import Dataset
from rnas_zoo.errors import DataError, UnknownNameError

# --- digits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def test_digits_are_scikit_learns_in_order_and_scaled_linearly(digits):
    from sklearn.datasets import load_digits

    raw = load_digits()
    # Linear interpolation between pixel centres, rows then columns, each rounded half up to 8 bits.
    weights = np.zeros((32, 8))
    for i in range(32):
        centre = min(max((i + 0.5) / 4 - 0.5, 0.0), 7.0)
        low = min(int(centre), 6)
        weights[i, low], weights[i, low + 1] = 1 - (centre - low), centre - low
    grey = np.floor(raw.images * 255 / 16 + 0.5)
    scaled = np.floor(weights @ np.floor(grey @ weights.T + 0.5) + 0.5).astype(np.uint8)
    images = np.concatenate([digits.train.images, digits.test.images])
    assert images.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], scaled)
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, raw.target)


def test_digits_split_and_classes(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.shape == (1437, 32, 32, 3)
    assert digits.image_size == (32, 32)
    assert digits.classes == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.augmentation == "crop", "a mirrored digit is another digit, or none"


def test_digits_are_those_evidence_was_recorded_on(digits):
    hashes = [
        data.images_hash([data.pixel_hash(image) for image in part.images]) for part in (digits.train, digits.test)
    ]
    assert hashes == [
        "b2166636ab4f531cc10a56ed34d04bdf960f5091370769bd48164648aeb98b1c",
        "bcab4048b20f09911d468ea752af1d7e12c84779f90e5c9d5519a4c9734573f8",
    ]


# --- .npz -------------------------------------------------------------------------------------------------------------


def test_npz_is_read_as_it_was_written(npz_file):
    path = npz_file(classes=3, y_test=(np.arange(24) % 3).astype(np.uint8))
    found = data.load(path)
    with np.load(path) as file:
        for part in (found.train, found.test):
            name = "train" if part is found.train else "test"
            np.testing.assert_array_equal(part.images, file[f"x_{name}"])
            np.testing.assert_array_equal(part.labels, file[f"y_{name}"])
            assert part.labels.dtype == np.int64
    assert (found.name, found.classes, found.image_size) == ("blobs", ("0", "1", "2"), (16, 16))


def test_npz_may_name_its_classes(npz_file):
    path = npz_file(class_names=["cat", "dog", "eel", "fox"])
    assert data.load(path).classes == ("cat", "dog", "eel", "fox")
    assert data.load(path).num_classes == 4


@pytest.mark.parametrize("shape", [(-1, 16, 16), (-1, 16, 16, 1)])
def test_grey_npz_is_repeated_to_three_channels(shape, npz_file):
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (n, 16, 16), dtype=np.uint8) for n in (60, 24))
    found = data.load(npz_file(x_train=train.reshape(shape), x_test=test.reshape(shape)))
    for part, grey in ((found.train, train), (found.test, test)):
        assert part.images.shape == (*grey.shape, 3)
        for channel in range(3):
            np.testing.assert_array_equal(part.images[..., channel], grey)


MALFORMED = {
    "missing array": ({"y_test": None}, "y_test"),
    "float images": ({"x_train": np.zeros((60, 16, 16, 3), np.float32)}, "x_train must be uint8"),
    "channels first": ({"x_train": np.zeros((60, 3, 16, 16), np.uint8)}, "x_train must be uint8"),
    "grey images": ({"x_test": np.zeros((24, 16, 16), np.uint8)}, "x_test must be uint8"),
    "too few labels": ({"y_train": np.zeros(59, np.int64)}, "y_train must hold one integer per image"),
    "one-hot labels": ({"y_train": np.zeros((60, 3), np.int64)}, "y_train must hold one integer per image"),
    "float labels": ({"y_test": np.zeros(24)}, "y_test must hold one integer per image"),
    "no images": ({"x_test": np.zeros((0, 16, 16, 3), np.uint8), "y_test": np.zeros(0, np.int64)}, "y_test"),
    "negative label": ({"y_train": np.arange(60) - 1}, "labels must lie between 0 and"),
    "label beyond the names": ({"class_names": ["a", "b"]}, "labels must lie between 0 and 1"),
    "sizes differ": ({"x_test": np.zeros((24, 8, 8, 3), np.uint8)}, "differ in size"),
    "pickled objects": ({"y_train": np.array([{}] * 60, dtype=object)}, "not a readable .npz"),
    "classes without length": ({"class_names": 3}, "not a readable .npz"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_npz_names_file_and_cause(case, npz_file):
    changes, cause = MALFORMED[case]
    path = npz_file(**changes)
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(path) in str(error.value)
    assert cause in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_npz_is_refused(kept, packed, npz_file, tmp_path):
    whole = npz_file()
    if packed:
        with np.load(whole) as file:
            np.savez_compressed(whole, **file)
    content = whole.read_bytes()
    path = tmp_path / "cut.npz"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"cut\.npz"):
        data.load(path)


@pytest.mark.parametrize("damage", [bytes(64), bytes([255] * 64)], ids=["wrong sum", "wrong code"])
@pytest.mark.parametrize("offset", [0, 500])
def test_npz_with_a_damaged_member_is_refused(npz_file, tmp_path, damage, offset):
    whole = npz_file()
    with np.load(whole) as file:
        np.savez_compressed(whole, **file)
    with zipfile.ZipFile(whole) as archive:
        at = archive.getinfo("x_train.npy").header_offset
    content = bytearray(whole.read_bytes())
    name, extra = (int.from_bytes(content[at + field : at + field + 2], "little") for field in (26, 28))
    begin = at + 30 + name + extra + offset
    content[begin : begin + 64] = damage
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.npz"):
        data.load(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps({"x_train": 1})])
def test_file_that_is_no_npz_is_refused(content, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.npz"):
        data.load(path)


def test_single_array_under_the_name_of_an_npz_is_refused(tmp_path):
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"array\.npz"):
        data.load(tmp_path / "array.npz")


def test_missing_npz_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        data.load(tmp_path / "none.npz")


@pytest.mark.parametrize(("name", "near"), [("digit", "digits"), ("cifar-10", "cifar10")])
def test_unknown_data_set_suggests_the_nearest(name, near):
    with pytest.raises(UnknownNameError, match=f"Did you mean {near}"):
        data.load(name)


def test_path_that_does_not_exist_says_what_may_be_given(tmp_path):
    with pytest.raises(
        UnknownNameError, match=r"Known: cifar10, cifar100, digits, svhn, tiny-imagenet, or a FILE\.npz, or a FOLDER"
    ):
        data.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("given", "name"),
    [("svhn", "svhn"), ("some/flowers.v2.npz", "flowers.v2"), ("some/flowers.v2", "flowers.v2"), ("./svhn/", "svhn")],
)
def test_base_name_needs_no_files(given, name):
    assert data.base_name(given) == name


def test_base_name_is_what_files_and_folders_are_called(npz_file, tmp_path, monkeypatch):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "pets.v2" / split / label
            folder.mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), len(split), np.uint8)).save(folder / "0.png")
    monkeypatch.chdir(tmp_path / "pets.v2")
    for source in (npz_file(), tmp_path / "pets.v2", "."):
        assert data.load(source).name == data.base_name(source)
        assert data.load(source, 24).name == f"{data.base_name(source)}@24"


def test_a_named_data_set_may_be_one_file_below_the_data_root(npz_file, monkeypatch, tmp_path):
    packed = npz_file(size=16)
    for name in ("cifar10", "svhn"):
        (tmp_path / f"{name}.npz").write_bytes(packed.read_bytes())
    monkeypatch.setenv("RNAS_ZOO_DATA", str(tmp_path))
    found, same = data.load("cifar10"), data.load(packed)
    assert found.name == "cifar10"
    np.testing.assert_array_equal(found.train.images, same.train.images)
    assert (found.augmentation, data.load("svhn").augmentation) == ("crop_flip", "crop")
    assert data.load("cifar10", 20).name == "cifar10@20"
