"""Folders of image files, one sub-folder per class.

Either `train/`, `test/` and optionally `val/`, each with the same class folders, or the class folders directly. The
latter are split 80/10/10 by the SHA-256 of each file's bytes, as a number modulo 10: 0 to 7 train, 8 val, 9 test. That
is the same on every machine, whatever a file is called, and equal files never lie in two splits.

Official order: classes by name, then files by their path below the class folder (POSIX spelling), both by code point.
Pixels are those of `decode`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .decode import decoded, each, size_of
from .sets import Dataset, ImageSet
from .sizes import Size, as_size, spelled, to_be_padded

SPLITS = ("train", "val", "test")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".db", ".ini")  # .db, .ini: left by Windows

Files = dict[str, list[Path]]  # image files of each class, both in official order


def read_folder(root: Path, image_size: int | Size | None = None) -> Dataset:
    """The images of a folder, named after it; `image_size` and the name as in `data.load`.

    Raises:
        DataError: a layout other than the above, classes that differ between splits or lack training images, a file
            that is no image, or images of several sizes without `image_size`.
        UsageError: an `image_size` that is none.
    """
    wanted = None if image_size is None else as_size(image_size)
    try:
        parts = _splits(root)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    classes = tuple(parts["train"])
    if len(classes) < 2:
        raise DataError(f"{root}: needs a folder of images for each of at least two classes, found {len(classes)}")
    for name in classes:
        if not parts["train"][name]:
            raise DataError(f"{root}: class {name!r} has no training image")
    for split, found in parts.items():
        if not any(found.values()):
            raise DataError(f"{root}: no images for {split}; give more, or folders {'/, '.join(SPLITS)}/")
    paths = [path for part in parts.values() for files in part.values() for path in files]
    sizes = list(each(size_of, paths))
    size = wanted or _common(root, paths, sizes)
    images = decoded(paths, size, pad=to_be_padded(set(sizes), size))
    sets, start = {}, 0
    for split, part in parts.items():
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in part.values()])
        sets[split] = ImageSet(images[start : start + len(labels)], labels)
        start += len(labels)
    suffix = "" if set(sizes) == {size} else f"@{spelled(size)}"
    return Dataset(root.resolve().name + suffix, sets["train"], sets["test"], classes, validation=sets.get("val"))


def _splits(root: Path) -> dict[str, Files]:
    """Files of each split by class, splits in the order train, val, test."""
    present = _subfolders(root)
    if not any(_subfolders(root / split) for split in SPLITS if split in present):
        return _split_by_hash(_classes(root))
    if missing := [split for split in ("train", "test") if split not in present]:
        raise DataError(f"{root}: has no folder {missing[0]}; needed are train, test and, if there is one, val")
    if odd := [name for name in present if name not in SPLITS]:
        raise DataError(f"{root}: next to train, val and test there is a folder {odd[0]}; move it elsewhere")
    parts = {split: _classes(root / split) for split in SPLITS if split in present}
    for split in parts:
        for name in sorted(set(parts[split]) ^ set(parts["train"])):
            has, lacks = (split, "train") if name in parts[split] else ("train", split)
            raise DataError(f"{root}: class {name!r} is in {has} but not in {lacks}; splits need the same folders")
    return parts


def _classes(folder: Path) -> Files:
    loose = sorted(entry for entry in folder.iterdir() if entry.is_file() and not _hidden(entry.name))
    if loose := [entry for entry in loose if _suffix(entry) in IMAGES]:
        raise DataError(f"{loose[0]}: images must lie in a folder named after their class")
    return {name: list(_image_files(folder / name)) for name in _subfolders(folder)}


def _split_by_hash(classes: Files) -> dict[str, Files]:
    parts: dict[str, Files] = {split: {name: [] for name in classes} for split in SPLITS}
    for name, files in classes.items():
        for path, split in zip(files, each(_split_of, files), strict=True):
            parts[split][name].append(path)
    return parts


def _split_of(path: Path) -> str:
    rest = int.from_bytes(hashlib.sha256(path.read_bytes()).digest(), "big") % 10
    return SPLITS[max(0, rest - 7)]


def _subfolders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return [name for name in names if not _hidden(name)]


def _image_files(folder: Path) -> Iterator[Path]:
    """Image files at any depth; links to folders are followed."""
    found = []
    for here, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [Path(here, name) for name in names if not _hidden(name)]
    for path in sorted(found, key=lambda path: path.relative_to(folder).as_posix()):
        if _suffix(path) in IMAGES:
            yield path
        elif _suffix(path) not in NOTES:
            raise DataError(f"{path}: not an image that is read here ({', '.join(IMAGES)}); convert or remove it")


def _fail(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _common(root: Path, paths: list[Path], sizes: list[Size]) -> Size:
    """The size all images share."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            (h, w), (other_h, other_w) = sizes[0], size
            raise DataError(
                f"{root}: images differ in size, {paths[0].relative_to(root)} has {h}x{w} and {path.relative_to(root)} "
                f"{other_h}x{other_w}; --image-size brings them to one"
            )
    return sizes[0]
