"""Search runs: a frozen configuration, a task for the engine's loop, and the genotype a run leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__, data, random, resources
from ..attacks import Threat
from ..engine import config as configuration
from ..engine import loop
from ..engine.budget import TimeBudget, fitting_steps, seconds_per_step
from ..engine.device import autocast, resolve_device
from ..engine.progress import Reporter
from ..engine.record import RunFolder, read_run
from ..errors import OutputExistsError, UsageError
from ..files import write_text
from ..genotype import Cells, Genotype, load
from ..training.objectives import keys_of_step, perturbation
from ..training.schedule import cosine
from .discretize import discretize, entropy
from .methods import method
from .supernet import ROLES, Supernet


@dataclass(frozen=True)
class SearchConfig:
    """How an architecture is searched; all of it stands in the genotype's provenance.

    Attributes:
        method: name of the search method.
        objective: what weight steps learn from: `pgd` (adversarial) or `clean`.
        channels, layers, stem: the supernet.
        total_steps: pairs of architecture and weight steps; 0: to be fitted to a budget.
        warmup: fraction of the steps without architecture steps.
        arch_learning_rate, arch_weight_decay: Adam on α, betas (0.5, 0.999).
    """

    data: str
    method: str = "darts"
    objective: str = "pgd"
    norm: str = "linf"
    eps: str = "8/255"
    attack_steps: int = 7
    channels: int = 16
    layers: int = 8
    stem: str = "cifar"
    total_steps: int = 0
    batch_size: int = 64
    warmup: float = 0.2
    learning_rate: float = 0.025
    learning_rate_floor: float = 0.04
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    arch_learning_rate: float = 3e-4
    arch_weight_decay: float = 1e-3
    augmentation: str = ""
    seed: int = 0
    precision: str = "fp32"

    @property
    def threat(self) -> Threat:
        return Threat(self.norm, self.eps)  # type: ignore[arg-type]


class SearchTask:
    """Alternates architecture steps on one half of the training images and weight steps on the other."""

    def __init__(self, config: SearchConfig, dataset: data.Dataset, device: torch.device) -> None:
        self.config, self.device, self.threat = config, device, config.threat
        self.seed, self.total_steps = config.seed, config.total_steps
        if config.total_steps < 1:
            raise UsageError(f"total_steps must be at least 1, got {config.total_steps}")
        autocast(device, config.precision)
        self.method = method(config.method)()
        self.perturb = perturbation(config.objective, config.attack_steps)
        train, _ = dataset.split(config.seed)
        order = random.permutation(len(train), seed=config.seed, stream="search-halves", draw=0)
        half = len(order) // 2
        augmentation = config.augmentation or dataset.augmentation
        self.train, self.validation = (
            data.Batches(
                train.take(part),
                config.batch_size,
                seed=config.seed,
                stream=stream,
                augmentation=augmentation,
                device=device,
            )
            for part, stream in ((order[:half], "search-train"), (order[half:], "search-validation"))
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Supernet(dataset.num_classes, config.channels, config.layers, config.stem)
        self.net.to(device).to(memory_format=torch.channels_last).train()
        self.weights = list(self.net.weight_parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.arch_optimizer = torch.optim.Adam(
            self.net.arch_parameters(),
            lr=config.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.arch_weight_decay,
        )

    def step(self, index: int) -> dict[str, torch.Tensor | float]:
        config, fraction = self.config, index / max(1, self.total_steps)
        keys = keys_of_step(config.seed, index, config.batch_size, self.device)
        metrics: dict[str, torch.Tensor | float] = {}
        if fraction >= config.warmup:
            x, y = self.validation(index)
            with autocast(self.device, config.precision):
                loss = self.method.arch_loss(self.net, x, y, self.perturb, self.threat, keys)
            gradients = torch.autograd.grad(loss, self.net.arch_parameters())
            for alpha, gradient in zip(self.net.arch_parameters(), gradients, strict=True):
                alpha.grad = gradient
            self.arch_optimizer.step()
            metrics["validation_loss"] = loss.detach()
        x, y = self.train(index)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = config.learning_rate * cosine(fraction, config.learning_rate_floor)
        with autocast(self.device, config.precision):
            loss = self.method.weight_loss(self.net, x, y, self.perturb, self.threat, keys)
        for weight, gradient in zip(self.weights, torch.autograd.grad(loss, self.weights), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.weights, config.clip)
        self.weight_optimizer.step()
        return {"train_loss": loss.detach(), **metrics, **self.observations()}

    def alphas(self) -> dict[str, Any]:
        """α per role as NumPy arrays."""
        return {role: alpha.detach().cpu().numpy() for role, alpha in self.net.alphas.items()}

    def observations(self) -> dict[str, float]:
        """Entropy of α, and skip connections in the cell that would be derived now."""
        alphas = self.alphas()
        skips = sum(edge.op == "skip_connect" for edge in discretize(alphas["normal"]).edges)
        return {"entropy": entropy(alphas["normal"]), "skips": float(skips)}

    def derive(self) -> Cells:
        """The cells of the current α."""
        alphas = self.alphas()
        return Cells("cells", tuple(discretize(alphas[role]) for role in ROLES))

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.arch_optimizer.load_state_dict(state["arch_optimizer"])


def run_folder(out: str | Path) -> Path:
    """Where the run of a search is kept: beside its genotype file, `name.json` becomes `name.run`."""
    return Path(out).with_suffix(".run")


def search(
    config: SearchConfig,
    out: str | Path,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    fit_budget: bool = True,
    fit_seconds: float | None = None,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> Genotype:
    """Search an architecture and write its genotype to `out`, the run's record to `out` with suffix `.run`.

    Args:
        fit_budget: choose `total_steps` to fit the budget when `config.total_steps` is 0.
        fit_seconds: choose `total_steps` to fit this many seconds, without stopping after them.
        resume: continue the run that is there already; a finished one is returned as it is.

    Raises:
        BudgetReachedError, InterruptedRunError: the run stopped; it resumes.
        UsageError, OutputExistsError, CheckpointError: see their messages.
    """
    out = Path(out)
    if out.suffix != ".json":
        raise UsageError(f"a genotype is written to a .json file, got {str(out)!r}")
    known = run_folder(out)
    started = (known / "run.json").is_file()
    if out.exists() and not (resume and started):
        hint = ", or add --resume" if started else ""
        raise OutputExistsError(f"{out} exists already and was left as it is. Choose another -o{hint}.")
    budget = TimeBudget(time_budget) if time_budget else None
    where = resolve_device(device)
    if resume and started and not config.total_steps:
        config = replace(config, total_steps=read_run(known)["config"]["total_steps"])
    dataset = data.load(config.data)
    if not config.total_steps:
        seconds = fit_seconds or (budget.left if budget and fit_budget else None)
        if seconds is None:
            raise UsageError("needs --steps, or --time-budget to fit the steps to")
        scratch = SearchTask(replace(config, total_steps=1000), dataset, where)
        per_step = seconds_per_step(lambda index: scratch.step(900 + index))
        config = replace(config, total_steps=fitting_steps(per_step, seconds))
    task = SearchTask(config, dataset, where)
    folder = RunFolder(known, "search", configuration.to_dict(config), resume=resume)
    if folder.finished and out.is_file():
        return load(out)
    loop.run(task, folder, name=f"search {config.method}", budget=budget, reporter=reporter, record_every=10)
    found = Genotype(out.stem, task.derive(), provenance=_provenance(config, dataset, folder, where))
    write_text(out, found.dumps())
    return found


def _provenance(config: SearchConfig, dataset: data.Dataset, folder: RunFolder, device: torch.device) -> dict[str, Any]:
    passes = config.total_steps * config.batch_size * (1 + config.attack_steps * (config.objective == "pgd"))
    arch_steps = sum(1 for i in range(config.total_steps) if i / config.total_steps >= config.warmup)
    return {
        "status": "ours",
        "method": config.method,
        "source": f"rnas-zoo {__version__}",
        "config": configuration.to_dict(config),
        "seed": config.seed,
        "dataset": dataset.name,
        "cost": {
            "architecture_steps": arch_steps,
            "image_passes": passes + arch_steps * config.batch_size,
            "seconds": folder.info["seconds"],
            "device": str(device),
        },
        "commit": resources.commit(),
    }
