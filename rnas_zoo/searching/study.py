"""Studies: several searches, methods by seeds, whose networks one proxy compares; the best architecture is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..engine import config as configuration
from ..engine import distribution
from ..engine.budget import TimeBudget
from ..engine.device import resolve_device
from ..engine.progress import Reporter
from ..engine.record import RunFolder
from ..errors import BudgetReachedError, OutputExistsError, UsageError
from ..files import write_text
from ..genotype import Channels, Genotype
from . import fit, methods, proxy, report
from .config import SearchConfig
from .proxy import Measured, ProxyConfig
from .run import run_folder, search

SHARED = ("data", "image_size", "held_out_seed")


@dataclass(frozen=True)
class Limits:
    """What the deployed network may cost: parameters, and MACs of one image; None: no limit."""

    max_params: int | None = None
    max_macs: int | None = None

    def fitted(self, found: Genotype, config: SearchConfig, dataset: data.Dataset) -> Genotype:
        """The genotype with the size the limits allow; without any, that of its supernet."""
        if self == Limits():
            cells = not isinstance(found.structure, Channels)
            return fit.sized(found, config.channels, config.layers) if cells else found
        limits = {"max_params": self.max_params, "max_macs": self.max_macs}
        return fit.fitted(found, dataset.num_classes, dataset.image_size, stem=config.stem, **limits)


@dataclass(frozen=True)
class Candidate:
    """A found architecture with its size, and what the proxy says about it."""

    name: str
    config: SearchConfig
    genotype: Genotype
    params: int
    macs: int
    measured: Measured

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: accuracy under PGD, then on clean images."""
        return self.measured.pgd, self.measured.clean

    def row(self) -> dict[str, Any]:
        """What provenance and run file keep of it."""
        cost, told = self.genotype.provenance["cost"], self.genotype.provenance
        return {
            "name": self.name,
            "method": self.config.method,
            "seed": self.config.seed,
            "hash": self.genotype.hash,
            "params": self.params,
            "macs": self.macs,
            **asdict(self.measured),
            "search": {"image_passes": cost["image_passes"], "seconds": cost["seconds"]},
            "warnings": list(told.get("warnings", ())),
        }


@dataclass(frozen=True)
class StudyResult:
    """The best genotype, as written; all candidates in the order of their configurations; the study's folder.

    A single search has neither candidates nor folder.
    """

    best: Genotype
    candidates: tuple[Candidate, ...] = ()
    folder: Path | None = None


def study_folder(out: str | Path) -> Path:
    """Where the searches and proxies of a study are kept: `name.json` becomes `name.study`."""
    return Path(out).with_suffix(".study")


def study(
    configs: Sequence[SearchConfig],
    out: str | Path,
    *,
    proxy_config: ProxyConfig | None = None,
    limits: Limits | None = None,
    time_budget: float | None = None,
    pass_budget: int | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> StudyResult:
    """Run the searches, train each network found under one proxy, and write the best genotype to `out`.

    Beside `out`, the folder `name.study` has every search and every training, `run.json`, `report.md` and pictures. The
    proxies get their `share` of the budget, the searches equal parts of the rest. Steps are fitted to it once and then
    fixed in the run files, so that resumed studies end like uninterrupted ones. One configuration is just searched.

    Args:
        configs: all on the same data, no two with the same method and seed.
        proxy_config: None: the default one.
        limits: on the size of the networks; none by default.
        time_budget: seconds, after which the study stops resumably.
        pass_budget: forward and backward image passes of searches and trainings together.
        resume: continue the study that is there already; whatever is finished is taken as it is.

    Raises:
        BudgetReachedError, InterruptedRunError: the study stopped; it resumes.
        UsageError, OutputExistsError, CheckpointError: see their messages.
    """
    out, limits, proxy_config = Path(out), limits or Limits(), proxy_config or ProxyConfig()
    names = _checked(configs, out)
    if len(configs) > 1 and proxy_config.seed != configs[0].held_out_seed:
        raise UsageError(
            f"held_out_seed {configs[0].held_out_seed} and the proxy's seed {proxy_config.seed} hold out other images "
            "for searches than for proxies; make them equal"
        )
    budget = TimeBudget(time_budget) if time_budget else None
    where = resolve_device(device)
    options: dict[str, Any] = {"resume": resume, "device": where, "reporter": reporter}
    if len(configs) == 1:
        found = search(configs[0], out, time_budget=time_budget, pass_budget=pass_budget, **options)
        return StudyResult(_with_limits(found, configs[0], limits, out))
    with distribution.group(where):
        started = (study_folder(out) / "run.json").is_file()
        if out.exists() and not (resume and started):
            hint = ", or add --resume" if started else ""
            raise OutputExistsError(f"{out} exists already and was left as it is. Choose another -o{hint}.")
        asked = {
            "configs": [configuration.to_dict(config) for config in configs],
            "proxy": configuration.to_dict(proxy_config),
            "limits": configuration.to_dict(limits),
            "pass_budget": pass_budget,
        }
        folder = RunFolder(study_folder(out), "study", asked, resume=resume)
        if "seconds_planned" not in folder.info:
            folder.update(seconds_planned=time_budget, status="running")
        steps = _Steps(folder, names, list(configs), proxy_config, limits, budget, pass_budget, options)
        candidates = steps.compare(steps.search())
        return _finished(candidates, out, folder, proxy_config, reporter)


def _checked(configs: Sequence[SearchConfig], out: Path) -> list[str]:
    """Names of the searches: method and seed.

    Raises:
        UsageError: configurations that cannot be compared.
    """
    if out.suffix != ".json":
        raise UsageError(f"a genotype is written to a .json file, got {str(out)!r}")
    if not configs:
        raise UsageError("a study needs at least one search")
    for name in SHARED:
        if any(getattr(config, name) != getattr(configs[0], name) for config in configs):
            raise UsageError(f"searches are compared on the same images, but their {name} differs")
    names = [f"{Path(c.method).name.replace('.py:', '.')}-s{c.seed}" for c in configs]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"the study would search {', '.join(twice)} twice; name every method once")
    return names


