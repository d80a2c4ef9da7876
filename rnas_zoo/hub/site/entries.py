"""What the zoo page says of each release: read from its folder, whose files must be what they say."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import genotype, resources
from ...attacks.threat import parse_eps
from ...errors import CheckFailedError, DataError, UsageError
from ...verification import evidence
from ...verification.folder_check import check_files
from .. import results
from ..sections import read as read_part
from ..sections import threat_name

BY_HAND = "designed by hand"
SIZES = ("L∞ 2/255", "L∞ 4/255", "L∞ 8/255")  # threat models with a column of their own
RUNTIME, BATCH = "onnxruntime", "1"  # the latency shown: the float32 file, one image


@dataclass(frozen=True)
class Measured:
    """A robust accuracy in 0..1, its 95 % interval, on how many images and by which protocol it was measured."""

    accuracy: float
    interval: tuple[float, float]
    n: int
    protocol: str

    @property
    def strength(self) -> int:
        """Higher for a stronger protocol."""
        return evidence.STRENGTH[self.protocol]

    @property
    def weak(self) -> bool:
        """Whether the protocol is weaker than `standard`."""
        return self.strength < evidence.STRENGTH["standard"]


@dataclass(frozen=True)
class Latency:
    """Median milliseconds for one image with the float32 ONNX file, and on what."""

    milliseconds: float
    machine: str


@dataclass(frozen=True)
class Entry:
    """One release.

    Attributes:
        result: its row in the table of results.
        method: the search that found the architecture; empty for one designed by hand.
        status: where the architecture comes from; see `genotype.STATUSES` and BY_HAND.
        robust: under the threat model it was trained against (or else measured), None if nobody has attacked it.
        attacked: the strongest run on its weights for every threat model, by name (`L∞ 8/255`).
    """

    folder: Path
    result: results.Result
    method: str
    status: str
    robust: Measured | None
    attacked: Mapping[str, Measured]
    latency: Latency | None

    def values(self) -> dict[str, Any]:
        """What the table sorts and filters by, as JSON values: accuracies in 0..1, latency in milliseconds."""
        found, robust = self.result, self.robust
        words = (found.name, found.dataset, found.threat, found.training, self.method, self.status)
        return {
            "name": found.name,
            "dataset": found.dataset,
            "threat": found.threat,
            "robust": robust.accuracy if robust else None,
            "n": robust.n if robust else None,
            "clean": found.clean["clean_accuracy"],
            **{size: self.attacked[size].accuracy if size in self.attacked else None for size in SIZES},
            "parameters": found.parameters,
            "macs": found.macs,
            "latency": self.latency.milliseconds if self.latency else None,
            "method": self.method or None,
            "status": self.status,
            "protocol": robust.protocol if robust else None,
            "strength": robust.strength if robust else -1,
            "words": " ".join(words).lower(),
        }


def collect(cards: str | Path | None = None, latency: str | Path | None = None) -> list[Entry]:
    """Every release of a folder, the best of the largest group of comparable ones first.

    Args:
        cards: a folder of release folders, or one release folder; the bundled ones by default.
        latency: the JSON of `rnas-zoo bench`; without it, what the release folders say.

    Raises:
        UsageError: there is no release folder.
        CheckFailedError: a folder's files are not what they say (see `check_files`).
        DataError: a folder without evidence on its weights, a damaged one, or no report with a latency of any of them.
    """
    root = Path(cards) if cards is not None else resources.folder("model_cards")
    folders = [root] if (root / "config.json").is_file() else sorted(p.parent for p in root.glob("*/config.json"))
    if not folders:
        raise UsageError(f"{root} holds no release folders; `rnas-zoo package RUN -o {root}/NAME` makes one")
    times = read_latencies(latency) if latency is not None else None
    entries = [read(folder, times) for folder in folders]
    if times is not None and not any(entry.latency for entry in entries):
        raise DataError(f"{latency} has no {RUNTIME} run of {', '.join(entry.result.name for entry in entries)}")
    return in_order(entries)


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """By data set and threat model, those with most releases first; then by robust accuracy."""
    datasets = Counter(entry.result.dataset for entry in entries)
    groups = Counter((entry.result.dataset, entry.result.threat) for entry in entries)

    def key(entry: Entry) -> tuple[Any, ...]:
        found = entry.result
        best = entry.robust.accuracy if entry.robust else -1.0
        many = -groups[found.dataset, found.threat]
        return -datasets[found.dataset], found.dataset, many, found.threat, -best, found.name, entry.folder.name

    return sorted(entries, key=key)


def read(folder: str | Path, times: Mapping[str, Latency] | None = None) -> Entry:
    """One release; its latency from `times` by name, or from its own export.json if that is None.

    Raises:
        CheckFailedError, DataError: see `collect`.
    """
    folder = Path(folder)
    if problems := check_files(folder):
        raise CheckFailedError(f"{folder} is not shown: {'; '.join(problems)}. Package the model again")
    try:
        found = results.read(folder)
        strongest = found.strongest or found.pgd20
        own = genotype.load(folder / "genotype.json") if (folder / "genotype.json").is_file() else None
        return Entry(
            folder=Path(os.path.abspath(folder)),
            result=found,
            method=str(own.provenance.get("method", "")) if own else "",
            status=str(own.provenance.get("status", "ours")) if own else BY_HAND,
            robust=_measured(strongest) if strongest else None,
            attacked=_attacked(found.runs, found.clean["dataset"]["name"]),
            latency=_own_latency(folder) if times is None else times.get(found.name) or times.get(folder.name),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{folder} is damaged ({error!r}); package the model again") from error


def _measured(run: Mapping[str, Any]) -> Measured:
    low, high = run["interval"]
    return Measured(run["robust_accuracy"], (low, high), run["n"], run["protocol"])


def _attacked(runs: Iterable[dict[str, Any]], dataset: str) -> dict[str, Measured]:
    best: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["dataset"]["name"] != dataset or evidence.rank(run)[0] < 0:
            continue
        name = threat_name(run)
        if name not in best or evidence.rank(run) > evidence.rank(best[name]):
            best[name] = run
    return {name: _measured(best[name]) for name in sorted(best, key=threat_order)}


def threat_order(name: str) -> tuple[str, float]:
    """A key that sorts `L∞ 8/255` by norm, then size."""
    norm, _, eps = name.partition(" ")
    return norm, parse_eps(eps)


def read_latencies(path: str | Path) -> dict[str, Latency]:
    """From the JSON of `rnas-zoo bench`: model name → its latency with the float32 ONNX file; untrained ones left out.

    Raises:
        DataError: the file is not such a report.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        machine = _threads(report["threads"]) if report["device"] == "cpu" else str(report["device"]).upper()
        return {
            model["model"]: Latency(1000 * float(run["latency"][BATCH]["p50"]), machine)
            for model in report["models"]
            if not model["untrained"]
            for run in model["runs"]
            if run["runtime"] == RUNTIME and run["latency"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no report of `rnas-zoo bench REF... --json` ({error!r})") from error


def _own_latency(folder: Path) -> Latency | None:
    """What export.json says: the float32 file is timed beside the int8 file when one is made."""
    measured = ((read_part(folder, "export.json") or {}).get("int8") or {}).get("latency")
    if not measured:
        return None
    return Latency(1000 * float(measured["float32"][BATCH]["p50"]), _threads(measured["threads"]))


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' if count > 1 else ''}"
