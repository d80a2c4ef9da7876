"""Data sets in their official order, images by their hash, and batches that depend on (seed, step) alone."""

from __future__ import annotations

import hashlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import data
from rnas_zoo.data import Batches, Dataset, ImageSet
from rnas_zoo.errors import DataError, UnknownNameError, UsageError


def numbered(n: int, size: int = 8, seed: int = 0) -> ImageSet:
    """Noise images, labelled by their position."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(n))


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


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """Five training files of four images and a test file of three, as the official archive lays them out."""
    from torchvision.datasets import CIFAR10

    root = tmp_path / "sets"
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows, sums = {}, {}
    for name, n in [(f"data_batch_{i}", 4) for i in range(1, 6)] + [("test_batch", 3)]:
        rows[name] = generator.integers(0, 256, (n, 3072), dtype=np.uint8), generator.integers(0, 10, n).tolist()
        content = pickle.dumps({"data": rows[name][0], "labels": rows[name][1]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    monkeypatch.setenv("RNAS_ZOO_DATA", str(root))
    return folder, rows


def test_cifar10_is_read_from_the_official_layout_in_order(cifar_folder):
    _, rows = cifar_folder
    found = data.load("cifar10")
    names = [f"data_batch_{i}" for i in range(1, 6)]
    for split, files in ((found.train, names), (found.test, ["test_batch"])):
        flat = np.concatenate([rows[name][0] for name in files])
        assert split.images.shape == (len(flat), 32, 32, 3)
        for image, row in zip(split.images, flat, strict=True):
            for channel in range(3):
                plane = row[1024 * channel : 1024 * (channel + 1)]
                np.testing.assert_array_equal(image[..., channel].reshape(-1), plane)
        assert split.labels.tolist() == [label for name in files for label in rows[name][1]]
    assert found.classes == tuple(f"class{i}" for i in range(10))
    assert found.name == "cifar10"


def test_cifar10_with_a_damaged_file_is_refused(cifar_folder):
    folder, _ = cifar_folder
    content = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").write_bytes(content[:-1])
    with pytest.raises(DataError, match="corrupted"):
        data.load("cifar10")


def test_missing_cifar10_names_folder_and_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("RNAS_ZOO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError) as error:
        data.load("cifar10")
    for part in (str(tmp_path / "nowhere"), "cifar-10-batches-py", "RNAS_ZOO_DATA"):
        assert part in str(error.value)
    monkeypatch.delenv("RNAS_ZOO_DATA")
    assert str(data.data_root()) == "data"


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


# --- identity of images -----------------------------------------------------------------------------------------------


def test_pixel_hash_is_sha256_of_the_bytes_in_reading_order():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    spelled = bytes(int(image[row, column, channel]) for row in range(4) for column in range(5) for channel in range(3))
    assert data.pixel_hash(image) == hashlib.sha256(spelled).hexdigest()
    assert data.pixel_hash(np.asfortranarray(image)) == data.pixel_hash(image)
    assert data.pixel_hash(image.astype(np.float64)) == data.pixel_hash(image)
    assert data.pixel_hash(image[::-1]) != data.pixel_hash(image)


def test_images_hash_is_sha256_of_the_hashes_in_order():
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    whole = hashlib.sha256()
    for text in hashes:
        whole.update(text.encode("ascii"))
    assert data.images_hash(hashes) == whole.hexdigest()
    assert data.images_hash(hashes[::-1]) != data.images_hash(hashes)


def test_to_pixels_is_channels_first_and_divided_by_255():
    images = numbered(3, size=4).images
    pixels = data.to_pixels(images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 3, 4, 4)
    for n, channel, row, column in [(0, 0, 0, 0), (2, 1, 3, 2), (1, 2, 0, 3)]:
        assert pixels[n, channel, row, column].item() == np.float32(images[n, row, column, channel]) / np.float32(255)
    np.testing.assert_array_equal(data.to_pixels(images[:, :, ::-1]), pixels.flip(3))


# --- held-out part ----------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 200), seed=st.integers(0, 2**32), holdout=st.floats(0.01, 0.5))
def test_split_is_a_partition_of_the_training_images(n, seed, holdout):
    train = numbered(n, size=1)
    dataset = Dataset("x", train, ImageSet(train.images[:1], np.array([-1])), tuple("ab"))
    kept, held = dataset.split(seed, holdout)
    assert sorted([*kept.labels, *held.labels]) == list(range(n)), "every training image once, no test image"
    assert len(held) == max(1, round(n * holdout))
    for part in (kept, held):
        assert (np.diff(part.labels) > 0).all(), "official order"
        np.testing.assert_array_equal(part.images, train.images[part.labels])


def test_split_depends_on_the_seed_alone():
    dataset = Dataset("x", numbered(100), numbered(5), tuple("ab"))
    first, again, other = (set(dataset.split(seed)[1].labels) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# --- batches ----------------------------------------------------------------------------------------------------------


def make(images: ImageSet, size: int, **kwargs) -> Batches:
    return Batches(images, size, **{"seed": 4, "stream": "test", **kwargs})


@pytest.mark.parametrize("augmentation", data.AUGMENTATIONS)
def test_a_batch_depends_on_seed_and_step_only(augmentation):
    images = numbered(20)
    in_turn = make(images, 6, augmentation=augmentation)
    expected = [in_turn(step) for step in range(9)]
    jumping = make(images, 6, augmentation=augmentation)
    for step in (8, 0, 5, 5, 2, 7):
        x, y = jumping(step)
        assert torch.equal(x, expected[step][0])
        assert torch.equal(y, expected[step][1])


@given(n=st.integers(1, 40), size=st.integers(1, 40), epoch=st.integers(0, 50))
def test_an_epoch_has_no_image_twice(n, size, epoch):
    if size > n:
        with pytest.raises(UsageError, match="lower --batch-size"):
            make(numbered(n, size=1), size)
        return
    batches = make(numbered(n, size=1), size)
    steps = n // size
    assert batches.steps_per_epoch == steps
    seen = [int(label) for step in range(steps) for label in batches(epoch * steps + step)[1]]
    assert len(seen) == steps * size == len(set(seen))
    assert set(seen) <= set(range(n))


def test_epochs_and_seeds_and_streams_shuffle_differently():
    images = numbered(32, size=1)
    orders = [
        tuple(make(images, 32, seed=seed, stream=stream)(epoch)[1].tolist())
        for seed, stream, epoch in [(0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0)]
    ]
    assert len(set(orders)) == 4
    assert tuple(make(images, 32, seed=0, stream="a")(0)[1].tolist()) == orders[0]


def test_without_augmentation_images_are_as_given():
    images = numbered(12)
    x, y = make(images, 5, augmentation="none")(1)
    expected = images.images[y.numpy()].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(x.numpy(), expected)
    assert y.dtype == torch.int64


def shifted(image: np.ndarray, dy: int, dx: int, flip: bool) -> np.ndarray:
    """The image moved by (dy, dx) with its edge pixels repeated, then mirrored."""
    height, width, _ = image.shape
    moved = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            moved[row, column] = image[min(max(row + dy, 0), height - 1), min(max(column + dx, 0), width - 1)]
    return moved[:, ::-1] if flip else moved


@pytest.mark.parametrize(("augmentation", "flips"), [("crop", {False}), ("crop_flip", {False, True})])
def test_augmented_images_are_shifts_by_up_to_an_eighth(augmentation, flips):
    images = numbered(5, size=16)
    table = {
        (label, shifted(images.images[label], dy, dx, flip).tobytes()): (dy, dx, flip)
        for label in range(5)
        for dy in range(-2, 3)
        for dx in range(-2, 3)
        for flip in (False, True)
    }
    batches = make(images, 5, augmentation=augmentation)
    seen = []
    for step in range(40):
        x, y = batches(step)
        for image, label in zip(x, y, strict=True):
            pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            seen.append(table[int(label), pixels.tobytes()])
    for axis in (0, 1):
        assert {move[axis] for move in seen} == {-2, -1, 0, 1, 2}
    assert {flip for _, _, flip in seen} == flips
    assert len({(dy, dx) for dy, dx, _ in seen}) > 20, "rows and columns move independently"


def test_unknown_augmentation_is_refused():
    with pytest.raises(UsageError, match="crop_flip"):
        make(numbered(4), 2, augmentation="cutmix")
