"""What a release folder says of itself: the rows of the tables of results, from evidence alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import resources
from ..attacks import Threat
from ..attacks.threat import parse_eps
from ..engine.config import read_toml
from ..errors import DataError
from ..models.size import count_macs, count_parameters
from ..reference import load
from ..training.objectives import SINGLE_STEP
from ..verification import evidence
from .sections import TRAINING, percent, threat_name, training_time
from .sections import read as read_part

ADAPTIVE = ("full", "standard", "fast")
HEADER = (
    "model",
    "parameters",
    "MACs",
    "training",
    "threat",
    "clean",
    "PGD-20",
    "images",
    "AutoAttack",
    "95 % interval",
    "images",
    "training time",
)


@dataclass(frozen=True)
class Result:
    """One release: what is known of it from its folder.

    Attributes:
        training: objective and its number of attack steps.
        threat: the one trained against, or else the one measured.
        clean, pgd20: the runs with the most images that tell them, None if there is none.
        strongest: the strongest run with an adaptive protocol (`full`, `standard` or `fast`), None if there is none.
        cost: training time and machine, empty if the release does not say.
        sizes: the strongest adaptive run for each ε of the threat's norm, by increasing ε.
        runs: every run on the weights.
    """

    name: str
    dataset: str
    parameters: int
    macs: int
    training: str
    threat: str
    clean: dict[str, Any]
    pgd20: dict[str, Any] | None
    strongest: dict[str, Any] | None
    cost: str
    sizes: dict[str, dict[str, Any]]
    runs: tuple[dict[str, Any], ...]

    @property
    def norm(self) -> str:
        """`L∞` or `L2`."""
        return self.threat.split()[0]

    def cells(self) -> list[str]:
        """The row of the table; see HEADER."""
        strong = self.strongest
        return [
            f"`{self.name}`",
            f"{self.parameters:,}",
            f"{self.macs / 1e6:,.1f} M",
            self.training,
            self.threat,
            percent(self.clean["clean_accuracy"]),
            percent(evidence.accuracy_under(self.pgd20, "pgd20")) if self.pgd20 else "–",
            f"{self.pgd20['n']:,}" if self.pgd20 else "–",
            _robust(strong) if strong else "–",
            _interval(strong) if strong else "–",
            f"{strong['n']:,}" if strong else "–",
            self.cost or "–",
        ]

    def sizes_cells(self, sizes: Sequence[str]) -> list[str]:
        """The row of the table of perturbation sizes: model, what it was trained for, clean, one cell for each size."""
        trained = "no attacks" if self.training == "clean" else self.threat
        found = [self.sizes.get(eps) for eps in sizes]
        robust = [f"{_robust(run)}, {_interval(run)}" if run else "–" for run in found]
        return [f"`{self.name}`", trained, percent(self.clean["clean_accuracy"]), *robust]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values, accuracies in 0..1."""
        strong, pgd20 = self.strongest, self.pgd20
        return {
            "model": self.name,
            "dataset": self.dataset,
            "parameters": self.parameters,
            "macs": self.macs,
            "training": self.training,
            "threat": self.threat,
            "clean": {"accuracy": self.clean["clean_accuracy"], "n": self.clean["n"]},
            "pgd20": {"accuracy": evidence.accuracy_under(pgd20, "pgd20"), "n": pgd20["n"]} if pgd20 else None,
            "adaptive": {key: strong[key] for key in ("protocol", "robust_accuracy", "interval", "n")}
            if strong
            else None,
            "sizes": {
                eps: {key: run[key] for key in ("protocol", "robust_accuracy", "interval", "n")}
                for eps, run in self.sizes.items()
            },
            "cost": self.cost or None,
        }


def read(folder: str | Path) -> Result:
    """What a release folder says of itself.

    Raises:
        DataError: it has no evidence on its torch weights, or damaged evidence.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    runs = [run for run in evidence.read(folder)[0] if run["subject"]["kind"] == "torch"]
    if not runs:
        raise DataError(f"{folder} has no evidence on its weights: `rnas-zoo verify {folder} --data ... --save`")
    recipe, network = read_toml(folder / "recipe.toml"), load(folder)
    own = (recipe["norm"], Threat(recipe["norm"], recipe["eps"]).eps_text)
    mine = [run for run in runs if (run["norm"], run["eps"]) == own]
    if not mine:
        mine = [run for run in runs if (run["norm"], run["eps"]) == (runs[0]["norm"], runs[0]["eps"])]
    training = read_part(folder, TRAINING)
    return Result(
        name=config["rnas_zoo"]["name"],
        dataset=config["rnas_zoo"]["dataset"],
        parameters=count_parameters(network),
        macs=count_macs(network, tuple(config["pretrained_cfg"]["input_size"])),
        training=describe(recipe),
        threat=threat_name(mine[0]),
        clean=max(mine, key=lambda run: run["n"]),
        pgd20=max((run for run in mine if run["protocol"] == "quick"), key=lambda run: run["n"], default=None),
        strongest=max((run for run in mine if run["protocol"] in ADAPTIVE), key=evidence.rank, default=None),
        sizes=_by_size(run for run in runs if run["norm"] == mine[0]["norm"]),
        cost=training_time(training) if training else "",
        runs=tuple(runs),
    )


def _by_size(runs: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    adaptive = [run for run in runs if run["protocol"] in ADAPTIVE]
    sizes = sorted({run["eps"] for run in adaptive}, key=parse_eps)
    return {eps: max((run for run in adaptive if run["eps"] == eps), key=evidence.rank) for eps in sizes}


def _robust(run: dict[str, Any]) -> str:
    mark = "" if run["protocol"] == "standard" else f" (`{run['protocol']}`)"
    return f"{percent(run['robust_accuracy'])}{mark}"


def _interval(run: dict[str, Any]) -> str:
    return f"{percent(run['interval'][0])} to {percent(run['interval'][1])}"


def describe(recipe: dict[str, Any]) -> str:
    """The training objective, with attack steps and teacher where it has them."""
    steps = f"-{recipe['attack_steps']}" if recipe["objective"] == "pgd" else ""
    if recipe["objective"] in SINGLE_STEP and recipe.get("multi_step_from", 1.0) < 1:
        steps = f", then pgd-{recipe['attack_steps']}"
    teacher = f", teacher `{recipe['teacher']}`" if recipe.get("teacher") else ""
    return f"{recipe['objective']}{steps}{teacher}"


def collect() -> list[Result]:
    """The bundled releases, by data set, then size."""
    found = [read(config.parent) for config in resources.folder("model_cards").glob("*/config.json")]
    return sorted(found, key=lambda result: (result.dataset, result.parameters, result.name))
