"""Search methods against random search: equal image passes, networks of equal MACs, one proxy, one set of images.

    python benchmarks/methods.py --data digits --eps 16/255 --seeds random=3,darts=3 --work WORK -o docs/methods.md

Every method searches for `--passes` forward and backward image passes of its supernet. Each network found, and each
published one, is given the depth and width that come nearest to `--target-macs`, is trained adversarially for
`--proxy-passes` image passes by one recipe, and is measured on training images that neither search nor training saw.

WORK keeps what is finished; the same command goes on from there. `--only 1/2` and `--only 2/2` share the work between
two processes; the one that ends last writes the table, and `--render-only` writes it from what there is.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch

import rnas_zoo
from rnas_zoo import data, intervals
from rnas_zoo.engine.budget import parse_count
from rnas_zoo.engine.device import resolve_device, threads
from rnas_zoo.engine.progress import Lines
from rnas_zoo.errors import RnasZooError, UsageError
from rnas_zoo.files import write_json, write_text
from rnas_zoo.genotype import Genotype, named
from rnas_zoo.searching import fit, methods, proxy
from rnas_zoo.searching.run import configured, search

CONTROLS = ("random", "darts", "darts_clean")
METHODS = ("rnas_vuln", "rnas_noise", "arnas", "e2rnas", "rnas_cl", *CONTROLS)
GENOTYPES = ("darts_v2", "pc_darts", "vuln_h", "vuln_l", "arnas", "e2rnas", "racl", "advrush", "cl_s3")
# What has to be the same for all results of one table.
RECIPE = (
    "data", "norm", "eps", "preset", "passes", "channels", "layers", "stem", "batch_size", "target_macs",
    "proxy_passes", "proxy_batch_size", "proxy_learning_rate", "proxy_attack_steps", "teacher", "precision",
)  # fmt: skip
TOLERANCE = 0.05


@dataclass(frozen=True)
class Unit:
    """One network to be found and measured; `kind` is `search` or `published`."""

    kind: str
    name: str
    seed: int

    @property
    def slug(self) -> str:
        return f"{self.name}-s{self.seed}" if self.kind == "search" else f"published-{self.name}"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--data", default="digits", help="name, FILE.npz or folder")
    add("--norm", default="linf", choices=["linf", "l2"])
    add("--eps", default="8/255")
    add("--methods", default=",".join(METHODS), help="comma list; empty for none")
    add("--genotypes", default=",".join(GENOTYPES), help="published ones, comma list; empty for none")
    add("--seeds", default="1", help="of each method: 2, or random=3,darts=3 with 1 for the others")
    add("--preset", default="fast", choices=["fast", "paper"])
    add("--passes", type=parse_count, default=parse_count("200k"), help="image passes of each search")
    add("--channels", type=int, default=16, help="of the supernet")
    add("--layers", type=int, default=5, help="of the supernet; networks take the depth nearest to it")
    add("--stem", default="cifar_stride2", choices=["cifar", "cifar_stride2"])
    add("--batch-size", type=int, default=64)
    add("--target-macs", type=parse_count, default=parse_count("3M"), help="of every network, for one image")
    add("--proxy-passes", type=parse_count, default=parse_count("400k"), help="image passes of each training")
    add("--proxy-batch-size", type=int, default=64)
    add("--proxy-learning-rate", type=float, default=0.1)
    add("--proxy-attack-steps", type=int, default=2)
    add("--teacher", default="", help="for rnas_cl, where the data set has none of ours")
    add("--precision", default="fp32", choices=["fp32", "bf16"])
    add("--device", default="auto")
    add("--threads", type=int)
    add("--work", type=Path, default=Path("methods.work"), help="folder of finished and unfinished work")
    add("--only", default="1/1", metavar="SHARD/OF", help="a part of the work")
    add("--render-only", action="store_true")
    add("-o", "--out", type=Path, default=Path("docs/methods.md"))
    return parser.parse_args(given)


def units(options: argparse.Namespace) -> list[Unit]:
    """What is to be measured, one seed of everything first.

    Raises:
        UsageError: seeds that name none of the methods, or are no numbers.
    """
    wanted = [name for name in options.methods.split(",") if name]
    count = dict.fromkeys(wanted, 1)
    for part in options.seeds.split(","):
        name, _, number = part.rpartition("=")
        if not number.isdecimal() or (name and name not in count):
            raise UsageError(f"cannot read the seeds {part!r}: write 2, or METHOD=2 with one of {', '.join(wanted)}")
        count.update({name: int(number)} if name else dict.fromkeys(wanted, int(number)))
    for name in wanted:
        methods.find(name)
    found = [Unit("search", name, seed) for seed in range(max(count.values(), default=0)) for name in wanted
             if seed < count[name]]  # fmt: skip
    return found + [Unit("published", name, 0) for name in options.genotypes.split(",") if name]


def shard(everything: Sequence[Unit], text: str) -> list[Unit]:
    """Every n-th unit from the k-th on, for the text `k/n`.

    Raises:
        UsageError: anything else.
    """
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise UsageError(f"cannot read the shard {text!r}: write 1/2 and 2/2 for two processes")
    return list(everything[int(part) - 1 :: int(of)])


def found_by(unit: Unit, options: argparse.Namespace, reporter: Lines) -> Genotype:
    """The genotype of a unit, searched if it is not there yet."""
    if unit.kind == "published":
        return named(unit.name)
    config = configured(
        options.data,
        unit.name,
        options.preset,
        norm=options.norm,
        eps=options.eps,
        channels=options.channels,
        layers=options.layers,
        stem=options.stem,
        batch_size=options.batch_size,
        precision=options.precision,
        seed=unit.seed,
        **({"teacher": options.teacher} if options.teacher and unit.name == "rnas_cl" else {}),
    )
    return search(
        config,
        options.work / f"{unit.slug}.json",
        resume=True,
        pass_budget=options.passes,
        device=options.device,
        reporter=reporter,
    )


def measure(unit: Unit, options: argparse.Namespace, dataset: data.Dataset, reporter: Lines) -> dict[str, Any]:
    """Search, size, train and measure; the content of the unit's result file."""
    found, device = found_by(unit, options, reporter), resolve_device(options.device)
    sized = fit.matched(
        found,
        options.target_macs,
        dataset.num_classes,
        dataset.image_size,
        layers=options.layers,
        stem=options.stem,
        tolerance=TOLERANCE,
    )
    params, macs = fit.size(sized, dataset.num_classes, dataset.image_size, options.stem)
    recipe = proxy.ProxyConfig(
        norm=options.norm,
        eps=options.eps,
        attack_steps=options.proxy_attack_steps,
        batch_size=options.proxy_batch_size,
        learning_rate=options.proxy_learning_rate,
        precision=options.precision,
    )
    config = proxy.training(recipe, sized, options.data, options.stem)
    config = proxy.with_steps(config, proxy.steps_within([config], dataset, device, passes=options.proxy_passes))
    seen = proxy.measure(
        config,
        options.work / f"{unit.slug}.proxy",
        dataset,
        resume=True,
        device=options.device,
        reporter=reporter,
    )
    cost = found.provenance.get("cost", {}) if unit.kind == "search" else {}
    return {
        **asdict(unit),
        "hash": sized.hash,
        "default": dict(sized.default),
        "params": params,
        "macs": macs,
        "search": {key: cost.get(key, 0) for key in ("image_passes", "seconds")},
        "warnings": list(found.provenance.get("warnings", ())) if unit.kind == "search" else [],
        "proxy": asdict(seen),
        "device": _machine(device),
        "versions": {
            "rnas_zoo": rnas_zoo.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''})"


