"""Folders of image files, compared with torchvision's reader and with hashes computed here."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rnas_zoo import data
from rnas_zoo.errors import DataError, UsageError


def pixels(seed: int, height: int = 10, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def splits(root: Path, val: bool = True, names: tuple[str, ...] = ("cat", "dog"), size: int = 10) -> Path:
    """Three training images and one of each other split per class; images are numbered through in official order."""
    count = 0
    for split, n in [("train", 3), ("val", 1), ("test", 1)] if val else [("train", 3), ("test", 1)]:
        for name in names:
            for i in range(n):
                write(root / split / name / f"{i}.png", pixels(count, size, size))
                count += 1
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Class folders with 60 images each."""
    root = tmp_path_factory.mktemp("plain") / "pets"
    for label, name in enumerate(["ant", "bee", "cow"]):
        for i in range(60):
            write(root / name / f"{i}.png", pixels(100 * label + i, 8, 8))
    return root


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val", [True, False])
def test_split_folders_are_read_in_official_order(val, tmp_path):
    found = data.load(splits(tmp_path / "pets", val))
    assert (found.name, found.classes, found.image_size) == ("pets", ("cat", "dog"), (10, 10))
    parts = [found.train, found.validation, found.test] if val else [found.train, found.test]
    assert [part.labels.tolist() for part in parts] == [[0, 0, 0, 1, 1, 1], *[[0, 1]] * (len(parts) - 1)]
    images = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(images, [pixels(i) for i in range(len(images))])
    assert images.dtype == np.uint8
    if val:
        assert found.split(0)[1] is found.validation
    else:
        assert found.validation is None
        assert len(found.split(0)[1]) == 1


def test_class_folders_are_split_by_the_hash_of_each_file(plain):
    found = data.load(str(plain))
    expected = {"train": [], "val": [], "test": []}
    for label, name in enumerate(["ant", "bee", "cow"]):
        for path in sorted(str(path) for path in (plain / name).iterdir()):
            rest = int(hashlib.sha256(Path(path).read_bytes()).hexdigest(), 16) % 10
            split = "test" if rest == 9 else "val" if rest == 8 else "train"
            expected[split].append((np.asarray(Image.open(path)), label))
    for part, split in ((found.train, "train"), (found.validation, "val"), (found.test, "test")):
        np.testing.assert_array_equal(part.images, [image for image, _ in expected[split]])
        assert part.labels.tolist() == [label for _, label in expected[split]]
    assert len(found.train) > 4 * len(found.test), "about 80/10/10"


def hashes(part: data.ImageSet) -> list[tuple[str, int]]:
    return [(data.pixel_hash(image), int(label)) for image, label in zip(part.images, part.labels, strict=True)]


def test_the_split_of_a_file_is_its_own_whatever_it_is_called_and_whatever_else_there_is(plain, tmp_path):
    before = data.load(plain)
    for i, path in enumerate(sorted(plain.rglob("*.png"), reverse=True)):
        if i % 4:
            target = tmp_path / "other" / path.parent.name / f"deep{i % 2}" / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    after = data.load(tmp_path / "other")
    for name in ("train", "validation", "test"):
        assert set(hashes(getattr(after, name))) <= set(hashes(getattr(before, name)))


def test_equal_files_never_lie_in_two_splits(plain, tmp_path):
    for i, path in enumerate(plain.rglob("*.png")):
        for copy in range(2):
            target = tmp_path / "twins" / path.parent.name / f"{i * 7 % 11}-{i}-{copy}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    found = data.load(tmp_path / "twins")
    sets = [set(hashes(part)) for part in (found.train, found.validation, found.test)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 180


# --- files ------------------------------------------------------------------------------------------------------------


def test_it_reads_what_torchvision_reads(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize

    root = tmp_path / "mixed"
    for split in ("train", "test"):
        for label, name in enumerate(["Zebra", "ape", "b"]):
            for i, suffix in enumerate(["png", "JPG", "jpeg", "bmp", "webp", "ppm"]):
                height, width = 20 + 7 * i, 50 - 5 * i - label
                write(root / split / name / f"{i}.{suffix}", pixels(i, height, width))
            for i, mode in enumerate(["L", "P", "RGBA", "LA", "1"]):
                image = Image.fromarray(pixels(50 + i, 30, 21)).convert(mode)
                image.save(root / split / name / f"mode{i}.png")
            Image.fromarray(pixels(60, 30, 21)).convert("CMYK").save(root / split / name / "x.jpg")
    found = data.load(root, image_size=24)
    assert (found.name, found.classes) == ("mixed@24", ("Zebra", "ape", "b"))
    for part, split in ((found.train, "train"), (found.test, "test")):
        peer = ImageFolder(root / split, Compose([Resize(24), CenterCrop(24), np.asarray]))
        images, labels = zip(*peer, strict=True)
        np.testing.assert_array_equal(part.images, images)
        assert part.labels.tolist() == list(labels)


def test_transparency_is_dropped_from_palettes(tmp_path, recwarn):
    root = splits(tmp_path / "pets")
    image = Image.fromarray(pixels(0)).quantize(8)
    image.save(root / "test" / "cat" / "0.png", transparency=bytes([0, 100] * 4))
    found = data.load(root).test.images[0]
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))
    assert not [warning for warning in recwarn if "alette" in str(warning.message)]


