"""The page of results: written from the release folders' own evidence, never by hand.

`python -m rnas_zoo.hub.results_page docs/results.md README.md` writes the document, a picture beside it, and the tables
between the markers of every further file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import resources
from ..attacks.threat import parse_eps
from ..drawing.curves import draw_curve
from ..errors import DataError, UsageError
from ..files import write_text
from ..intervals import clopper_pearson
from .results import HEADER, Result, collect
from .sections import markdown_table

BEGIN, END = "<!-- results -->", "<!-- /results -->"
PICTURED = "rnas_cl_s3"
PICTURE = "figures/what_robustness_costs.svg"
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


def document(results: Sequence[Result]) -> str:
    """The whole of docs/results.md."""
    return f"{TITLE}\n## Measured\n\n{measured(results)}\n{reported()}"


def block(results: Sequence[Result]) -> str:
    """What stands between the markers."""
    return f"{BEGIN}\n\n{measured(results)}\n{END}"


def with_block(text: str, new: str, name: str) -> str:
    """A text whose part from the first marker to the last one is `new`.

    Raises:
        UsageError: the text `name` does not have both markers once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(f"{name} needs one {BEGIN} and after it one {END}; the table is written between them")
    before, _, rest = text.partition(BEGIN)
    return before + new + rest.partition(END)[2]


def costs(results: Sequence[Result]) -> dict[str, list[list[float]]]:
    """Accuracy against ε of PICTURED, one curve for each way it was trained.

    Returns:
        For each way (ε in units of 1/255, accuracy, the ends of its 95 % interval), by increasing ε; ε = 0 is clean.
    """
    curves = {}
    for result in results:
        if result.name.split(".")[0] == PICTURED and len(result.sizes) > 1:
            n = result.clean["n"]
            correct = round(result.clean["clean_accuracy"] * n)
            points = [[0.0, correct / n, *clopper_pearson(correct, n)]]
            for eps, run in result.sizes.items():
                points.append([255 * parse_eps(eps), run["robust_accuracy"], *run["interval"]])
            size = result.threat.split()[1]
            way = "trained without attacks" if result.training == "clean" else f"adversarially trained, ε = {size}"
            curves[way] = points
    return curves


def picture(path: str | Path, results: Sequence[Result]) -> Path:
    """Draw `costs`; the numbers stand in the file's description as JSON."""
    size = next(result.parameters for result in results if result.name.split(".")[0] == PICTURED)
    curves = costs(results)
    return draw_curve(
        curves,
        path,
        title=f"{PICTURED}, {size:,} parameters, on CIFAR-10",
        eps_label="L∞ perturbation ε of each pixel (of 255)",
        description=json.dumps(curves),
    )


def main(arguments: Sequence[str]) -> None:
    """Write the document to the first path, the picture beside it, and the block into every further file."""
    if not arguments:
        raise UsageError("the document has no path: python -m rnas_zoo.hub.results_page docs/results.md README.md")
    results = collect()
    texts = {path: with_block(Path(path).read_text(encoding="utf-8"), block(results), path) for path in arguments[1:]}
    write_text(arguments[0], document(results))
    picture(Path(arguments[0]).parent / PICTURE, results)
    for path, text in texts.items():
        write_text(path, text)


if __name__ == "__main__":
    main(sys.argv[1:])
