"""What a study leaves to be read: a table of its candidates and three pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import intervals
from ..drawing.genotypes import draw_genotype
from ..drawing.searches import Point, draw_alphas, draw_pareto
from ..files import write_text
from ..genotype import PRIMITIVES, Channels, Genotype
from .channel_supernet import WIDTHS
from .config import SearchConfig


def write(folder: Path, winner: Genotype, told: Mapping[str, Any], alphas: Path, config: SearchConfig) -> None:
    """Write `report.md`, `cells.svg`, `pareto.svg` and, if α was recorded, `alphas.svg`.

    Args:
        told: the study as the winner's provenance has it.
        alphas: softmax(α) of the winner's search, as `searching.run` records it.
        config: of the winner's search.
    """
    pictures = {"The chosen architecture": draw_genotype(winner, folder / "cells.svg")}
    if alphas.is_file():
        with np.load(alphas) as history:
            title = f"softmax(α) during the search {told['chosen']}"
            picture = draw_alphas(dict(history), folder / "alphas.svg", title=title, choices=choices(winner, config))
        pictures["Its architecture parameters during the search"] = picture
    points = [
        Point(row["name"], row["method"], row["macs"] / 1e6, row["pgd"], interval(row)) for row in told["candidates"]
    ]
    picture = draw_pareto(points, folder / "pareto.svg", title="Candidates: robustness against cost")
    pictures["All candidates; the line joins those that no other beats at both"] = picture
    write_text(folder / "report.md", text(winner, told, {name: path.name for name, path in pictures.items()}))


def choices(winner: Genotype, config: SearchConfig) -> dict[str, Sequence[str]]:
    """Names of what α decides between, by the names α has in `alphas.npz`."""
    if isinstance(winner.structure, Channels):
        return {f"stage{i}": [f"{width} channels" for width in widths] for i, widths in enumerate(WIDTHS)}
    operations = [name for name in PRIMITIVES if config.none or name != "none"]
    return dict.fromkeys(("normal", "reduce", "accurate", "robust"), operations)


def interval(row: Mapping[str, Any]) -> intervals.Interval:
    """95 % interval of a candidate's accuracy under PGD, over images (Clopper-Pearson)."""
    return intervals.clopper_pearson(round(row["pgd"] * row["images"]), row["images"])


def text(winner: Genotype, told: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The report, in Markdown; candidates from the best to the worst."""
    proxy, rows = told["proxy"], sorted(told["candidates"], key=lambda row: (-row["pgd"], -row["clean"]))
    lines = [
        f"# {winner.name}: the best of {len(rows)} searches on {winner.provenance['dataset']}",
        "",
        f"Every network was trained for {proxy['total_steps']:,} steps of {proxy['batch_size']} images "
        f"({proxy['objective']}, {proxy['attack_steps']} attack steps, {proxy['norm']} {proxy['eps']}) and measured on "
        f"{rows[0]['images']:,} images that neither searches nor trainings saw. Short trainings rank; they are no "
        "robust accuracy to quote.",
        "",
        "| search | seed | parameters | MACs | clean | PGD-10 | 95 % interval | search passes | proxy passes | seconds "
        "|",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        low, high = interval(row)
        name = f"**{row['method']}**" if row["name"] == told["chosen"] else row["method"]
        lines.append(
            f"| {name} | {row['seed']} | {row['params']:,} | {row['macs']:,} | {100 * row['clean']:.1f} % | "
            f"{100 * row['pgd']:.1f} % | {100 * low:.1f} to {100 * high:.1f} % | {row['search']['image_passes']:,} | "
            f"{row['passes']:,} | {row['seconds'] + row['search']['seconds']:.0f} |"
        )
    chosen = next(row for row in rows if row["name"] == told["chosen"])
    level = [row["name"] for row in rows if interval(row)[1] >= interval(chosen)[0] and row is not chosen]
    if level:
        lines += ["", f"Not told apart from the best by these images: {', '.join(level)}."]
    warnings = [f"* {row['name']}: {warning}" for row in rows for warning in row["warnings"]]
    lines += ["", "## Warnings", "", *warnings] if warnings else []
    lines += [
        "",
        f"Together {told['image_passes']:,} forward and backward image passes and {told['seconds']:.0f} seconds.",
        "",
    ]
    for caption, file in pictures.items():
        lines += [f"## {caption}", "", f"![{caption}]({file})", ""]
    return "\n".join(lines)