def test_hidden_files_and_notes_are_passed_over(tmp_path):
    root = splits(tmp_path / "pets")
    before = data.load(root)
    for name in (".DS_Store", "Thumbs.db", "notes.TXT", "labels.csv", "._0.png", ".cache/a.png", "__MACOSX/b.png"):
        for folder in (root, root / "train", root / "train" / "dog"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\0")
    (root / "LICENSE").write_text("free")
    after = data.load(root)
    assert hashes(after.train) == hashes(before.train)
    assert after.classes == before.classes


def test_links_to_folders_are_followed(tmp_path):
    root = splits(tmp_path / "pets")
    (root / "train" / "dog").rename(tmp_path / "elsewhere")
    (root / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    assert len(data.load(root).train) == 6


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(["png", "jpg", "bmp", "webp"]), kept=st.floats(0, 0.9))
def test_truncated_images_are_refused_by_name(suffix, kept, tmp_path):
    root = splits(tmp_path / "pets")
    path = write(root / "train" / "dog" / f"3.{suffix}", pixels(1))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match=rf"3\.{suffix}: not a readable image"):
        data.load(root)
    path.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 300), value=st.integers(0, 255))
def test_damaged_images_are_refused_by_name_or_read(at, value, tmp_path):
    root = splits(tmp_path / "pets")
    content = bytearray(png(pixels(1)))
    content[at] = value
    (root / "train" / "dog" / "3.png").write_bytes(content)
    try:
        outcome = f"{len(data.load(root, image_size=10).train)} images"
    except DataError as error:
        outcome = str(error)
    assert outcome == "7 images" or "dog/3.png: not a readable image" in outcome


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    root = splits(tmp_path / "pets")
    Image.fromarray(np.full((10, 10), 40000, np.uint16)).save(root / "train" / "dog" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: has more than 8 bits"):
        data.load(root)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    root = splits(tmp_path / "pets")
    write(root / "val" / "dog" / "0.png", pixels(0, 12, 9))
    with pytest.raises(DataError) as error:
        data.load(root)
    for part in ("train/cat/0.png has 10x10", "val/dog/0.png 12x9", "--image-size"):
        assert part in str(error.value)
    found = data.load(root, image_size=(10, 9))
    assert (found.name, found.image_size) == ("pets@10x9", (10, 9))


def test_images_of_one_slightly_smaller_size_are_padded(tmp_path):
    root = splits(tmp_path / "pets", size=28)
    plain, found = data.load(root), data.load(root, image_size=32)
    np.testing.assert_array_equal(found.train.images[:, 2:30, 2:30], plain.train.images)
    assert found.train.images.sum() == plain.train.images.sum()
    assert (plain.name, found.name) == ("pets", "pets@32")
    assert data.load(root, image_size=28).name == "pets"


def test_image_size_is_checked_before_files_are_read(tmp_path):
    with pytest.raises(UsageError, match="image size must be"):
        data.load(splits(tmp_path / "pets"), image_size=4)


# --- layouts that are none --------------------------------------------------------------------------------------------


def without(root: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(root / name)


BROKEN = {
    "no test": (lambda root: without(root, "test"), "has no folder test"),
    "no train": (lambda root: without(root, "train"), "has no folder train"),
    "a fourth split": (lambda root: write(root / "valid" / "cat" / "0.png", pixels(0)), "a folder valid"),
    "class lacking in val": (lambda root: without(root, "val/dog"), "class 'dog' is in train but not in val"),
    "class only in test": (
        lambda root: write(root / "test" / "eel" / "0.png", pixels(0)),
        "class 'eel' is in test but not in train",
    ),
    "class without training images": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "class 'dog' has no training image",
    ),
    "empty test": (lambda root: [path.unlink() for path in (root / "test").rglob("*.png")], "no images for test"),
    "one class": (lambda root: without(root, "train/dog", "val/dog", "test/dog"), "at least two classes, found 1"),
    "image without class": (lambda root: write(root / "train" / "0.png", pixels(0)), "train/0.png: images must lie"),
    "animation": (lambda root: (root / "train" / "dog" / "a.gif").write_bytes(b"GIF89a"), "a.gif: not an image"),
    "no suffix": (lambda root: (root / "train" / "dog" / "image").write_bytes(b"\0"), "dog/image: not an image"),
    "text as image": (lambda root: (root / "val" / "dog" / "0.png").write_text("x"), "0.png: not a readable image"),
    "dangling link": (lambda root: (root / "val" / "cat" / "l.png").symlink_to("gone"), "l.png: not a readable image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layout_is_named(case, tmp_path):
    root = splits(tmp_path / "pets")
    damage, words = BROKEN[case]
    damage(root)
    with pytest.raises(DataError) as error:
        data.load(root)
    assert words in str(error.value)
    assert str(root) in str(error.value)


def test_empty_folder_and_too_few_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="at least two classes, found 0"):
        data.load(tmp_path)
    for name in ("cat", "dog"):
        for i in range(2):
            write(tmp_path / "few" / name / f"{i}.png", pixels(i))
    with pytest.raises(DataError, match=r"no (images for (val|test)|training image)"):
        data.load(tmp_path / "few")


def test_unreadable_file_of_class_folders_is_named(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "pets")
    (tmp_path / "pets" / "cow" / "link.png").symlink_to("gone")
    with pytest.raises(DataError, match=r"link\.png: cannot be read"):
        data.load(tmp_path / "pets")
