"""The index of the zoo's ONNX files: written from the files and the evidence beside them, never by hand.

`python -m rnas_zoo.hub.export_index export/index.json` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import resources
from ..attacks.threat import parse_eps
from ..deploy.runtime import Session
from ..engine.config import read_toml
from ..errors import DataError, UsageError
from ..files import sha256_file, write_json
from ..models.size import count_parameters
from ..reference import load
from ..verification import evidence
from .results import describe
from .sections import read as read_part

SCHEMA = 1
FOLDER = "model_cards"
ABOUT = (
    "Every ONNX file of the zoo, written by `make export`. Accuracies, in 0..1, were measured on the file named by its "
    "sha256: clean is null and robust is empty where nobody has yet. Robust accuracy is the share of the first n test "
    "images that no attack of the protocol broke, an upper bound that a stronger protocol lowers (quick is PGD-20, "
    "standard the AutoAttack ensemble, fast its cheap form); interval is its exact 95 % one."
)


def entry(path: str | Path) -> dict[str, Any]:
    """What the index says of one ONNX file of a release folder, as JSON values.

    Raises:
        DataError: the file lies in no release folder, or its evidence or configuration is damaged.
        SessionError: the file is no usable model.
    """
    path = Path(path)
    folder, digest = path.parent, sha256_file(path)
    config = read_part(folder, "config.json")
    if config is None:
        raise DataError(f"{path} lies in no release folder: there is no config.json beside it")
    session = Session(path, provider="cpu")
    mine = [run for run in evidence.read(folder)[0] if run["subject"]["sha256"] == digest]
    return {
        "path": f"{FOLDER}/{folder.name}/{path.name}",
        "bytes": path.stat().st_size,
        "sha256": digest,
        "model": config["rnas_zoo"]["name"],
        "dataset": config["rnas_zoo"]["dataset"],
        "training": describe(read_toml(folder / "recipe.toml")),
        "parameters": count_parameters(load(folder)),
        "precision": session.metadata.get("precision", "float32"),
        "input": {"name": session.input_name, "type": session.input_type.__name__, "shape": session.input_shape},
        "input_size": config["pretrained_cfg"]["input_size"],
        "output": session.metadata.get("output", "logits"),
        "labels": session.labels,
        "clean": _clean(mine),
        "robust": [_robust(run) for run in sorted(mine, key=_order)],
    }


def _clean(runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not runs:
        return None
    run = max(runs, key=lambda run: run["n"])
    return {"accuracy": run["clean_accuracy"], "dataset": run["dataset"]["name"], "n": run["n"]}


def _robust(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": run["robust_accuracy"],
        "interval": run["interval"],
        "norm": run["norm"],
        "eps": run["eps"],
        "protocol": run["protocol"],
        "dataset": run["dataset"]["name"],
        "n": run["n"],
        "kind": run["subject"]["kind"],
    }


def _order(run: dict[str, Any]) -> tuple[Any, ...]:
    strength, n = evidence.rank(run)
    return run["norm"], parse_eps(run["eps"]), run["dataset"]["name"], -strength, -n, run["subject"]["kind"]


def index(paths: Iterable[str | Path] | None = None) -> dict[str, Any]:
    """The whole index.

    Args:
        paths: ONNX files of release folders; by default every one of the bundled folders.
    """
    found = resources.folder(FOLDER).glob("*/*.onnx") if paths is None else map(Path, paths)
    return {"schema": SCHEMA, "about": ABOUT, "files": [entry(path) for path in sorted(found)]}


def main(arguments: Sequence[str]) -> None:
    """Write the index to the path given."""
    if len(arguments) != 1:
        raise UsageError("needs the path of the index: python -m rnas_zoo.hub.export_index export/index.json")
    write_json(arguments[0], index())


if __name__ == "__main__":
    main(sys.argv[1:])
