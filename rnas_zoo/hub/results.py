"""The table of results: written from the release folders' own evidence, never by hand.

`python -m rnas_zoo.hub.results docs/results.md README.md` writes the document, and the table between the markers of
every further file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import resources
from ..attacks import Threat
from ..attacks.threat import parse_eps
from ..engine.config import read_toml
from ..errors import DataError, UsageError
from ..files import write_text
from ..models.size import count_macs, count_parameters
from ..reference import load
from ..training.objectives import SINGLE_STEP
from ..verification import evidence
from .sections import TRAINING, percent, threat_name, training_time
from .sections import read as read_part

BEGIN, END = "<!-- results -->", "<!-- /results -->"
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
EXPLANATION = """PGD-20 and AutoAttack (protocol `standard`; the cell names any other) are upper bounds of robust
accuracy on the first test images in official order; the interval is the exact 95 % one. A dash: not measured.
"""
SIZES_EXPLANATION = """Robust accuracy on the first test images under perturbations of several sizes, by `standard` or
by the protocol that the cell names, and its exact 95 % interval.
"""
TITLE = """# Results

Written by `make results` from the evidence in `model_cards/` and from `docs/papers.json`; not edited by hand.
"""
PAPERS_TITLE = """## Reported by the papers

For the same architectures. Reported by the paper, its protocol, not measured by us: training, attacks and numbers of
images differ from ours and among the papers. Accuracies in %.
"""
COLUMNS = {
    "parameters_millions": "million parameters",
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "mi_fgsm": "MI-FGSM",
    "cw": "C&W",
    "aa": "AutoAttack",
}


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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(results: Sequence[Result]) -> str:
    """One table per data set, and what its columns mean."""
    parts = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        rows = [result.cells() for result in results if result.dataset == dataset]
        parts.append(f"### {dataset}\n\n{markdown_table(HEADER, rows)}\n")
    if not parts:
        return "No release is bundled yet.\n"
    return "\n".join([*parts, EXPLANATION, *_sizes_tables(results)])


def _sizes_tables(results: Sequence[Result]) -> list[str]:
    """One table for each data set and norm with releases measured at several sizes."""
    several = [result for result in results if len(result.sizes) > 1]
    parts = []
    for dataset, norm in dict.fromkeys((result.dataset, result.norm) for result in several):
        mine = [result for result in several if (result.dataset, result.norm) == (dataset, norm)]
        sizes = sorted({eps for result in mine for eps in result.sizes}, key=parse_eps)
        header = ["model", "trained for", "clean", *(f"{norm} {eps}" for eps in sizes)]
        rows = [result.sizes_cells(sizes) for result in mine]
        parts.append(f"#### What robustness costs: {dataset}\n\n{markdown_table(header, rows)}\n")
    return [*parts, SIZES_EXPLANATION] if parts else []


def reported(path: Path | None = None) -> str:
    """The papers' own figures, from papers.json.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = path or resources.folder("docs") / "papers.json"
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))["tables"]
        return "\n".join([PAPERS_TITLE, *map(_paper, tables)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable file of the papers' figures ({error!r})") from error


def _paper(table: dict[str, Any]) -> str:
    columns = [key for key in COLUMNS if any(row.get(key) is not None for row in table["rows"])]
    rows = [
        [f"`{row['architecture']}`", row["called"], *(_number(row.get(key)) for key in columns), row.get("note", "")]
        for row in table["rows"]
    ]
    header = ["architecture", "called there", *(COLUMNS[key] for key in columns), "note"]
    text = f"### {table['dataset']}: {table['paper']}\n\nSource: {table['source']}. Protocol: {table['protocol']}.\n\n"
    return text + markdown_table(header, rows) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def document() -> str:
    """The whole of docs/results.md."""
    return f"{TITLE}\n## Measured\n\n{measured(collect())}\n{reported()}"


def block() -> str:
    """What stands between the markers."""
    return f"{BEGIN}\n\n{measured(collect())}\n{END}"


def with_block(text: str, new: str, name: str) -> str:
    """A text whose part from the first marker to the last one is `new`.

    Raises:
        UsageError: the text `name` does not have both markers once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(f"{name} needs one {BEGIN} and after it one {END}; the table is written between them")
    before, _, rest = text.partition(BEGIN)
    return before + new + rest.partition(END)[2]


def main(arguments: Sequence[str]) -> None:
    """Write the document to the first path, and the block into every further file."""
    if not arguments:
        raise UsageError("needs the path of the document: python -m rnas_zoo.hub.results docs/results.md README.md")
    texts = {path: with_block(Path(path).read_text(encoding="utf-8"), block(), path) for path in arguments[1:]}
    write_text(arguments[0], document())
    for path, text in texts.items():
        write_text(path, text)


if __name__ == "__main__":
    main(sys.argv[1:])
