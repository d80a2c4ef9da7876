"""Training runs: a frozen configuration, a task for the engine's loop, and the files a run leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import data, models  # noqa: F401  (models registers the architectures)
from ..attacks import PGD, Keys, Threat, pgd
from ..engine import config as configuration
from ..engine import distribution, loop
from ..engine.budget import TimeBudget, fitting_steps, seconds_per_step
from ..engine.device import autocast, resolve_device
from ..engine.progress import Reporter
from ..engine.record import RunFolder, read_run
from ..errors import UnknownNameError, UsageError, closest
from ..files import atomic_path, write_text
from ..genotype import Channels, names, resolve
from ..models.pixels import in_pixels
from .objectives import keys_of_step, perturbation
from .schedule import one_cycle, ramp


@dataclass(frozen=True)
class TrainConfig:
    """How a network's weights are made; all of it is written into the run and the release.

    Attributes:
        architecture: a registered model name.
        model_args: further arguments of that model (a genotype as JSON object, channels, layers, stem).
        data: data set name, .npz file or folder.
        image_size: height and width images are brought to (data.load); None: as they are.
        objective: `pgd`, `nfgsm` or `fgsm_rs` (adversarial), or `clean`.
        norm, eps: threat model trained against; eps in pixels of [0, 1], `8/255` as text.
        attack_steps: of `pgd`, per training batch.
        total_steps: optimisation steps; all schedules are functions of step / total_steps. 0: to be fitted to a budget.
        learning_rate: peak of a one-cycle schedule for SGD with Nesterov momentum.
        peak_at: fraction of training at which the learning rate peaks.
        eps_ramp: fraction of training over which ε grows to its full size.
        weight_decay: on convolution and linear weights only.
        augmentation: `none`, `crop`, `crop_flip`, or empty for the data set's own.
        drop_path, auxiliary_weight: DARTS's regularisers for cell networks; 0 switches them off.
    """

    architecture: str
    data: str
    objective: str = "pgd"
    norm: str = "linf"
    eps: str = "8/255"
    attack_steps: int = 7
    total_steps: int = 0
    batch_size: int = 128
    learning_rate: float = 0.2
    peak_at: float = 0.3
    eps_ramp: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augmentation: str = ""
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> Threat:
        return Threat(self.norm, self.eps)  # type: ignore[arg-type]


def build_model(config: TrainConfig, num_classes: int) -> Any:
    """The untrained network of a configuration, with weights drawn from its seed."""
    if not timm.is_model(config.architecture):
        known = timm.list_models()
        raise UnknownNameError(f"unknown model {config.architecture!r}.{closest(config.architecture, known)}")
    extra: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return timm.create_model(config.architecture, num_classes=num_classes, **config.model_args, **extra)
        except TypeError as error:
            raise UsageError(f"{config.architecture} cannot be built with these model_args: {error}") from error


class TrainTask:
    """Learns the weights of one network; a `Task` of the engine."""

    def __init__(self, config: TrainConfig, dataset: data.Dataset, device: torch.device) -> None:
        self.config, self.device, self.threat = config, device, config.threat
        self.seed, self.total_steps = config.seed, config.total_steps
        if config.total_steps < 1:
            raise UsageError(f"total_steps must be at least 1, got {config.total_steps}")
        autocast(device, config.precision)
        train, self.held_out = dataset.split(config.seed)
        self.batches = data.Batches(
            train,
            config.batch_size,
            seed=config.seed,
            stream="train",
            augmentation=config.augmentation or dataset.augmentation,
            device=device,
        )
        self.model = build_model(config, dataset.num_classes).to(device=device, memory_format=torch.channels_last)
        self.network = in_pixels(self.model).to(device)
        self.perturb = perturbation(config.objective, config.attack_steps)
        self.auxiliary: nn.Module | None = None
        if config.auxiliary_weight:
            if not hasattr(self.model, "auxiliary_head"):
                raise UsageError(f"auxiliary_weight needs a cell network; {config.architecture} has no auxiliary head")
            scale = self.model.feature_info[1]["reduction"] * 2
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed + 1)
                self.auxiliary = self.model.auxiliary_head(dataset.image_size[0] // scale).to(device)
        trained = [*self.model.parameters(), *(self.auxiliary.parameters() if self.auxiliary else ())]
        self.optimizer = torch.optim.SGD(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )

    def step(self, index: int) -> dict[str, Tensor | float]:
        config, fraction = self.config, index / max(1, self.total_steps)
        x, y = self.batches(index)
        threat = Threat(config.norm, self.threat.eps * ramp(fraction, config.eps_ramp))
        keys = keys_of_step(config.seed, index, len(x), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(fraction, config.peak_at)
        self.network.train()
        if config.drop_path and hasattr(self.model, "set_drop_path_rate"):
            self.model.set_drop_path_rate(config.drop_path * fraction)
        with autocast(self.device, config.precision):
            x = self.perturb(self.network, x.contiguous(memory_format=torch.channels_last), y, threat, keys)
            if self.auxiliary is None:
                logits, extra = self.network(x), None
            else:
                logits, tap = self.model.forward_with_auxiliary(x)
                extra = self.auxiliary(tap)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=config.label_smoothing)
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        total = loss if extra is None else loss + config.auxiliary_weight * F.cross_entropy(extra.float(), y)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return {"loss": loss.detach(), "accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.auxiliary is not None:
            state["auxiliary"] = self.auxiliary.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])

    def held_out_accuracy(self, attack_steps: int = 10) -> dict[str, float]:
        """Clean and PGD accuracy on the held-out training images."""
        return accuracies(self.network, self.held_out, self.threat, attack_steps, self.seed, self.device)


def accuracies(
    model: nn.Module, images: data.ImageSet, threat: Threat, attack_steps: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Clean accuracy and accuracy under PGD (last iterate) of a network in evaluation mode."""
    model.eval()
    clean = robust = 0
    for begin in range(0, len(images), 256):
        part = images.take(torch.arange(begin, min(begin + 256, len(images))).numpy())
        x, y = data.to_pixels(part.images, device), torch.from_numpy(part.labels).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            correct = model(x).argmax(1) == y
        keys = Keys(seed, torch.arange(begin, begin + len(x), device=device))
        attacked = pgd(model, x, y, threat, PGD(steps=attack_steps), keys)
        clean += int(correct.sum())
        robust += int((correct & ~attacked.broken).sum())
    return {"clean_accuracy": clean / len(images), "pgd_accuracy": robust / len(images)}