def _with_limits(found: Genotype, config: SearchConfig, limits: Limits, out: Path) -> Genotype:
    if limits == Limits():
        return found
    fitted = limits.fitted(found, config, data.load(config.data, config.image_size))
    if distribution.main():
        write_text(out, fitted.dumps())
    return fitted


@dataclass
class _Steps:
    """The two stages of a study."""

    folder: RunFolder
    names: list[str]
    configs: list[SearchConfig]
    proxy: ProxyConfig
    limits: Limits
    budget: TimeBudget | None
    passes: int | None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.dataset = data.load(self.configs[0].data, self.configs[0].image_size)

    def left(self) -> float | None:
        """Seconds left of the time budget, None without one."""
        if self.budget is not None and distribution.agree(self.budget.left <= 0):
            raise BudgetReachedError("the time budget ended between two runs; the same command with --resume continues")
        return None if self.budget is None else self.budget.left

    def search(self) -> list[Genotype]:
        searching = max(1, sum(methods.find(config.method).searches for config in self.configs))
        share = (1 - self.proxy.share) / searching
        planned = self.folder.info["seconds_planned"]
        found = []
        for name, config in zip(self.names, self.configs, strict=True):
            result = search(
                config,
                self.folder.path / f"{name}.json",
                time_budget=self.left(),
                fit_budget=False,
                fit_seconds=None if planned is None else planned * share,
                pass_budget=None if self.passes is None else int(self.passes * share),
                **{**self.options, "resume": True},
            )
            found.append(self.limits.fitted(result, config, self.dataset))
        return found

    def compare(self, found: Sequence[Genotype]) -> tuple[Candidate, ...]:
        trainings = [
            proxy.training(self.proxy, genotype, config.data, config.stem, config.image_size)
            for genotype, config in zip(found, self.configs, strict=True)
        ]
        if "proxy_steps" not in self.folder.info:
            self.folder.update(proxy_steps=self.proxy.total_steps or self._proxy_steps(trainings, found))
        candidates = []
        for name, config, genotype, training in zip(self.names, self.configs, found, trainings, strict=True):
            measured = proxy.measure(
                replace(training, total_steps=self.folder.info["proxy_steps"]),
                self.folder.path / f"{name}.proxy",
                self.dataset,
                time_budget=self.left(),
                name=f"proxy {name}",
                **{**self.options, "resume": True},
            )
            sizes = fit.size(genotype, self.dataset.num_classes, self.dataset.image_size, config.stem)
            candidates.append(Candidate(name, config, genotype, *sizes, measured))
        return tuple(candidates)

    def _proxy_steps(self, trainings: Sequence[Any], found: Sequence[Genotype]) -> int:
        """Steps of each training: its share of the budget; without one, in proportion to the passes of the searches."""
        planned, left = self.folder.info["seconds_planned"], self.left()
        if planned is not None:
            seconds = planned * self.proxy.share
            budgeted: dict[str, Any] = {"seconds": seconds if left is None else min(seconds, left)}
        elif self.passes is not None:
            budgeted = {"passes": int(self.passes * self.proxy.share)}
        else:
            spent = sum(genotype.provenance["cost"]["image_passes"] for genotype in found)
            budgeted = {"passes": int(spent * self.proxy.share / (1 - self.proxy.share))} if spent else {}
        return proxy.steps_within(trainings, self.dataset, self.options["device"], **budgeted)


def _finished(
    candidates: tuple[Candidate, ...], out: Path, folder: RunFolder, config: ProxyConfig, reporter: Reporter | None
) -> StudyResult:
    rows, best = [candidate.row() for candidate in candidates], max(candidates, key=lambda c: c.rank)
    told = {
        "chosen": best.name,
        "candidates": rows,
        "proxy": {**configuration.to_dict(config), "total_steps": folder.info["proxy_steps"]},
        "seconds": round(sum(row["seconds"] + row["search"]["seconds"] for row in rows), 2),
        "image_passes": sum(row["passes"] + row["search"]["image_passes"] for row in rows),
    }
    winner = replace(best.genotype, name=out.stem, provenance={**best.genotype.provenance, "study": told})
    if distribution.main():
        alphas = run_folder(folder.path / f"{best.name}.json") / "alphas.npz"
        report.write(folder.path, winner, told, alphas, best.config)
        write_text(out, winner.dumps())
    folder.update(status="finished", seconds=told["seconds"], result=told)
    if reporter is not None:
        reporter.say(f"report: {folder.path / 'report.md'}")
    return StudyResult(winner, candidates, folder.path)
