"""Evidence: one JSON record per run and one verdict per image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..arrays import read_arrays
from ..errors import CheckFailedError, DataError
from ..files import atomic_path, exclusive, write_json
from ..intervals import clopper_pearson

SCHEMA = 1
PER_IMAGE = (
    "position",
    "pixels_sha256",
    "clean_correct",
    "clean_margin",
    "broken_by",
    "route",
    "step",
    "margin",
    "norm",
    "refused",
)
OF_THE_IMAGES = PER_IMAGE[:2]  # the same in all runs on the same images, so stored once for all of them
STRENGTH = {"quick": 0, "fast": 1, "standard": 2, "full": 3}
CLEAN_MARGIN = 1e-4  # of logits: what rounding may change
EVERY_IMAGE = ("quick", "transfer")  # their attacks all try every image; the others try what those before left
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "subject": dict,
    "dataset": dict,
    "norm": str,
    "eps": str,
    "protocol": str,
    "seed": int,
    "n": int,
    "refused": int,
    "clean_accuracy": (int, float),
    "robust_accuracy": (int, float),
    "interval": list,
}


def read(folder: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Runs and their per-image verdicts from a release folder; two empty lists if there is no evidence yet.

    Raises:
        DataError: the files are damaged or written by a newer release.
    """
    path = Path(folder) / "robustness.json"
    return read_file(path) if path.is_file() else ([], [])


