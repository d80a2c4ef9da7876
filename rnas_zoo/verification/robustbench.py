"""RobustBench's model_info files: one JSON object per model, accuracies as percent text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..attacks.threat import parse_eps
from ..errors import DataError, UsageError, closest

FIELDS = (
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "eps",
    "clean_acc",
    "reported",
    "autoattack_acc",
    "external",
    "footnote",
    "unreliable",
)
FOLDERS = {"Linf": "linf", "L2": "l2"}


def model_info(run: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """An evidence record in RobustBench's form; fields nobody gave are None.

    `autoattack_acc` is filled by the protocol `standard` alone. Any other protocol fills `external`, which RobustBench
    keeps for accuracies measured otherwise and prefers; the footnote names the protocol. Flags make it `unreliable`.

    Args:
        extra: other fields: `link`, `name`, `authors`, `venue`, `architecture`, `additional_data`, `reported`, …

    Raises:
        UsageError: a field RobustBench does not have.
    """
    if unknown := sorted(extra.keys() - set(FIELDS)):
        raise UsageError(f"RobustBench has no field {unknown[0]!r}.{closest(unknown[0], list(FIELDS))}")
    low, high = run["interval"]
    field = "autoattack_acc" if run["protocol"] == "standard" else "external"
    info = {
        "dataset": run["dataset"]["name"],
        "eps": run["eps"],
        "clean_acc": f"{100 * run['clean_accuracy']:.2f}",
        field: f"{100 * run['robust_accuracy']:.2f}",
        "footnote": f"rnas_zoo {run['protocol']}, {run['norm']}, {run['n']} images, 95% interval {100 * low:.2f} to "
        f"{100 * high:.2f}.",
        "unreliable": bool(run.get("flags")),
        **extra,
    }
    # RobustBench prefers `external` wherever the key is there, so it appears only with a value.
    return {name: info.get(name) for name in FIELDS if name != "external" or info.get(name) is not None}


def read_info(value: Any, path: str | Path) -> dict[str, Any]:
    """The claim of a model_info object: the keys `Claim.runs` names for RobustBench.

    The robust accuracy is `external` where present, else `autoattack_acc`, as on the leaderboard. The file does not
    name its norm: the folder does (`Linf`, `L2`).

    Args:
        value: the parsed JSON.
        path: where it was read from.

    Raises:
        DataError: fields are missing or no accuracies.
    """
    if not isinstance(value, dict) or not {"external", "autoattack_acc"} & value.keys():
        raise DataError(
            f"{path} states no robust accuracy: expected a robustness.json (with `runs`) or a RobustBench model_info "
            "file (with `autoattack_acc` or `external`)"
        )
    robust = "external" if value.get("external") is not None else "autoattack_acc"
    eps = value.get("eps")
    if eps is not None:
        try:
            parse_eps(eps)
        except UsageError as error:
            raise DataError(f"{path}: {error}") from error
    clean, dataset = value.get("clean_acc"), value.get("dataset")
    return {
        "clean_accuracy": None if clean is None else _fraction(clean, path, "clean_acc"),
        "robust_accuracy": _fraction(value.get(robust), path, robust),
        "dataset": {"name": dataset if isinstance(dataset, str) else None},
        "norm": FOLDERS.get(Path(path).absolute().parent.name),
        "eps": None if eps is None else str(eps),
        "protocol": "standard" if robust == "autoattack_acc" else None,
    }


def _fraction(value: Any, path: str | Path, name: str) -> float:
    """A fraction from percent text, or from a number: `benchmark(to_disk=True)` writes fractions as JSON numbers."""
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value")
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {name} is {value!r:.60}; expected percent text such as '62.80'") from error
    share = number if not isinstance(value, str) and number <= 1 else number / 100
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise DataError(f"{path}: {name} is {value!r}; an accuracy lies between 0 and 100 percent")
    return share
