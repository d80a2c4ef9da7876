"""What a card shows beyond the evidence: accuracies by class, along the curve, and where the model is not robust."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_arrays
from ..attacks import Threat
from ..drawing import classes
from ..errors import DataError
from ..files import read_json
from ..intervals import clopper_pearson
from ..verification import evidence
from ..verification.limits import per_class
from .twin import TWIN

LIMITS, LABELS, TRAINING, CLASSES_FIGURE = "limits.json", "labels.npz", "training.json", "figures/classes.png"
NORM_NAMES = {"linf": "L∞", "l2": "L2"}
SHOWN_CLASSES = 20
CORRUPTION_NAMES = {"gaussian_noise": "Gaussian noise", "gaussian_blur": "Gaussian blur", "jpeg": "JPEG"}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float) -> str:
    """`81.2 %`."""
    return f"{100 * value:.1f} %"


def interval(successes: float, n: int) -> str:
    """The exact 95 % interval of an accuracy measured on n images, in words."""
    low, high = clopper_pearson(round(successes * n), n)
    return f"{percent(low)} to {percent(high)}"


def threat_name(run: dict[str, Any]) -> str:
    """`L∞ 8/255`."""
    return f"{NORM_NAMES[run['norm']]} {run['eps']}"


def images(run: dict[str, Any], table: Mapping[str, np.ndarray]) -> str:
    """Which images: the first n in official order, or how many of the first."""
    last = int(table["position"].max()) + 1
    return f"first {run['n']:,}" if last == run["n"] else f"{run['n']:,} of the first {last:,}"


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of the folder; None if it is not there.

    Raises:
        DataError: it is damaged.
    """
    try:
        value = read_json(folder / name)
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, found {type(value).__name__}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / name}: damaged ({error}); package the model again") from error
    return value


def change(row: dict[str, Any]) -> str:
    """What a row of limits.json did to the images, in words."""
    if row["kind"] == "clean":
        return "nothing (clean)"
    if row["kind"] == "attack":
        return f"{threat_name(row)} (protocol `{row['protocol']}`)"
    strength = next(iter(row["parameters"].items()))
    place = f"CIFAR-10-C severity {row['severity']}" if row["severity"] else "our choice"
    return f"{CORRUPTION_NAMES[row['corruption']]}, {strength[0]} {strength[1]:g} ({place})"


def limits_section(folder: Path) -> dict[str, Any] | None:
    """Rows (what was changed, accuracy, interval) and one sentence; None for releases without limits.json."""
    found = read(folder, LIMITS)
    if found is None:
        return None
    rows = found["rows"]
    clean = next(row for row in rows if row["kind"] == "clean")
    sentence = f"Clean accuracy is {percent(clean['accuracy'])}"
    for kind, words in (("attack", "under"), ("corruption", "without any adversary, under")):
        if mine := [row for row in rows if row["kind"] == kind]:
            worst = min(mine, key=lambda row: row["accuracy"])
            sentence += f"; {words} {change(worst)}, it is {percent(worst['accuracy'])}"
    sentence += "."
    return {
        "n": found["n"],
        "seed": found["seed"],
        "sentence": sentence,
        "rows": [(change(row), percent(row["accuracy"]), interval(row["accuracy"], row["n"])) for row in rows],
    }


