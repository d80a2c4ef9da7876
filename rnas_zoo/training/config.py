"""How a network's weights are made: one frozen configuration, its recipe file, and the network it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from .. import models  # noqa: F401  (registers the architectures)
from ..attacks import Threat
from ..engine import config as configuration
from ..errors import UnknownNameError, UsageError, closest
from ..genotype import LARGEST_NUMBER, Channels, names, resolve


@dataclass(frozen=True)
class TrainConfig:
    """All of it is written into the run and the release.

    Attributes:
        architecture: a registered model name.
        model_args: further arguments of that model (a genotype as JSON object, channels, layers, stem).
        data: data set name, .npz file or folder.
        image_size: height and width images are brought to (data.load); None: as they are.
        objective: `clean`, `pgd`, `nfgsm`, `fgsm_rs`, `trades`, `rslad` or `rnas_cl`; see `training.objectives`.
        norm, eps: threat model trained against; eps in pixels of [0, 1], `8/255` as text.
        attack_steps: of multi-step attacks, per training batch.
        attack: for `trades` and `rslad`: `nfgsm` finds their images by one step instead of several; empty: several.
        attack_mode: whether batch norms use running statistics (`eval`) or the batch's own (`train`) while attacking.
        multi_step_from: fraction of training from which single-step attacks give way to `attack_steps` steps.
        beta: weight of the divergence between clean and adversarial predictions in `trades`.
        teacher: model reference of a robust teacher, for `rslad` and `rnas_cl`, or to add the two terms below to any
            other objective.
        distill: weight of KL(teacher ‖ student).
        attention: weight γ of the attention term between the student's layers and their tutors.
        init: model reference whose body training starts from, with a new head; architecture and model_args are its own.
        keep_head: take the classifier of `init` over as well, for the same classes.
        body_rate: factor on the learning rate of the body taken over by `init`.
        total_steps: optimisation steps; all schedules are functions of step / total_steps. 0: to be fitted to a budget.
        batch_size: images per step.
        optimizer: `sgd` (Nesterov momentum) or `adam`.
        learning_rate: the largest, on the `schedule` `one_cycle` (peak at `peak_at`), `cosine`, or `steps` (a tenth
            after each fraction of training in `milestones`).
        eps_ramp: fraction of training over which ε grows to its full size.
        momentum: of `sgd`.
        weight_decay: on convolution and linear weights only, unless `decay_all`.
        clip: largest norm of the gradient; 0: any.
        label_smoothing: share of each label that is spread over all classes, in 0 to 1.
        augmentation: as in `data.AUGMENTATIONS`; empty for the data set's own.
        drop_path, auxiliary_weight: DARTS's regularisers for cell networks; 0 switches them off.
        auxiliary_on: whether the auxiliary head sees the `adversarial` images or the `clean` ones.
        average: decay of an exponential moving average of the weights, which then is what is shipped; 0: none.
        average_from: fraction of training at which it begins.
        bn_momentum: of all batch norms while training; 0: the network's own.
        holdout: fraction of the training images held out, where the data set has none of its own for selection.
        select: ship the weights of the look at held-out images with the highest PGD accuracy, not the last.
        seed: of weights and draws.
        precision: `fp32`, or `bf16` for forward and backward passes.
    """

    architecture: str
    data: str
    objective: str = "pgd"
    norm: str = "linf"
    eps: str = "8/255"
    attack_steps: int = 7
    attack: str = ""
    attack_mode: str = "eval"
    multi_step_from: float = 1.0
    beta: float = 6.0
    teacher: str = ""
    distill: float = 1.0
    attention: float = 1.0
    init: str = ""
    keep_head: bool = False
    body_rate: float = 0.1
    total_steps: int = 0
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.2
    schedule: str = "one_cycle"
    peak_at: float = 0.3
    milestones: tuple[float, ...] = (0.5, 0.75)
    eps_ramp: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = False
    clip: float = 0.0
    label_smoothing: float = 0.0
    augmentation: str = ""
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0
    auxiliary_on: str = "adversarial"
    average: float = 0.0
    average_from: float = 0.25
    bn_momentum: float = 0.0
    holdout: float = 0.1
    select: bool = False
    seed: int = 0
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> Threat:
        """`norm` and `eps` as a threat model."""
        return Threat(self.norm, self.eps)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 <= value <= LARGEST_NUMBER:
                raise UsageError(f"{name} must be a number from 0 to 2**53, got {value}")
        try:
            Threat(self.norm, self.eps)
        except UsageError as error:
            raise UsageError(f"norm = {self.norm!r}, eps = {self.eps!r}: {error}") from error
        if not 0 < self.holdout < 1:
            raise UsageError(f"holdout must lie between 0 and 1, got {self.holdout}")
        if not 0 <= self.average < 1:
            raise UsageError(f"average must be 0 or a decay below 1, got {self.average}")
        if self.auxiliary_on not in ("adversarial", "clean"):
            raise UsageError(f"auxiliary_on must be adversarial or clean, got {self.auxiliary_on!r}")


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


def model_for(architecture: str) -> tuple[str, dict[str, Any]]:
    """Registered name and arguments for a model name, or for a genotype file or name (then a generic model).

    A genotype that is not bundled brings the channels and layers its search chose for it, if any.

    Args:
        architecture: any of these.

    Raises:
        UnknownNameError: neither a model nor a genotype. GenotypeError: no valid genotype file.
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


def read_recipe(path: str | Path) -> TrainConfig:
    """A training configuration from a recipe, the .toml file at `path`.

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
