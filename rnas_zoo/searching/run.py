"""Search runs: from a configuration to the genotype file that a run leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import __version__, data, resources
from ..engine import config as configuration
from ..engine import distribution, loop
from ..engine.budget import TimeBudget, fitting_steps, seconds_per_step
from ..engine.device import resolve_device
from ..engine.progress import Reporter
from ..engine.record import RunFolder, read_run
from ..errors import OutputExistsError, UsageError
from ..files import atomic_path, write_text
from ..genotype import Genotype, load
from . import methods
from .config import PRESETS, SearchConfig
from .task import SearchTask
from .watch import SHARE as WATCHING

REFERENCE_BATCH = 256
STATUS = {"rnas_noise": "reconstructed"}
FEWEST_IN_PART = 4
UNTIL_CAPTURED = 5  # steps on a GPU before they are replayed, see engine.capture
DOMINATED = 5  # skip connections among a cell's eight edges


def configured(data: str, method: str = "darts", preset: str = "fast", **changes: Any) -> SearchConfig:
    """The configuration of a method's preset with some values changed.

    Two values follow others unless they are given too. A batch size other than that of the `fast` preset scales its
    learning rate in proportion. Channels that do not divide into as many parts as the preset's `partial`, or leave
    fewer than four to a part, have half as many parts, or a quarter, ...: of 4 parts, 8 channels keep two, 4 keep one.

    Args:
        data: data set name, .npz file or folder.
        method: a name of `methods.METHODS`, of an entry point, or `path/to/file.py:Class`.
        preset: `fast` or `paper`.
        changes: fields of `SearchConfig` with other values than the preset's; `settings` is merged key by key.

    Raises:
        UsageError: unknown preset, field or value.
        UnknownNameError: no such method.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; use {' or '.join(PRESETS)}")
    values, where = dict(methods.find(method).presets.get(preset, {})), f"search with {method}"
    configuration.from_dict(SearchConfig, {"data": data, **_plain(changes)}, where)
    values["settings"] = {**values.get("settings", {}), **changes.pop("settings", {})}
    sgd = preset == "fast" and values.get("optimizer", "sgd") == "sgd" and "learning_rate" in values
    if sgd and "batch_size" in changes and "learning_rate" not in changes:
        values["learning_rate"] *= changes["batch_size"] / REFERENCE_BATCH
    if "channels" in changes and "partial" not in changes:
        values["partial"] = _parts(changes["channels"], values.get("partial", 1))
    values.update(changes)
    return configuration.from_dict(
        SearchConfig, {"data": data, "method": method, "preset": preset, **_plain(values)}, where
    )


