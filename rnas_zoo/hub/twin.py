"""The clean twin of a release: the same network with standard training, whose numbers stand beside it on the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..engine.config import read_toml
from ..errors import UsageError
from ..files import write_json
from ..models.weights import bundled_releases, declared_digest
from ..verification import evidence

TWIN = "twin.json"
ROBUST = ("norm", "eps", "protocol", "n", "robust_accuracy", "interval")


def is_twin(config: dict[str, Any], other: Path) -> bool:
    """Whether the release folder `other` holds the network of `config` (a config.json), from standard training."""
    found = json.loads((other / "config.json").read_text(encoding="utf-8"))
    same = all(found.get(key) == config.get(key) for key in ("architecture", "num_classes"))
    same = same and _arguments(found) == _arguments(config)
    same = same and found["rnas_zoo"]["dataset"] == config["rnas_zoo"]["dataset"]
    same = same and found["pretrained_cfg"]["input_size"] == config["pretrained_cfg"]["input_size"]
    return bool(same) and read_toml(other / "recipe.toml")["objective"] == "clean"


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a network; of its genotype what is built, not its name and origin."""
    arguments = dict(config.get("model_args") or {})
    own = arguments.get("genotype")
    if isinstance(own, dict):
        dropped = ("name", "default", "check", "provenance")
        arguments["genotype"] = {key: value for key, value in own.items() if key not in dropped}
    return arguments


def find(folder: str | Path) -> Path | None:
    """The clean twin of a release folder among the bundled releases; none for one that is clean itself."""
    folder = Path(folder)
    if read_toml(folder / "recipe.toml")["objective"] == "clean":
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return next((other for other in bundled_releases().values() if is_twin(config, other)), None)


def attach(folder: str | Path, other: str | Path) -> None:
    """Write what the card shows of the clean twin `other` into `folder`/twin.json: its name, the digest of its weights,
    its clean accuracy, its strongest run for each threat model, and its curve.

    Raises:
        UsageError: `other` holds another network, or one that was not trained cleanly.
    """
    folder, other = Path(folder), Path(other)
    if not (other / "config.json").is_file():
        raise UsageError(f"{other} is not a release folder: it has no config.json")
    if not is_twin(json.loads((folder / "config.json").read_text(encoding="utf-8")), other):
        raise UsageError(
            f"{other} is no clean twin of {folder}: it must be the same network, data and standard training"
        )
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    runs = [run for run in evidence.read(other)[0] if run["subject"]["kind"] == "torch"]
    if not runs:
        raise UsageError(f"{other} has no evidence: run `rnas-zoo verify {other} --data ... --save` first")
    widest = max(runs, key=lambda run: run["n"])
    value: dict[str, Any] = {
        "name": config["rnas_zoo"]["name"],
        "weights": declared_digest(config["pretrained_cfg"]),
        "n": widest["n"],
        "clean_accuracy": widest["clean_accuracy"],
        "robust": [{key: run[key] for key in ROBUST} for run in evidence.strongest(runs)],
        "curve": None,
    }
    if (other / "limits.json").is_file():
        described = json.loads((other / "limits.json").read_text(encoding="utf-8"))["curve"]
        points = json.loads((other / "figures" / "curve.json").read_text(encoding="utf-8"))
        value["curve"] = {**described, "points": next(iter(points.values()))}
    write_json(folder / TWIN, value)