def read_recipe(path: str | Path) -> TrainConfig:
    """A training configuration from a recipe file.

    Raises:
        UsageError: naming the file and the field.
    """
    return configuration.from_dict(TrainConfig, configuration.read_toml(path), str(path))


def recipe_text(config: TrainConfig) -> str:
    """The recipe of a configuration; `read_recipe` reads it back."""
    name = config.architecture
    return configuration.to_toml(
        configuration.to_dict(config), f"How the weights of {name} were made: rnas-zoo train THIS_FILE -o RUN"
    )


def model_for(architecture: str) -> tuple[str, dict[str, Any]]:
    """Registered name and arguments for a model name, or for a genotype file or name (then a generic model).

    A genotype that is not bundled brings the channels and layers its search chose for it, if any.
    """
    if timm.is_model(architecture):
        return architecture, {}
    try:
        found = resolve(architecture)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"unknown model or genotype {architecture!r}.{closest(architecture, timm.list_models('rnas*'))} "
            "Run `rnas-zoo list` for all."
        ) from error
    generic = "rnas_students" if isinstance(found.structure, Channels) else "rnas_cells"
    size = {} if architecture in names() else dict(found.default)
    return generic, {"genotype": found.to_json(), **size}


def fit(config: TrainConfig, dataset: data.Dataset, device: torch.device, seconds: float) -> TrainConfig:
    """The configuration with as many steps as fit into `seconds`, measured once on a scratch copy."""
    scratch = TrainTask(replace(config, total_steps=1000), dataset, device)
    # Past the ramp of ε every step costs the same.
    per_step = seconds_per_step(lambda index: scratch.step(500 + index))
    return replace(config, total_steps=fitting_steps(per_step, seconds))


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

    Returns:
        The run's `run.json`, with accuracies on held-out training images.

    Raises:
        BudgetReachedError, InterruptedRunError: the run stopped; it resumes.
        UsageError, OutputExistsError, CheckpointError: see their messages.
    """
    if distribution.world() > 1 and not torch.distributed.is_initialized():
        raise UsageError("training does not share its work among processes yet; start it without torchrun")
    budget = TimeBudget(time_budget) if time_budget else None
    where = resolve_device(device)
    if resume and (Path(out) / "run.json").is_file():
        config = (
            replace(config, total_steps=read_run(out)["config"]["total_steps"]) if not config.total_steps else config
        )
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
    with atomic_path(folder.path / "model.safetensors") as temporary:
        weights = {key: tensor.detach().cpu().contiguous() for key, tensor in task.model.state_dict().items()}
        save_file(weights, temporary, metadata={"format": "pt"})
    write_text(folder.path / "recipe.toml", recipe_text(config))
    folder.update(
        result=task.held_out_accuracy(),
        device=str(where),
        torch_threads=torch.get_num_threads(),
        classes=list(dataset.classes),
    )
    return folder.info
