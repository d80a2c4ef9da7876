"""Evidence: one JSON record per run, one verdict per image, and the intervals they support."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckFailedError, DataError
from ..files import atomic_path, write_json

SCHEMA = 1
PER_IMAGE = ("position", "pixels_sha256", "clean_correct", "broken_by", "step", "margin", "norm", "refused")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a proportion."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def read(folder: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Runs and their per-image verdicts from a release folder; two empty lists if there is no evidence yet.

    Raises:
        DataError: the files are damaged or written by a newer release.
    """
    path = Path(folder) / "robustness.json"
    if not path.is_file():
        return [], []
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise DataError(f"{path}: schema {value['schema']} is not supported (this release reads {SCHEMA})")
        with np.load(path.with_name("verdicts.npz"), allow_pickle=False) as file:
            verdicts = [{key: file[f"{i}.{key}"] for key in PER_IMAGE} for i in range(len(value["runs"]))]
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged evidence ({error!r}); remove robustness.json and verdicts.npz") from error
    return value["runs"], verdicts


def append(folder: str | Path, run: dict[str, Any], verdicts: dict[str, np.ndarray]) -> None:
    """Add a run to a folder's evidence; a run of the same subject, images, threat and protocol is replaced."""
    runs, all_verdicts = read(folder)
    same = ("subject", "dataset", "norm", "eps", "protocol", "seed", "n")
    kept = [i for i, old in enumerate(runs) if any(old[key] != run[key] for key in same)]
    runs = [*(runs[i] for i in kept), run]
    all_verdicts = [*(all_verdicts[i] for i in kept), verdicts]
    check(run, verdicts)
    # Verdicts first: a JSON without its verdicts would be unreadable, verdicts without JSON are merely unused.
    with atomic_path(Path(folder) / "verdicts.npz") as temporary:
        arrays: dict[str, Any] = {f"{i}.{key}": table[key] for i, table in enumerate(all_verdicts) for key in PER_IMAGE}
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
    write_json(Path(folder) / "robustness.json", {"schema": SCHEMA, "runs": runs})


def check(run: dict[str, Any], verdicts: dict[str, np.ndarray]) -> None:
    """Per-image records must add up to the stated numbers.

    Raises:
        CheckFailedError: they do not.
    """
    n, lengths = run["n"], {len(verdicts[key]) for key in PER_IMAGE}
    if lengths != {n} or n < 1:
        raise CheckFailedError(f"evidence does not add up: n is stated as {n}, there are {max(lengths)} records")
    correct, refused = verdicts["clean_correct"].astype(bool), verdicts["refused"].astype(bool)
    robust = int((correct & (verdicts["broken_by"] == "") & ~refused).sum())
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


def accuracy_under(run: dict[str, Any], attack: str) -> float:
    """Fraction of images classified correctly and not broken by one attack.

    Under `quick` that is this attack alone; under protocols whose attacks only see what is left, it and those before.
    """
    broken = 0
    for name, totals in run["attacks"].items():
        if name == attack or run["protocol"] != "quick":
            broken += totals["broken"]
        if name == attack:
            break
    return (round(run["clean_accuracy"] * run["n"]) - broken) / run["n"]


def strongest(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each subject, data set and threat model the run with the strongest protocol, then the most images."""
    order = {"quick": 0, "fast": 1, "standard": 2, "full": 3}
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        key = (run["subject"]["kind"], run["dataset"]["name"], run["norm"], run["eps"])
        rank = (order.get(run["protocol"], -1), run["n"])
        if key not in best or rank > (order.get(best[key]["protocol"], -1), best[key]["n"]):
            best[key] = run
    return list(best.values())
