"""Check packs, and what any other program answered on their images: a phone, an accelerator, C++.

A pack, `check.npz`, holds `images` and `adversarial`, their adversarial twins under the network in torch, both uint8
(N, H, W, 3); `labels` (N,); and our answers `logits` (N, classes) to the clean images and, in newer packs,
`adversarial_logits` to the twins.

Predictions are a CSV file with a header and one line per image, in any order:

    index,clean,adversarial
    0,3,5
    1,8,8

`index` is the image's place in the pack, from 0; `clean` and `adversarial` are the classes predicted for the image and
for its twin, as numbers from 0 or as names. The column `adversarial` may be left out; further columns and blank lines
are skipped.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_arrays
from ..deploy.runtime import ALLOWED
from ..errors import DataError, closest
from ..files import read_json
from ..intervals import Interval, clopper_pearson


@dataclass(frozen=True)
class Pack:
    """A check pack.

    Attributes:
        labels: true classes (N,).
        clean: our classes of the clean images (N,).
        adversarial: our classes of their adversarial twins (N,); None in older packs.
        num_classes: number of classes.
        names: their names, from labels.txt or config.json beside the pack; empty if there are none.
    """

    labels: np.ndarray
    clean: np.ndarray
    adversarial: np.ndarray | None
    num_classes: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Predictions:
    """Classes that another program predicted for the clean images (N,), and for their twins (N,) or None."""

    clean: np.ndarray
    adversarial: np.ndarray | None


@dataclass(frozen=True)
class Share:
    """`count` of `n` images."""

    count: int
    n: int

    @property
    def value(self) -> float:
        return self.count / self.n

    @property
    def interval(self) -> Interval:
        """The exact 95 % one."""
        return clopper_pearson(self.count, self.n)

    def to_json(self) -> dict[str, Any]:
        return {"count": self.count, "n": self.n, "value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class Comparison:
    """What another program answered beside our answers and the truth.

    Attributes:
        agreement: images on which it predicts our class.
        adversarial_agreement: twins on which it does, None where our answers or its own are missing.
        clean_accuracy, our_clean_accuracy: images that it and we get right.
        transfer_accuracy, our_transfer_accuracy: images that it and we get right both as they are and as their twins,
            None without answers to the twins. These were found against the network in torch: a transfer attack, so
            for any other program this is an upper bound of robust accuracy.
        differing: images with another class than ours, clean or adversarial.
    """

    agreement: Share
    adversarial_agreement: Share | None
    clean_accuracy: Share
    our_clean_accuracy: Share
    transfer_accuracy: Share | None
    our_transfer_accuracy: Share | None
    differing: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether at most one image has another class than ours."""
        return len(self.differing) <= ALLOWED

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON, shares with counts and exact 95 % intervals."""
        shares = {name: value.to_json() if isinstance(value, Share) else value for name, value in vars(self).items()}
        return {**shares, "differing": list(self.differing), "allowed": ALLOWED, "passed": self.passed}


def read_pack(path: str | Path) -> Pack:
    """Read a check.npz.

    Raises:
        DataError: no such file, or no check pack.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        labels, logits, twins = arrays["labels"], arrays["logits"], arrays["adversarial"]
        golden = arrays.get("adversarial_logits")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable check pack ({error}); release folders hold one, check.npz") from error
    numbers = [logits] if golden is None else [logits, golden]
    fits = labels.ndim == 1 and labels.dtype.kind in "iu" and logits.ndim == 2 and twins.shape[:1] == logits.shape[:1]
    fits = fits and all(each.shape == logits.shape and each.dtype.kind == "f" for each in numbers)
    if not fits or len(labels) != len(logits) or not logits.size:
        raise DataError(
            f"{path}: not a check pack: labels {labels.shape}, logits {logits.shape} of {logits.dtype}, "
            f"twins {twins.shape}"
        )
    names = _names(path.parent)
    return Pack(
        labels=labels,
        clean=logits.argmax(1),
        adversarial=None if golden is None else golden.argmax(1),
        num_classes=logits.shape[1],
        names=names if len(names) == logits.shape[1] else (),
    )


