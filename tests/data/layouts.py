"""Official layouts on a small scale, for tests."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n03", "n01", "n02")  # wnids.txt is not sorted
TRAINING = 12  # of each class, so that 10 comes before 2 by spelling


def picture(seed: int, size: int = 64, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_tiny_imagenet(root: Path) -> Path:
    """The folder of three classes with TRAINING training images each and 11 validation images."""
    folder = root / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i in range(TRAINING):
            picture(100 * label + i, mode="L" if i == 3 else "RGB").save(images / f"{wnid}_{i}.JPEG")
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn03\tcrane\n")
    (folder / "val" / "images").mkdir(parents=True)
    for i in range(11):
        picture(1000 + i).save(folder / "val" / "images" / f"val_{i}.JPEG")
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t62\t62\n" for i in range(11)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)
    return folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Cifar:
    """CIFAR-10 or CIFAR-100: few images in each training file, three in the test file, sums as torchvision expects."""

    def __init__(self, name: str, root: Path, monkeypatch: pytest.MonkeyPatch, images: int = 4) -> None:
        from torchvision.datasets import CIFAR10, CIFAR100

        self.name, self.patch = name, monkeypatch
        self.reader, self.key, count = (CIFAR10, "labels", 10) if name == "cifar10" else (CIFAR100, "fine_labels", 100)
        self.train = [f"data_batch_{i}" for i in range(1, 6)] if name == "cifar10" else ["train"]
        self.test = "test_batch" if name == "cifar10" else "test"
        self.meta = "batches.meta" if name == "cifar10" else "meta"
        self.classes = tuple(f"class{i}" for i in range(count))
        self.folder = root / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
        self.folder.mkdir()
        generator = np.random.default_rng(0)
        self.rows = {
            file: (generator.integers(0, 256, (n, 3072), dtype=np.uint8), generator.integers(0, count, n).tolist())
            for file, n in [*((file, images) for file in self.train), (self.test, 3)]
        }
        for file, (images, labels) in self.rows.items():
            self.write(file, {"data": images, self.key: labels, "coarse_labels": [0] * len(labels)})
        self.write(self.meta, {"label_names": self.classes, "fine_label_names": self.classes})
        self.sign()

    def write(self, file: str, content: object) -> None:
        (self.folder / file).write_bytes(pickle.dumps(content))

    def sign(self) -> None:
        """Let torchvision expect the files as they are."""
        self.patch.setattr(self.reader, "train_list", [[file, md5(self.folder / file)] for file in self.train])
        self.patch.setattr(self.reader, "test_list", [[self.test, md5(self.folder / self.test)]])
        self.patch.setattr(self.reader, "meta", {**self.reader.meta, "md5": md5(self.folder / self.meta)})
