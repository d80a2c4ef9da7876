"""Public data sets as their makers distribute them, each below `data_root()` in its official layout and order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .decode import decoded
from .sets import Dataset, ImageSet
from .sizes import Size

TINY_FOLDER = "tiny-imagenet-200"
TINY_SIZE = (64, 64)
AUGMENTATION = {"svhn": "crop"}  # of those whose images are not to be mirrored


def data_root() -> Path:
    """Where downloaded data sets are looked for: $RNAS_ZOO_DATA, else `data` in the current folder."""
    return Path(os.environ.get("RNAS_ZOO_DATA", "data"))


def cifar10() -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images of 32x32, from cifar-10-batches-py."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", "CIFAR-10", CIFAR10)


def cifar100() -> Dataset:
    """CIFAR-100 (Krizhevsky, 2009), fine labels: 50,000 and 10,000 images of 32x32, from cifar-100-python."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", "CIFAR-100", CIFAR100)


def svhn() -> Dataset:
    """Street View House Numbers (Netzer et al., 2011), cropped digits: 73,257 and 26,032 images of 32x32.

    From train_32x32.mat and test_32x32.mat; the extra images are not used. The files call the digit 0 label 10, here it
    is 0. Images are not mirrored for training, since mirrored digits are others or none.
    """
    from torchvision.datasets import SVHN

    root, title = data_root(), "SVHN"
    files = [SVHN.split_list[split][1] for split in ("train", "test")]
    found = _by_torchvision(title, files, files, lambda: [SVHN(str(root), split=split) for split in ("train", "test")])
    classes = tuple(str(digit) for digit in range(10))
    train, test = (
        _checked(f"{title}: {root / file}", part.data.transpose(0, 2, 3, 1), part.labels, (32, 32), classes)
        for file, part in zip(files, found, strict=True)
    )
    return Dataset("svhn", train, test, classes, AUGMENTATION["svhn"])


def tiny_imagenet() -> Dataset:
    """Tiny ImageNet (Stanford CS231n, 2015): 64x64 images of 200 classes, from the folder tiny-imagenet-200.

    The labels of its official test images were never published: `test` here are the 10,000 validation images, as in
    most papers, in the order of val_annotations.txt. The 100,000 training images come class by class, in the order of
    the numbers in their names. Labels are positions in the sorted list of wnids.txt, and a class is called what
    words.txt calls it, else by its wnid.
    """
    root = data_root() / TINY_FOLDER
    wnids = sorted(line.strip() for line in _lines(root / "wnids.txt") if line.strip())
    place = {wnid: label for label, wnid in enumerate(wnids)}
    if len(place) < len(wnids) or len(wnids) < 2:
        raise DataError(f"{root / 'wnids.txt'}: must list every class once, found {len(place)} in {len(wnids)} lines")
    folders = [_numbered(root / "train" / wnid / "images", wnid) for wnid in wnids]
    for wnid, files in zip(wnids, folders, strict=True):
        if len(files) != len(folders[0]):
            raise DataError(
                f"{root}/train: {wnids[0]} has {len(folders[0])} images and {wnid} {len(files)}, classes have equally "
                f"many; extract {TINY_FOLDER} again"
            )
    train = [path for files in folders for path in files]
    test, labels = [], []
    annotations = root / "val" / "val_annotations.txt"
    for number, line in enumerate(_lines(annotations), 1):
        name, wnid = [*line.split("\t"), "", ""][:2]
        if Path(name).name != name or wnid not in place:
            raise DataError(
                f"{annotations}: line {number} must be a file, a tab and a class of wnids.txt, got {line!r}"
            )
        test.append(_present(root / "val" / "images" / name))
        labels.append(place[wnid])
    if not test or len(set(test)) < len(test):
        raise DataError(f"{annotations}: must list every image once; extract {TINY_FOLDER} again")
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    return Dataset(
        "tiny-imagenet",
        ImageSet(decoded(train, TINY_SIZE, pad=None), np.repeat(np.arange(len(wnids)), len(folders[0]))),
        ImageSet(decoded(test, TINY_SIZE, pad=None), np.array(labels, np.int64)),
        tuple(words.get(wnid, wnid).strip() for wnid in wnids),
    )


def _cifar(name: str, title: str, reader: Any) -> Dataset:
    root, folder = data_root(), reader.base_folder
    files = [file for file, _ in reader.train_list + reader.test_list] + [reader.meta["filename"]]
    parts = _by_torchvision(
        title,
        [folder],
        [f"{folder}/{file}" for file in files],
        lambda: [reader(str(root), train=train, download=False) for train in (True, False)],
    )
    classes = tuple(map(str, parts[0].classes))
    train, test = (_checked(f"{title}: {root / folder}", p.data, p.targets, (32, 32), classes) for p in parts)
    return Dataset(name, train, test, classes)


def _by_torchvision(
    title: str, wanted: Sequence[str], files: Sequence[str], read: Callable[[], list[Any]]
) -> list[Any]:
    """What torchvision reads, which compares the files with their published checksums before it opens them."""
    root = data_root()
    for file in files:
        _present(root / file, f"{title} is not complete in {root}: ", " and ".join(wanted))
    try:
        return read()
    except (RuntimeError, OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{title}: {root} holds files that are corrupted or not the official ones ({error}); download and extract "
            f"{' and '.join(wanted)} again"
        ) from error


def _present(path: Path, before: str = "", wanted: str = TINY_FOLDER) -> Path:
    if not path.is_file():
        raise DataError(
            f"{before}no file {path}; put the official {wanted} into {data_root()}, or set RNAS_ZOO_DATA to the folder "
            "that holds it"
        )
    return path


def _checked(where: str, images: Any, labels: Any, size: Size, classes: tuple[str, ...]) -> ImageSet:
    pixels, found = np.ascontiguousarray(images), np.asarray(labels, np.int64)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*size, 3) or not len(pixels):
        raise DataError(f"{where} must hold uint8 images of {size[0]}x{size[1]}, found {pixels.dtype} {pixels.shape}")
    if found.shape != pixels.shape[:1] or found.min() < 0 or found.max() >= len(classes):
        raise DataError(f"{where} must hold one label of 0 to {len(classes) - 1} for each of {len(pixels)} images")
    return ImageSet(pixels, found)


def _lines(path: Path) -> list[str]:
    _present(path)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); extract {TINY_FOLDER} again") from error


def _numbered(folder: Path, wnid: str) -> list[Path]:
    """`<wnid>_0.JPEG`, `<wnid>_1.JPEG`, … : all the images of a folder."""
    files = [folder / f"{wnid}_{i}.JPEG" for i in range(max(1, sum(1 for _ in folder.glob("*.JPEG"))))]
    return [_present(file) for file in files]