def _parts(channels: int, most: int) -> int:
    """The largest of most, most / 2, most / 4, … that divides the channels into parts of at least four; else 1."""
    while most > 1 and (channels % most or channels // most < FEWEST_IN_PART):
        most //= 2
    return max(1, most)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def run_folder(out: str | Path) -> Path:
    """Where the run of a search is kept: beside its genotype file, `name.json` becomes `name.run`."""
    return Path(out).with_suffix(".run")


def teacher_of(config: SearchConfig, dataset: data.Dataset) -> tuple[SearchConfig, nn.Module | None]:
    """The configuration with its teacher named, and the teacher; None for methods that need none.

    Raises:
        UsageError: the method needs one, and there is none for this data set.
    """
    known: Mapping[str, str] | None = getattr(methods.find(config.method), "teachers", None)
    if known is None and not config.teacher:
        return config, None
    name = config.teacher or (known or {}).get(dataset.name, "")
    if not name:
        raise UsageError(f"{config.method} distils from a robust teacher, and none is known for {dataset.name}: "
                         "name one with --teacher")  # fmt: skip
    from ..reference import load as load_reference

    return replace(config, teacher=name), load_reference(name)


def search(
    config: SearchConfig,
    out: str | Path,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    pass_budget: int | None = None,
    fit_budget: bool = True,
    fit_seconds: float | None = None,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> Genotype:
    """Search an architecture and write its genotype to `out`, the run's record to `out` with suffix `.run`.

    Without `config.total_steps`, the steps are those that fit the budget, or `config.epochs` epochs without one.

    Args:
        config: what is searched and how; `configured` makes one from a preset.
        out: the genotype's .json file.
        time_budget: seconds, after which the run stops resumably.
        pass_budget: forward and backward image passes of the supernet to fit the steps to.
        fit_budget: choose the steps to fit `time_budget`.
        fit_seconds: choose the steps to fit this many seconds, without stopping after them.
        resume: continue the run that is there already; a finished one is returned as it is.
        device: where the search runs; `auto` takes a GPU if there is one.
        reporter: hears of steps and warnings; silent by default.

    Raises:
        BudgetReachedError, InterruptedRunError: the run stopped; it resumes.
        UsageError, OutputExistsError, CheckpointError: see their messages.
    """
    out = Path(out)
    if out.suffix != ".json":
        raise UsageError(f"a genotype is written to a .json file, got {str(out)!r}")
    where = resolve_device(device)
    with distribution.group(where):
        known = run_folder(out)
        started, exists = distribution.gather(((known / "run.json").is_file(), out.exists()))[0]
        if exists and not (resume and started):
            hint = ", or add --resume" if started else ""
            raise OutputExistsError(f"{out} exists already and was left as it is. Choose another -o{hint}.")
        budget = TimeBudget(time_budget) if time_budget else None
        if resume and started and not config.total_steps:
            config = replace(config, total_steps=read_run(known)["config"]["total_steps"])
        dataset = data.load(config.data, config.image_size)
        config, teacher = teacher_of(config, dataset)
        if not config.total_steps:
            seconds = fit_seconds or (budget.left if budget and fit_budget else None)
            config = with_steps(config, dataset, where, teacher, seconds, pass_budget)
        task = SearchTask(config, dataset, where, teacher=teacher)
        folder = RunFolder(known, "search", configuration.to_dict(config), resume=resume)
        if folder.finished and out.is_file():
            return load(out)
        loop.run(task, folder, name=f"search {config.method}", budget=budget, reporter=reporter, record_every=10)
        found = Genotype(out.stem, task.derive(), provenance=_provenance(task, dataset, folder))
        if distribution.main():
            _write_history(task, known)
            write_text(out, found.dumps())
        for warning in found.provenance.get("warnings", ()) if reporter else ():
            reporter.say(f"warning: {warning}")  # type: ignore[union-attr]
        return found


def _write_history(task: SearchTask, folder: Path) -> None:
    """`alphas.npz`: at up to fifty moments `step` (T,) and, by name, softmax(α) (T, edges, operations)."""
    if task.history:
        columns: dict[str, Any] = {
            name: np.stack([row[name].numpy() for row in task.history]) for name in task.history[0]
        }
        with atomic_path(folder / "alphas.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **columns)


def with_steps(
    config: SearchConfig,
    dataset: data.Dataset,
    device: torch.device,
    teacher: nn.Module | None,
    seconds: float | None,
    passes: int | None,
) -> SearchConfig:
    """The configuration with as many steps as fit the seconds, the image passes, or else its epochs."""
    if not methods.find(config.method).searches:
        return replace(config, total_steps=1)
    begin = time.monotonic()
    scratch = SearchTask(replace(config, total_steps=1000), dataset, device, teacher=teacher)
    if seconds is None and passes is None:
        return replace(config, total_steps=config.epochs * scratch.train.steps_per_epoch)
    phases: dict[str, list[int]] = {}
    for index in range(1000):
        phases.setdefault(scratch.phase(index), []).append(index)
    duration = spent = 0.0
    for indices in phases.values():
        share = len(indices) / 1000
        quiet = [index for index in indices if not scratch.watch.due(index + 1)] or indices

        def step(index: int, quiet: list[int] = quiet) -> object:
            found = scratch.step(quiet[index % len(quiet)])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return found

        for index in range(UNTIL_CAPTURED if device.type == "cuda" else 0):
            step(index)
        before = scratch.passes.total
        duration += share * seconds_per_step(step, probes=3)
        spent += share * (scratch.passes.total - before) / 4 * distribution.world()
    steps = []
    if seconds is not None:
        left = seconds - (time.monotonic() - begin)
        steps.append(fitting_steps(duration, left / (1 + WATCHING)))
    if passes is not None:
        before = scratch.passes.total
        scratch.watch.look(0)
        watching = scratch.watch.looks * (scratch.passes.total - before)
        steps.append(max(10, int(passes / (spent + watching / 1000))))
    return replace(config, total_steps=min(steps))


def _provenance(task: SearchTask, dataset: data.Dataset, folder: RunFolder) -> dict[str, Any]:
    config = task.config
    rows = folder.rows()
    last = rows[-1] if rows else {}
    found: dict[str, Any] = {
        "status": STATUS.get(config.method, "ours"),
        "method": config.method,
        "source": f"rnas-zoo {__version__}",
        "config": configuration.to_dict(config),
        "seed": config.seed,
        "dataset": dataset.name,
        "cost": {
            "architecture_steps": task.arch_steps(),
            "image_passes": task.passes.total * distribution.world(),
            "seconds": folder.info["seconds"],
            "device": str(task.device),
            "processes": distribution.world(),
        },
        "found": {key: value for key, value in last.items() if key != "step"},
        "commit": resources.commit(),
    }
    warnings = []
    if last.get("skips", 0) >= DOMINATED:
        warnings.append(
            f"{int(last['skips'])} of 8 edges of the first cell are skip connections: the search has collapsed"
        )
    if last.get("rollbacks"):
        warnings.append(f"catastrophic overfitting was undone {int(last['rollbacks'])} times; PGD took over")
    return {**found, "warnings": warnings} if warnings else found
