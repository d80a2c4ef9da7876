"""Training runs: from a configuration to the weights and the record that a run leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from .. import data
from ..engine import config as configuration
from ..engine import distribution, loop
from ..engine.budget import TimeBudget, fitting_steps, seconds_per_step
from ..engine.device import resolve_device
from ..engine.progress import Reporter
from ..engine.record import RunFolder, read_run
from ..errors import UsageError
from ..files import atomic_path, write_text
from .config import TrainConfig, recipe_text
from .task import TrainTask

UNTIL_CAPTURED = 5  # steps on a GPU before they are replayed, see engine.capture


def fit(
    config: TrainConfig,
    dataset: data.Dataset,
    device: torch.device,
    seconds: float,
    *,
    teacher: nn.Module | None = None,
) -> TrainConfig:
    """The configuration with as many steps as fit into `seconds`, measured once on a scratch copy.

    Where the attack changes on the way, both kinds of steps are measured.
    """
    scratch = TrainTask(replace(config, total_steps=1000, average=0.0), dataset, device, teacher=teacher)
    scratch.watch.looks = 0

    def per_step(first: int) -> float:
        # Past the ramp of ε every step costs the same.
        for index in range(UNTIL_CAPTURED if device.type == "cuda" else 0):
            scratch.step(first + index)
        return seconds_per_step(lambda index: _finished(scratch.step(first + index)))

    late = config.multi_step_from if len(scratch.objectives) > 1 else 1.0
    cost = per_step(500 if late > 0.55 else 10) if late > 0 else 0.0
    if late < 1:
        cost = late * cost + (1 - late) * per_step(980)
    return replace(config, total_steps=fitting_steps(cost, seconds))


def _finished(metrics: Any) -> None:
    """Wait for the device."""
    float(metrics["loss"])


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    fit_budget: bool = False,
    fit_seconds: float | None = None,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
    name: str = "train",
) -> dict[str, Any]:
    """Train a network; leave `model.safetensors`, `recipe.toml`, `run.json` and `record.jsonl` in `out`.

    Args:
        config: what is trained and how.
        out: the run folder.
        resume: continue the run that is there already; a finished one is returned as it is.
        time_budget: seconds after which the run stops resumably.
        fit_budget: choose `total_steps` to fit the budget when `config.total_steps` is 0.
        fit_seconds: choose `total_steps` to fit this many seconds, without stopping after them.
        device: where the network is trained; `auto` takes a GPU if there is one.
        reporter: hears of steps; silent by default.
        name: what the reporter calls the run.

    Returns:
        The run's `run.json`, with accuracies on held-out training images.

    Raises:
        BudgetReachedError, InterruptedRunError: the run stopped; it resumes.
        UsageError, OutputExistsError, CheckpointError: see their messages.
    """
    where = resolve_device(device)
    with distribution.group(where):
        budget = TimeBudget(time_budget) if time_budget else None
        if resume and not config.total_steps and (Path(out) / "run.json").is_file():
            config = replace(config, total_steps=read_run(out)["config"]["total_steps"])
        dataset = data.load(config.data, config.image_size)
        if not config.total_steps:
            seconds = fit_seconds or (budget.left if budget and fit_budget else None)
            if seconds is None:
                raise UsageError("needs total_steps in the recipe, or --steps, or --fit with --time-budget")
            config = fit(config, dataset, where, seconds)
        task = TrainTask(config, dataset, where)
        folder = RunFolder(out, "train", configuration.to_dict(config), resume=resume)
        if "result" in folder.info:
            return folder.info
        loop.run(task, folder, name=name, budget=budget, reporter=reporter)
        passes = task.passes.total * distribution.world()
        task.finish()
        if distribution.main():
            _leave(task, folder)
        folder.update(
            result=task.held_out_accuracy(),
            image_passes=passes,
            held_out_images=len(task.held_out),
            device=_device_name(where),
            processes=distribution.world(),
            torch_threads=torch.get_num_threads(),
            classes=list(dataset.classes),
            image_size=list(dataset.image_size),
        )
        return folder.info


def _leave(task: TrainTask, folder: RunFolder) -> None:
    with atomic_path(folder.path / "model.safetensors") as temporary:
        weights = {key: tensor.detach().cpu().contiguous() for key, tensor in task.model.state_dict().items()}
        save_file(weights, temporary, metadata={"format": "pt"})
    write_text(folder.path / "recipe.toml", recipe_text(task.config))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
