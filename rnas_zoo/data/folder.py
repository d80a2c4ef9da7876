"""Folders of image files, one sub-folder per class.

Either `train/`, `test/` and optionally `val/`, each with the same class folders, or the class folders directly. The
latter are split 80/10/10 by the SHA-256 of each file's bytes, as a number modulo 10: 0 to 7 train, 8 val, 9 test. That
is the same on every machine, whatever a file is called, and equal files never lie in two splits.

Official order: classes by name, then files by their path below the class folder (POSIX spelling), both by code point.
Pixels are those stored, as Pillow decodes them: the first frame, no EXIF rotation, transparency dropped, grey and
palette images as RGB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import DataError
from .sets import Dataset, ImageSet
from .sizes import Size, as_size, fit, spelled, to_be_padded

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "val", "test")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".db", ".ini")  # .db, .ini: left by Windows
DEEP_MODES = ("I", "F")  # first letters of Pillow's modes of more than 8 bits per channel

Files = dict[str, list[Path]]  # image files of each class, both in official order
T = TypeVar("T")


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
    sizes = list(_each(_size, paths))
    size = wanted or _common(root, paths, sizes)
    images = _decoded(paths, size, pad=to_be_padded(set(sizes), size))
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
        for path, split in zip(files, _each(_split_of, files), strict=True):
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


def _each(function: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T]:
    """Results in order; threads, since reading and decoding release the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, paths)


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


def _size(path: Path) -> Size:
    image = _opened(path)
    with image:
        return image.height, image.width


def _decoded(paths: list[Path], size: Size, *, pad: bool) -> np.ndarray:
    """uint8 (N, *size, 3)."""
    images = np.empty((len(paths), *size, 3), np.uint8)
    rows = dict(zip(paths, images, strict=True))

    def decode(path: Path) -> None:
        rows[path][...] = np.asarray(fit(_rgb(path), size, pad=pad))

    for _ in _each(decode, paths):
        pass
    return images


def _opened(path: Path) -> Image:
    from PIL import Image

    try:
        image = Image.open(path)
    except Exception as error:  # what Pillow raises on damaged files differs from format to format
        raise DataError(f"{path}: not a readable image ({error})") from error
    if image.mode.startswith(DEEP_MODES):
        image.close()
        raise DataError(f"{path}: has more than 8 bits per channel (mode {image.mode}); convert it to 8")
    return image


def _rgb(path: Path) -> Image:
    image = _opened(path)
    try:
        with image:
            whole = image.convert("RGBA") if "transparency" in image.info else image
            return whole.convert("RGB")
    except Exception as error:  # as above
        raise DataError(f"{path}: not a readable image ({error})") from error
