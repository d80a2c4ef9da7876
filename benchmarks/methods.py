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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from methods_table import GENOTYPES, METHODS, TOLERANCE, render

import rnas_zoo
from rnas_zoo import data
from rnas_zoo.engine.budget import parse_count
from rnas_zoo.engine.device import resolve_device, threads
from rnas_zoo.engine.progress import Lines
from rnas_zoo.errors import RnasZooError, UsageError
from rnas_zoo.files import write_json, write_text
from rnas_zoo.genotype import Genotype, named
from rnas_zoo.searching import fit, methods, proxy
from rnas_zoo.searching.run import configured, search

# What has to be the same for all results of one table.
RECIPE = (
    "data", "norm", "eps", "preset", "passes", "channels", "layers", "stem", "batch_size", "target_macs",
    "proxy_passes", "proxy_batch_size", "proxy_learning_rate", "proxy_attack_steps", "teacher", "precision",
)  # fmt: skip


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
