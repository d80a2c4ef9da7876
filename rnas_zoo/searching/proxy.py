"""The proxy that found architectures are compared by: one short adversarial training, the same one for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import data
from ..engine.budget import fitting_steps, seconds_per_step
from ..engine.progress import Reporter
from ..errors import UsageError
from ..genotype import Genotype
from ..training.config import TrainConfig
from ..training.run import train
from ..training.task import TrainTask
from . import fit

FEWEST_STEPS = 10
DEFAULT_EPOCHS = 10
EVALUATION = 22  # passes of a held-out image: two clean ones, ten forward and ten back
BN_MOMENTUM = 0.1  # torch's; the students' own 0.003 would leave their statistics behind in so short a training


@dataclass(frozen=True)
class ProxyConfig:
    """How every found network is trained; schedules and rates are those of `TrainConfig`.

    Attributes:
        norm, eps: threat model trained against and measured under, whatever each search used.
        objective, attack_steps: images learned from; two steps of PGD by default, which do not overfit as one does.
        total_steps: of each network; 0: fitted to a budget.
        share: of the study's budget.
        seed: of weights and batches, and of the training images held out where the data set has none of its own.
    """

    norm: str = "linf"
    eps: str = "8/255"
    objective: str = "pgd"
    attack_steps: int = 2
    total_steps: int = 0
    batch_size: int = 64
    learning_rate: float = 0.1
    share: float = 0.4
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"the proxy's share of the budget must lie between 0 and 1, got {self.share}")


@dataclass(frozen=True)
class Measured:
    """What a proxy found out about a network.

    Attributes:
        clean, pgd: accuracies on held-out images, without attack and under PGD-10.
        images: number of held-out images.
        passes: of training, forward and backward.
        seconds: of training.
    """

    clean: float
    pgd: float
    images: int
    steps: int
    passes: int
    seconds: float


def training(
    proxy: ProxyConfig, found: Genotype, source: str, stem: str, image_size: tuple[int, int] | None = None
) -> TrainConfig:
    """The proxy's training of the network of a genotype with a size (`searching.fit`) on the data `source`."""
    return TrainConfig(
        architecture=fit.network(found, stem)[0],
        model_args=fit.model_args(found, stem),
        data=source,
        image_size=image_size,
        objective=proxy.objective,
        norm=proxy.norm,
        eps=proxy.eps,
        attack_steps=proxy.attack_steps,
        total_steps=proxy.total_steps,
        batch_size=proxy.batch_size,
        learning_rate=proxy.learning_rate,
        seed=proxy.seed,
        precision=proxy.precision,
        bn_momentum=BN_MOMENTUM,
    )


def passes_per_step(config: TrainConfig, dataset: data.Dataset, device: torch.device) -> int:
    """Forward and backward image passes of a training step, counted while one is taken."""
    scratch = TrainTask(replace(config, total_steps=2), dataset, device)
    scratch.watch.looks = 0
    scratch.step(1)
    return scratch.passes.total


def steps_within(
    configs: Sequence[TrainConfig],
    dataset: data.Dataset,
    device: torch.device,
    *,
    seconds: float | None = None,
    passes: int | None = None,
) -> int:
    """The number of steps with which trainings of all configurations fit the seconds, or the image passes, together.

    Without either, ten epochs; never fewer than ten steps. The seconds pay for measuring on the held-out images, too;
    the passes do not.
    """
    if seconds is not None:
        scratches = (TrainTask(replace(config, total_steps=1000), dataset, device) for config in configs)
        # Past the ramp of ε every step costs the same.
        each = [seconds_per_step(lambda i, task=task: task.step(500 + i)) for task in scratches]  # type: ignore[misc]
        measuring = EVALUATION * len(dataset.split(configs[0].seed)[1]) / passes_per_step(configs[0], dataset, device)
        return max(FEWEST_STEPS, fitting_steps(sum(each), seconds, at_least=FEWEST_STEPS) - round(measuring))
    if passes is not None:
        return max(FEWEST_STEPS, passes // sum(passes_per_step(config, dataset, device) for config in configs))
    images = len(dataset.split(configs[0].seed)[0])
    return max(FEWEST_STEPS, DEFAULT_EPOCHS * images // configs[0].batch_size)


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The training with its number of steps; none that was chosen already is changed."""
    return config if config.total_steps else replace(config, total_steps=steps)


def measure(
    config: TrainConfig,
    folder: str | Path,
    dataset: data.Dataset,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
    name: str = "train",
) -> Measured:
    """Train a network in `folder`, or take the training that is there already, and tell how it does on held-out images.

    Raises:
        as `training.run.train`.
    """
    run = train(config, folder, resume=resume, time_budget=time_budget, device=device, reporter=reporter, name=name)
    each = passes_per_step(config, dataset, torch.device("cpu"))
    return Measured(
        clean=run["result"]["clean_accuracy"],
        pgd=run["result"]["pgd_accuracy"],
        images=len(dataset.split(config.seed)[1]),
        steps=run["steps_done"],
        passes=each * run["steps_done"],
        seconds=run["seconds"],
    )