def _names(folder: Path) -> tuple[str, ...]:
    """Class names from labels.txt (bundles) or config.json (release folders)."""
    try:
        if (folder / "labels.txt").is_file():
            return tuple((folder / "labels.txt").read_text(encoding="utf-8").splitlines())
        if (folder / "config.json").is_file():
            return tuple(map(str, read_json(folder / "config.json").get("label_names") or ()))
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    return ()


def read_predictions(path: str | Path, pack: Pack) -> Predictions:
    """Read a CSV file of predictions for every image of a pack.

    Raises:
        DataError: naming the line: no header, an image missing, unknown or named twice, or an unknown class.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file in UTF-8 ({error})") from error
    rows = iter([(number, row) for number, row in lines if any(row)])
    _, header = next(rows, (0, []))
    columns = [name.lower() for name in header]
    if "index" not in columns or "clean" not in columns or len(set(columns)) < len(columns):
        raise DataError(f"{path}: the first line must be index,clean,adversarial, found {','.join(header)[:60]!r}")
    wanted = [name for name in ("clean", "adversarial") if name in columns]
    found: dict[int, list[int]] = {}
    lines_of: dict[int, int] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) != len(columns):
            raise DataError(f"{where}: {len(row)} columns, the first line has {len(columns)}")
        cells = dict(zip(columns, row, strict=True))
        index = _index(cells["index"], len(pack.labels), where)
        if index in found:
            raise DataError(f"{where}: image {index} was answered in line {lines_of[index]} already")
        found[index] = [_class(cells[name], pack, f"{where}, column {name}") for name in wanted]
        lines_of[index] = number
    if missing := [index for index in range(len(pack.labels)) if index not in found]:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{path}: {len(missing)} of {len(pack.labels)} images are missing: {shown}")
    answers = np.array([found[index] for index in range(len(pack.labels))])
    return Predictions(answers[:, 0], answers[:, 1] if len(wanted) > 1 else None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _index(text: str, count: int, where: str) -> int:
    if not _is_number(text) or int(text) >= count:
        raise DataError(f"{where}: index {text[:40]!r} is none of the pack's images, 0 to {count - 1}")
    return int(text)


def _class(text: str, pack: Pack, where: str) -> int:
    if _is_number(text):
        if pack.names.count(text) and pack.names.index(text) != int(text):
            raise DataError(
                f"{where}: {text} is the number of one class and the name of another; it is a number where no "
                "labels.txt or config.json lies beside the pack"
            )
        if int(text) < pack.num_classes:
            return int(text)
        raise DataError(f"{where}: unknown class {text}, classes are 0 to {pack.num_classes - 1}")
    if pack.names.count(text) == 1:
        return pack.names.index(text)
    if text in pack.names:
        raise DataError(f"{where}: {text!r} is the name of several classes, give its number")
    if pack.names:
        hint = closest(text, list(pack.names))
        raise DataError(f"{where}: unknown class {text[:40]!r}.{hint} Numbers from 0 do as well.")
    raise DataError(
        f"{where}: {text[:40]!r} is no class number, and there is no labels.txt beside the pack with class names"
    )


def compare(pack: Pack, predictions: Predictions) -> Comparison:
    """Predictions beside our answers and the truth."""
    n, ours, theirs = len(pack.labels), pack.adversarial, predictions.adversarial

    def share(hits: np.ndarray) -> Share:
        return Share(int(hits.sum()), n)

    def survives(clean: np.ndarray, twins: np.ndarray | None) -> Share | None:
        return None if twins is None else share((clean == pack.labels) & (twins == pack.labels))

    same = predictions.clean == pack.clean
    same_twins = None if ours is None or theirs is None else theirs == ours
    return Comparison(
        agreement=share(same),
        adversarial_agreement=None if same_twins is None else share(same_twins),
        clean_accuracy=share(predictions.clean == pack.labels),
        our_clean_accuracy=share(pack.clean == pack.labels),
        transfer_accuracy=survives(predictions.clean, theirs),
        our_transfer_accuracy=survives(pack.clean, ours),
        differing=tuple(np.flatnonzero(~same if same_twins is None else ~(same & same_twins)).tolist()),
    )
