"""Official layouts, written here on a small scale: order, labels and names kept, what is damaged or missing refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from rnas_zoo import data
from rnas_zoo.errors import DataError

from .layouts import TRAINING, WNIDS, Cifar, md5, picture, write_tiny_imagenet


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    monkeypatch.setenv("RNAS_ZOO_DATA", str(folder))
    return folder


def refusal(name: str) -> str:
    with pytest.raises(DataError) as error:
        data.load(name)
    return str(error.value)


def test_the_root_is_a_folder_called_data_by_default(monkeypatch, root):
    assert data.data_root() == root
    monkeypatch.delenv("RNAS_ZOO_DATA")
    assert str(data.data_root()) == "data"


# --- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, root, monkeypatch) -> Cifar:
    return Cifar(request.param, root, monkeypatch)


def test_cifar_is_read_in_order(cifar):
    found = data.load(cifar.name)
    for split, files in ((found.train, cifar.train), (found.test, [cifar.test])):
        flat = np.concatenate([cifar.rows[file][0] for file in files])
        assert split.images.shape == (len(flat), 32, 32, 3)
        for image, row in zip(split.images, flat, strict=True):
            for channel in range(3):
                plane = row[1024 * channel : 1024 * (channel + 1)]
                np.testing.assert_array_equal(image[..., channel].reshape(-1), plane)
        assert split.labels.tolist() == [label for file in files for label in cifar.rows[file][1]]
        assert split.labels.dtype == np.int64
    assert (found.name, found.classes, found.augmentation) == (cifar.name, cifar.classes, "crop_flip")


def test_cifar_with_a_damaged_file_is_refused(cifar):
    for file in (cifar.train[-1], cifar.meta):
        content = (cifar.folder / file).read_bytes()
        (cifar.folder / file).write_bytes(content[:-1])
        text = refusal(cifar.name)
        assert "corrupted" in text
        assert cifar.folder.name in text
        (cifar.folder / file).write_bytes(content)


def test_missing_files_of_cifar_are_named_with_folder_and_fix(cifar):
    for file in (cifar.meta, cifar.train[-1]):
        (cifar.folder / file).unlink()
        text = refusal(cifar.name)
        for part in (str(cifar.folder / file), str(cifar.folder.parent), cifar.folder.name, "RNAS_ZOO_DATA"):
            assert part in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": np.zeros((3, 3071), np.uint8)}, "corrupted or not the official"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "one label of 0 to"),
        ({"data": np.zeros((3, 3072), np.float32)}, "uint8 images of 32x32, found float32"),
        ({"data": None}, "corrupted or not the official"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": [], "fine_labels": []}, "found uint8"),
        ({"labels": [0, 1, 10], "fine_labels": [0, 1, 100]}, "one label of 0 to"),
        ({"labels": [0, -1, 1], "fine_labels": [0, -1, 1]}, "one label of 0 to"),
    ],
)
def test_cifar_of_another_shape_is_refused(cifar, change, says):
    images, labels = cifar.rows[cifar.test]
    content = {"data": images, cifar.key: labels}
    cifar.write(cifar.test, {**content, **{key: value for key, value in change.items() if key in content}})
    cifar.sign()
    assert says in refusal(cifar.name)


def test_files_with_another_checksum_are_not_unpickled(cifar, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    cifar.write(cifar.test, Trap())
    assert "corrupted" in refusal(cifar.name)
    assert not (tmp_path / "sprung").exists()


# --- SVHN -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def house_numbers(root, monkeypatch):
    """Writes one split as the official .mat files are laid out: X (32, 32, 3, N) and y (N, 1) of 1 to 10."""
    from torchvision.datasets import SVHN

    splits = {}

    def write(split: str, **changes):
        n = 12 if split == "train" else 11
        images = np.random.default_rng(n).integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = (1 + np.arange(n) % 10).astype(np.uint8)[:, None]
        arrays = {key: value for key, value in {"X": images, "y": labels, **changes}.items() if value is not None}
        path = root / f"{split}_32x32.mat"
        savemat(path, arrays)
        splits[split] = arrays
        monkeypatch.setitem(SVHN.split_list, split, ["", path.name, md5(path)])
        return path

    write("train")
    write("test")
    return write, splits


def test_svhn_is_read_in_order_with_ten_as_zero(house_numbers):
    _, splits = house_numbers
    found = data.load("svhn")
    for part, arrays in ((found.train, splits["train"]), (found.test, splits["test"])):
        assert len(part) == arrays["X"].shape[3]
        for i, image in enumerate(part.images):
            np.testing.assert_array_equal(image, arrays["X"][:, :, :, i])
        assert part.labels.tolist() == [label if label < 10 else 0 for label in arrays["y"][:, 0].tolist()]
        assert part.labels.dtype == np.int64
    assert (found.name, found.classes, found.image_size) == ("svhn", tuple("0123456789"), (32, 32))
    assert "flip" not in found.augmentation


def test_svhn_missing_or_damaged_is_refused(house_numbers, root):
    path = root / "test_32x32.mat"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert "corrupted" in refusal("svhn")
    path.unlink()
    text = refusal("svhn")
    for part in (str(path), str(root), "RNAS_ZOO_DATA"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"X": None}, "corrupted or not the official"),
        ({"X": np.zeros((28, 28, 3, 11), np.uint8)}, "uint8 images of 32x32, found uint8 (11, 28, 28, 3)"),
        ({"X": np.zeros((32, 32, 3), np.uint8)}, "corrupted or not the official"),
        ({"X": np.zeros((32, 32, 3, 11))}, "found float64"),
        ({"X": np.zeros((32, 32, 3, 9), np.uint8)}, "one label of 0 to 9 for each of 9 images"),
        ({"y": np.full((11, 1), 11, np.uint8)}, "one label of 0 to 9"),
    ],
)
def test_svhn_of_another_shape_is_refused(house_numbers, root, changes, says):
    write, _ = house_numbers
    write("test", **changes)
    text = refusal("svhn")
    assert says in text
    assert str(root) in text


# --- Tiny ImageNet ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(root) -> Path:
    return write_tiny_imagenet(root)


def test_tiny_imagenet_is_read_in_official_order(tiny):
    found = data.load("tiny-imagenet")
    assert (found.name, found.image_size, found.num_classes) == ("tiny-imagenet", (64, 64), 3)
    assert found.classes == ("goldfish, Carassius auratus", "n02", "crane"), "of sorted wnids, the wnid where unnamed"
    assert found.train.labels.tolist() == [0] * TRAINING + [1] * TRAINING + [2] * TRAINING
    files = [
        tiny / "train" / wnid / "images" / f"{wnid}_{i}.JPEG" for wnid in ("n01", "n02", "n03") for i in range(TRAINING)
    ]
    for image, file in zip(found.train.images, files, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(file).convert("RGB")))
    assert found.test.labels.tolist() == [{"n01": 0, "n02": 1, "n03": 2}[WNIDS[i % 3]] for i in range(11)]
    for i, image in enumerate(found.test.images):
        np.testing.assert_array_equal(image, np.asarray(Image.open(tiny / "val" / "images" / f"val_{i}.JPEG")))
    assert found.validation is None
    assert {part.labels.dtype for part in (found.train, found.test)} == {np.dtype(np.int64)}
    assert data.load("tiny-imagenet", 32).name == "tiny-imagenet@32"


@pytest.mark.parametrize(
    "file",
    [
        "wnids.txt",
        "words.txt",
        "train/n02/images/n02_5.JPEG",
        "train/n01/images/n01_0.JPEG",
        "val/val_annotations.txt",
        "val/images/val_10.JPEG",
    ],
)
def test_missing_files_of_tiny_imagenet_are_named_with_folder_and_fix(tiny, file):
    (tiny / file).unlink()
    text = refusal("tiny-imagenet")
    for part in (str(tiny / file), str(tiny.parent), "tiny-imagenet-200", "RNAS_ZOO_DATA"):
        assert part in text


def test_a_class_with_fewer_images_is_refused(tiny):
    (tiny / "train" / "n02" / "images" / f"n02_{TRAINING - 1}.JPEG").unlink()
    assert "n01 has 12 images and n02 11" in refusal("tiny-imagenet")


@pytest.mark.parametrize("file", ["train/n02/images/n02_5.JPEG", "val/images/val_0.JPEG"])
def test_damaged_images_and_those_of_another_size_are_refused(tiny, file):
    content = (tiny / file).read_bytes()
    (tiny / file).write_bytes(content[: len(content) // 2])
    text = refusal("tiny-imagenet")
    assert str(tiny / file) in text
    assert "not a readable image" in text
    picture(0, 56).save(tiny / file)
    assert refusal("tiny-imagenet") == f"{tiny / file}: has 56x56 pixels instead of 64x64"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("val_0.JPEG\tn09\t0\t0\t9\t9", "line 12 must be a file, a tab and a class"),
        ("val_0.JPEG", "line 12 must be"),
        ("../images/val_0.JPEG\tn01", "line 12 must be"),
        ("val_0.JPEG\tn01\t0\t0\t9\t9", "every image once"),
    ],
)
def test_annotations_that_fit_nothing_are_refused(tiny, line, says):
    with open(tiny / "val" / "val_annotations.txt", "a") as file:
        file.write(line + "\n")
    assert says in refusal("tiny-imagenet")


@pytest.mark.parametrize("text", ["n01\nn02\nn01\n", "n01\n", ""])
def test_a_list_of_classes_that_is_none_is_refused(tiny, text):
    (tiny / "wnids.txt").write_text(text)
    assert "must list every class once" in refusal("tiny-imagenet")


def test_text_files_that_are_no_text_are_refused(tiny):
    (tiny / "words.txt").write_bytes(b"n01\t\xff\xfe")
    text = refusal("tiny-imagenet")
    assert f"{tiny / 'words.txt'}: cannot be read" in text