def classes_section(folder: Path, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracy by class of the torch run the card shows first; None where labels or verdicts do not tell it.

    Of more than 20 classes, the 10 with the lowest and the 10 with the highest robust accuracy.
    """
    if not (folder / LABELS).is_file():
        return None
    try:
        arrays = read_arrays(folder / LABELS)
        labels, dataset = arrays["labels"], str(arrays["dataset"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / LABELS}: damaged ({error}); package the model again") from error
    mine = [run for run in runs if run["subject"]["kind"] == "torch" and run["dataset"]["name"] == dataset]
    if not mine:
        return None
    run = mine[0]
    known, tables = evidence.read(folder)
    table = tables[known.index(run)]
    if int(table["position"].max()) >= len(labels):
        return None
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["label_names"]
    rows = [(name, row) for name, row in zip(names, per_class(table, labels, len(names)), strict=True) if row["n"]]
    every = len(rows) <= SHOWN_CLASSES
    if not every:
        rows.sort(key=lambda row: row[1]["robust"])
        rows = rows[: SHOWN_CLASSES // 2] + rows[-SHOWN_CLASSES // 2 :]
    return {"run": run, "rows": rows, "every": every, "threat": threat_name(run), "images": images(run, table)}


def draw_classes(folder: Path, runs: list[dict[str, Any]]) -> None:
    """Write figures/classes.png of what `classes_section` says, if it says something."""
    found = classes_section(folder, runs)
    if not found:
        return
    run = found["run"]
    bars = [(name, row["clean"], row["robust"], tuple(row["interval"])) for name, row in found["rows"]]
    title = f"By class: {found['threat']}, protocol {run['protocol']}, {found['images'].replace(',', '')} images"
    classes.draw_classes(bars, folder / CLASSES_FIGURE, title=title)


def curve_section(folder: Path) -> dict[str, Any] | None:
    """The curve's points as numbers, the clean twin's beside them; None for releases without limits.json."""
    found = read(folder, LIMITS)
    if found is None or not (folder / "figures" / "curve.json").is_file():
        return None
    described, other = found["curve"], read(folder, TWIN)
    points = next(iter((read(folder, "figures/curve.json") or {}).values()))
    beside: dict[str, float] = {}
    twin = (other or {}).get("curve")
    if twin and all(twin[key] == described[key] for key in ("norm", "protocol", "n")):
        beside = _by_size(twin["norm"], twin["points"])
    name, n = other["name"] if other and beside else None, described["n"]
    sizes = _by_size(described["norm"], points)
    rows = [[size, percent(accuracy), interval(accuracy, n)] for size, accuracy in sizes.items()]
    if name:
        rows = [[*row, percent(beside[row[0]]) if row[0] in beside else "–"] for row in rows]
    header = [f"{NORM_NAMES[described['norm']]} ε", "accuracy", "95 % interval", *([f"`{name}`"] if name else [])]
    return {**described, "twin": name, "header": header, "rows": rows}


def _by_size(norm: str, points: Sequence[Sequence[float]]) -> dict[str, float]:
    return {Threat(norm, eps).eps_text: accuracy for eps, accuracy in points}


def twin_sentence(folder: Path) -> str:
    """One sentence on the clean twin, empty if there is none."""
    other = read(folder, TWIN)
    if not other:
        return ""
    return (
        f"The same architecture with standard training, `{other['name']}` (tensors `{str(other['weights'])[:12]}`), "
        f"has {percent(other['clean_accuracy'])} clean accuracy on the first {other['n']} images "
        f"(95 % interval {interval(other['clean_accuracy'], other['n'])})."
    )


def twin_clause(folder: Path, run: dict[str, Any]) -> str:
    """The clean twin's figures beside a run's, for the end of a sentence; empty if there is none.

    Its robust accuracy is that under the run's threat model; where protocol or images are others, they are named.
    """
    other = read(folder, TWIN)
    if not other:
        return ""
    clause = f"; its clean twin `{other['name']}`: {percent(other['clean_accuracy'])}"
    if other["n"] != run["n"]:
        clause += f" ({other['n']:,} images)"
    for found in other.get("robust", ()):
        if (found["norm"], found["eps"]) == (run["norm"], run["eps"]):
            said = "" if found["protocol"] == run["protocol"] else f"protocol `{found['protocol']}`"
            said += "" if found["n"] == run["n"] else f"{', ' if said else ''}{found['n']:,} images"
            return f"{clause} and {percent(found['robust_accuracy'])}{f' ({said})' if said else ''}"
    return clause


def describe_cost(folder: Path) -> str:
    """One sentence on what training cost, from training.json; empty where the release does not say."""
    found = read(folder, TRAINING)
    if not found:
        return ""
    passes = f", {found['image_passes']:,} forward and backward passes of images" if found["image_passes"] else ""
    busy = f" ({found['cpu_seconds'] / 60:.1f} CPU minutes)" if _on_cpu(found) else ""
    return f"That took {found['seconds'] / 60:.1f} minutes{busy} on {hardware(found)}{passes}."


def training_time(training: dict[str, Any]) -> str:
    """Minutes and machine of training.json: CPU minutes, which a pause does not change, where they were counted."""
    if _on_cpu(training):
        return f"{training['cpu_seconds'] / 60:,.1f} CPU min, {hardware(training)}"
    return f"{training['seconds'] / 60:,.1f} min, {hardware(training)}"


def _on_cpu(training: dict[str, Any]) -> bool:
    return training["device"] == "cpu" and bool(training.get("cpu_seconds"))


def hardware(training: dict[str, Any]) -> str:
    """The machine of training.json in words."""
    if training["device"] == "cpu":
        threads = training["threads"]
        device = f"a CPU ({threads} thread{'s' if threads > 1 else ''})" if threads else "a CPU"
    else:
        device = training["device"]
    return f"{training['processes']} × {device}" if training["processes"] > 1 else device


def int8_section(folder: Path, exported: dict[str, Any]) -> str:
    """What the card says of the int8 file, from export.json; empty if none was made."""
    report = exported.get("int8")
    if not report:
        return ""
    found = report["accuracy"]
    measured = (
        f"clean accuracy {percent(found['model']['clean'])} became {percent(found['int8']['clean'])}, robust accuracy "
        f"under {found['threat']} {percent(found['model']['robust'])} became {percent(found['int8']['robust'])} "
        f"(protocol `{found['protocol']}`, first {found['n']} test images)"
    )
    ratio = report["bytes"] / report["float_bytes"]
    if not report["kept"]:
        return f"An int8 file ({ratio:.2f} times the size) is not shipped: {measured}."
    times = report["latency"]
    slower = times["int8"]["1"]["p50"] / times["float32"]["1"]["p50"]
    if report["setting"]["in_float"] == "activations":
        what, attacked = "with its weights in 8 bits and everything else in float32", "through its own gradients"
    else:
        what, attacked = "in 8 bits", "through its rounding taken for the identity, through the network without it"
    return (
        f"`{report['file']}` is the same network {what}, {ratio:.2f} times the size of `{exported['file']}`, used "
        f"the same way; it took {slower:.1f} times the time at batch 1 where it was made ({times['threads']} CPU "
        f"thread{'s' if times['threads'] > 1 else ''}). With it {measured}. It is attacked {attacked}, and "
        "by Square, and an image counts as robust only if nothing breaks the int8 file itself."
    )