def remember(options: argparse.Namespace) -> dict[str, Any]:
    """Write the recipe into WORK, or compare with the one that is there.

    Raises:
        UsageError: WORK holds results of another recipe.
    """
    path, recipe = options.work / "recipe.json", {name: getattr(options, name) for name in RECIPE}
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in RECIPE if known.get(name) != recipe[name]]
        if differing:
            raise UsageError(f"{options.work} holds results with other {', '.join(differing)}; choose another --work")
    else:
        write_json(path, recipe)
    return recipe


# --- the table --------------------------------------------------------------------------------------------------------


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
    lines += ["<!-- not run: needs hours -->", "```sh", command(recipe, rows, out), "```", ""]
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


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        everything = units(options)
        recipe = remember(options)
        if not options.render_only:
            dataset = data.load(options.data)
            with threads(options.threads):
                for unit in shard(everything, options.only):
                    path = options.work / f"{unit.slug}.result.json"
                    if not path.is_file():
                        reporter = Lines()
                        result = measure(unit, options, dataset, reporter)
                        write_json(path, result)
                        reporter.say(f"{unit.slug}: clean {result['proxy']['clean']:.3f}, PGD-10 "
                                     f"{result['proxy']['pgd']:.3f}, {result['macs']:,} MACs")  # fmt: skip
        paths = {unit: options.work / f"{unit.slug}.result.json" for unit in everything}
        missing = [unit.slug for unit, path in paths.items() if not path.is_file()]
        results = [json.loads(path.read_text(encoding="utf-8")) for path in paths.values() if path.is_file()]
        if results and (options.render_only or not missing):
            write_text(options.out, render(recipe, results, options.out))
        if missing:
            sys.stderr.write(f"not measured yet: {', '.join(missing)}\n")
    except RnasZooError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