def read_file(path: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Runs of one record file, and their verdicts from the verdicts.npz beside it.

    Raises:
        DataError: the files are missing, damaged, or written by a newer release.
    """
    runs, path = read_runs(path), Path(path)
    try:
        arrays = read_arrays(path.with_name("verdicts.npz"))
        verdicts = [_table(arrays, run["verdicts"]) for run in runs]
        for run, table in zip(runs, verdicts, strict=True):
            if run.pop("verdicts") != _digest(table):
                raise ValueError("a table of verdicts is not the one that was written")
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return runs, verdicts


def read_runs(path: str | Path) -> list[dict[str, Any]]:
    """The runs of one record file, each with the key of its table in verdicts.npz under `verdicts`.

    Raises:
        DataError: the file is missing, damaged, or written by a newer release.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise DataError(f"{path}: schema {value['schema']} is not supported (this release reads {SCHEMA})")
        for run in value["runs"]:
            for name, kind in _FIELDS.items():
                if not isinstance(run[name], kind):
                    raise TypeError(f"{name} is {type(run[name]).__name__}")
            if not isinstance(run["subject"]["kind"], str) or not isinstance(run["dataset"]["name"], str):
                raise TypeError("subject and dataset need their names")
            if not isinstance(run["subject"].get("file"), str | None):
                raise TypeError(f"the subject's file is {run['subject']['file']!r:.60}")
            if not _numbers_fit(run):
                raise ValueError("a number is not finite, or larger than 64 bits hold")
            if not all(isinstance(bound, int | float) for bound in run["interval"]):
                raise TypeError(f"interval is {run['interval']!r:.60}")
            size = run["dataset"].get("image_size", [1, 1])
            if not isinstance(size, list) or [type(length) for length in size] != [int, int]:
                raise TypeError(f"image_size is {size!r}")
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    return value["runs"]


def _numbers_fit(value: Any) -> bool:
    """Whether all numbers anywhere in a record are finite and no larger than 64 bits hold."""
    if isinstance(value, dict | list):
        return all(map(_numbers_fit, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or abs(value) < 2**64  # as seeds are


def _damaged(path: str | Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged evidence ({error!r}); remove robustness.json and verdicts.npz")


def append(folder: str | Path, run: dict[str, Any], verdicts: dict[str, np.ndarray]) -> None:
    """Add a run to a folder's evidence; a run of the same subject, images, threat, protocol and seed is replaced.

    Whenever the process ends, the folder holds the old evidence or the new, never a mixture: each run names its
    table of verdicts by the table's digest, and tables leave verdicts.npz only after the runs that name them.
    """
    check(run, verdicts)
    with exclusive(folder):  # else two processes that add a run each could lose one's table
        _append(Path(folder), run, verdicts)


def _append(folder: Path, run: dict[str, Any], verdicts: dict[str, np.ndarray]) -> None:
    runs, tables = read(folder)
    same = ("subject", "source", "preprocessing", "dataset", "norm", "eps", "protocol", "seed", "n")
    plain = json.loads(json.dumps(run))  # tuples become the lists that JSON gives back
    kept = [i for i, old in enumerate(runs) if any(old.get(key) != plain.get(key) for key in same)]
    new = [(runs[i], _digest(tables[i])) for i in kept] + [(run, _digest(verdicts))]
    stored = {_digest(table): table for table in (*tables, verdicts)}
    _write_tables(folder, stored)
    record = {"schema": SCHEMA, "runs": [{**each, "verdicts": digest} for each, digest in new]}
    write_json(Path(folder) / "robustness.json", record)
    if len(kept) < len(runs):
        _write_tables(folder, {digest: stored[digest] for _, digest in new})


def _write_tables(folder: str | Path, tables: dict[str, dict[str, np.ndarray]]) -> None:
    arrays: dict[str, Any] = {}
    for digest, table in tables.items():
        images = _digest(table, OF_THE_IMAGES)
        arrays[f"{digest}.images"] = np.array(images)
        for key in PER_IMAGE:
            arrays[f"{images if key in OF_THE_IMAGES else digest}.{key}"] = table[key]
    with atomic_path(Path(folder) / "verdicts.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def _table(arrays: dict[str, np.ndarray], digest: str) -> dict[str, np.ndarray]:
    """The table of this digest; files written before images were shared hold all of it under the digest."""
    images = str(arrays.get(f"{digest}.images", digest))
    return {key: arrays[f"{images if key in OF_THE_IMAGES else digest}.{key}"] for key in PER_IMAGE}


def _digest(table: dict[str, np.ndarray], keys: Sequence[str] = PER_IMAGE) -> str:
    """The first 16 digits of the SHA-256 of a table of verdicts, or of some columns of it."""
    digest = hashlib.sha256()
    for key in keys:
        array = np.ascontiguousarray(table[key])
        digest.update(f"{key}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def limit(n: int) -> int:
    """How many of n images may be broken although they were claimed robust: max(1, 0.5 % of n)."""
    return max(1, n // 200)


def standing(verdicts: dict[str, np.ndarray]) -> np.ndarray:
    """Which images are classified correctly and broken by nothing, (N,); those without a verdict are not."""
    correct, refused = verdicts["clean_correct"].astype(bool), verdicts["refused"].astype(bool)
    return correct & (verdicts["broken_by"] == "") & ~refused


def check(run: dict[str, Any], verdicts: dict[str, np.ndarray]) -> None:
    """Per-image records must add up to the stated numbers.

    Raises:
        CheckFailedError: they do not.
    """
    n, lengths = run["n"], {len(verdicts[key]) for key in PER_IMAGE}
    if lengths != {n} or n < 1:
        raise CheckFailedError(f"evidence does not add up: n is stated as {n}, there are {max(lengths)} records")
    correct, refused = verdicts["clean_correct"].astype(bool), verdicts["refused"].astype(bool)
    robust = int(standing(verdicts).sum())
    low, high = clopper_pearson(robust, n)
    recorded = {
        "clean_accuracy": ([run["clean_accuracy"]], [correct.sum() / n]),
        "robust_accuracy": ([run["robust_accuracy"]], [robust / n]),
        "interval": (run["interval"], [low, high]),
        "refused": ([run["refused"]], [refused.sum()]),
    }
    for name, (stated, found) in recorded.items():
        if len(stated) != len(found) or any(not abs(a - b) <= 1e-9 for a, b in zip(stated, found, strict=True)):
            said, true = (", ".join(f"{value:.6g}" for value in values) for values in (stated, found))
            raise CheckFailedError(f"evidence does not add up: {name} is stated as {said}, its {n} records give {true}")
    _check_attacks(run, verdicts["broken_by"], int(correct.sum()))


def _check_attacks(run: dict[str, Any], broken_by: np.ndarray, correct: int) -> None:
    """What each attack is stated to break; an image has one entry, that of the first attack to break it."""
    try:
        stated = {str(name): int(totals["broken"]) for name, totals in (run.get("attacks") or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckFailedError(f"evidence does not add up: attacks do not say what they broke ({error!r})") from error
    every = run["protocol"] in EVERY_IMAGE
    for name, count in stated.items():
        found = int((broken_by == name).sum())
        if not (found <= count <= correct if every else found == count):
            raise CheckFailedError(
                f"evidence does not add up: {name} is stated to break {count} images, its {run['n']} records say "
                f"{'at least ' if every else ''}{found}"
            )


def base_name(dataset: dict[str, Any]) -> str | None:
    """What the data set of a record is called at its own size; None if the record does not say."""
    name, size = dataset.get("name"), dataset.get("image_size")
    return name.removesuffix(f"@{data.spelled(tuple(size))}") if name and size else name


def data_source(dataset: dict[str, Any]) -> str | None:
    """The data set of a record as `--data` takes it; of a file or folder the name, since nothing says where it lies."""
    name = base_name(dataset)
    if dataset.get("kind") == "folder":
        return f"./{name}" if name in data.DATASETS else name
    return name if name is None or (name in data.DATASETS and dataset.get("kind") is None) else f"{name}.npz"


def accuracy_under(run: dict[str, Any], attack: str) -> float:
    """Fraction of images classified correctly and not broken by one attack.

    Under the protocols EVERY_IMAGE that is this attack by itself; under the others, whose attacks only see what is
    left, it and those before.
    """
    broken = 0
    for name, totals in run["attacks"].items():
        if name == attack or run["protocol"] not in EVERY_IMAGE:
            broken += totals["broken"]
        if name == attack:
            break
    return (round(run["clean_accuracy"] * run["n"]) - broken) / run["n"]


def rank(run: dict[str, Any]) -> tuple[int, int]:
    """Order of runs by the strength of their protocol, then by their number of images."""
    return STRENGTH.get(run["protocol"], -1), run["n"]


def strongest(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each subject, data set and threat model the run with the strongest protocol, then the most images."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        key = (run["subject"]["kind"], run["dataset"]["name"], run["norm"], run["eps"])
        if key not in best or rank(run) > rank(best[key]):
            best[key] = run
    return list(best.values())
