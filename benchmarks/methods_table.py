"""The table that `methods.py` writes: what is compared, in which order, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rnas_zoo import intervals

CONTROLS = ("random", "darts", "darts_clean")
METHODS = ("rnas_vuln", "rnas_noise", "arnas", "e2rnas", "rnas_cl", *CONTROLS)
GENOTYPES = ("darts_v2", "pc_darts", "vuln_h", "vuln_l", "arnas", "e2rnas", "racl", "advrush", "cl_s3")
TOLERANCE = 0.05  # of the multiply-accumulates of a network, around those wanted


def render(recipe: Mapping[str, Any], results: Sequence[Mapping[str, Any]], out: Path) -> str:
    """The text of the table's file."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["kind"], result["name"]), []).append(result)
    order = {name: i for i, name in enumerate((*METHODS, *GENOTYPES))}
    control = rows.get(("search", "random"), [])
    ranked = sorted(rows.items(), key=lambda row: (row[0][0] == "published", row[0][1] in CONTROLS,
                                                   order.get(row[0][1], len(order)), row[0][1]))  # fmt: skip
    smoke = any(result["device"].startswith("cpu") for result in results)
    images = sorted({result["proxy"]["images"] for result in results})
    lines = [
        f"# Search methods beside random search{': *smoke run, not a comparison*' if smoke else ''}",
        "",
        f"Every search spent about {recipe['passes']:,} image passes (forward and backward) on its supernet; all "
        f"networks are built at {recipe['target_macs']:,} multiply-accumulates per image ± {100 * TOLERANCE:.0f} %, "
        f"trained for about {recipe['proxy_passes']:,} image passes on PGD-{recipe['proxy_attack_steps']} images at "
        f"{recipe['norm']} {recipe['eps']} of `{recipe['data']}`, and measured on the same "
        f"{' or '.join(map(str, images))} training images, which neither searches nor trainings saw.",
        "",
        "| architecture | seeds | parameters | MACs | search passes | clean | PGD-10 | 95 % interval | minus random "
        "| |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]  # fmt: skip
    lines += [_row(kind, name, row, control, recipe["target_macs"]) for (kind, name), row in ranked]
    lines += [
        "",
        "Per cent; means over the seeds of the search; the training has one seed. Intervals are Student's "
        "t over seeds (differences: Welch) where there are at least two, which says nothing about other images; else "
        "binomial over images (Clopper-Pearson), which says nothing about other seeds. Differences of the latter are "
        "Zou and Donner's MOVER. Published architectures were searched elsewhere, with other budgets. Short trainings "
        "rank; none of these numbers is a robust accuracy to quote. (!): no depth and width come within the tolerance.",
        "",
    ]
    warnings = [f"* {r['name']}, seed {r['seed']}: {text}" for r in results for text in r["warnings"]]
    lines += ["Warnings of the searches:", "", *warnings, ""] if warnings else []
    lines += ["<!-- only cut down: needs hours -->", "```sh", command(recipe, rows, out), "```", ""]
    versions = sorted({", ".join(f"{name} {value}" for name, value in r["versions"].items()) for r in results})
    lines += [f"{'; '.join(versions)}; on {'; '.join(sorted({r['device'] for r in results}))}.", ""]
    return "\n".join(lines)


def _row(
    kind: str, name: str, row: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]], target: int
) -> str:
    mean = fmean(result["proxy"]["pgd"] for result in row)
    around, how = _interval(row)
    minus = verdict = ""
    if control and (kind, name) != ("search", "random"):
        low, high = _minus(row, control)
        difference = mean - fmean(result["proxy"]["pgd"] for result in control)
        minus = f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        verdict = "better than random here" if low > 0 else "worse than random here" if high < 0 else (
            "no better than random here")  # fmt: skip
    macs = [result["macs"] for result in row]
    off = " (!)" if any(abs(value / target - 1) > TOLERANCE for value in macs) else ""
    passes = f"{fmean(result['search']['image_passes'] for result in row):,.0f}" if kind == "search" else ""
    return (
        f"| {name if kind == 'search' else f'{name}, published'} | {len(row)} | "
        f"{_range([result['params'] for result in row])} | {_range(macs)}{off} | {passes} | "
        f"{100 * fmean(result['proxy']['clean'] for result in row):.1f} | {100 * mean:.1f} | "
        f"{100 * around[0]:.1f} to {100 * around[1]:.1f} ({how}) | {minus} | {verdict} |"
    )


def _range(values: Sequence[int]) -> str:
    texts = [f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value / 1e3:.1f} k" for value in (min(values), max(values))]
    return texts[0] if texts[0] == texts[1] else f"{texts[0].split()[0]} to {texts[1]}"


def _interval(row: Sequence[Mapping[str, Any]]) -> tuple[intervals.Interval, str]:
    values = [result["proxy"]["pgd"] for result in row]
    if len(values) > 1:
        low, high = intervals.of_mean(values)
        return (max(0.0, low), min(1.0, high)), "t"
    n = row[0]["proxy"]["images"]
    return intervals.clopper_pearson(round(values[0] * n), n), "binomial"


def _minus(row: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]]) -> intervals.Interval:
    first, second = ([result["proxy"]["pgd"] for result in part] for part in (row, control))
    if min(len(first), len(second)) > 1:
        return intervals.welch(first, second)
    return intervals.difference(fmean(first), _interval(row)[0], fmean(second), _interval(control)[0])


def command(recipe: Mapping[str, Any], rows: Mapping[tuple[str, str], Sequence[Any]], out: Path) -> str:
    """The command line that makes this table."""
    searched = {name: len(row) for (kind, name), row in rows.items() if kind == "search"}
    published = [name for kind, name in rows if kind == "published"]
    words = [f"--{name.replace('_', '-')} {value}" for name, value in recipe.items() if value != ""]
    words += [f"--methods '{','.join(searched)}'", f"--genotypes '{','.join(published)}'"]
    words += [f"--seeds {','.join(f'{name}={count}' for name, count in searched.items())}"] if searched else []
    return " \\\n  ".join(["python benchmarks/methods.py", *words, f"-o {out}"])
