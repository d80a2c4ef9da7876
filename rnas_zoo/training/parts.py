"""What a training is put together from: network, auxiliary head, optimiser, and the objective of each phase."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..reference import load as load_reference
from .average import norms
from .config import TrainConfig, build_model
from .cross_layer import CrossLayer, check_teacher
from .objectives import SINGLE_STEP, Objective
from .transfer import body_and_head, take_over

SINGLE, DOUBLE, MULTI = "single", "double", "multi"  # phases of a training


def network(config: TrainConfig, classes: int, device: torch.device) -> Any:
    """The network that learns, as timm makes it, with the weights that training starts from.

    Raises:
        UsageError: it cannot be built, or there is no head to keep.
        WeightsError: the weights of `config.init` do not fit.
    """
    model = build_model(config, classes)
    if config.keep_head and not config.init:
        raise UsageError("keep_head keeps the head of the model that training starts from: name one with --init")
    if config.init:
        take_over(model, config.init, head=config.keep_head)
    model.to(device=device, memory_format=torch.channels_last)
    for norm in norms(model) if config.bn_momentum else ():
        norm.momentum = config.bn_momentum
    return model


def auxiliary_head(config: TrainConfig, model: Any, height: int, device: torch.device) -> Any:
    """The auxiliary head of a cell network for images of so many pixels, None without an auxiliary weight.

    Raises:
        UsageError: the model is no cell network.
    """
    if not config.auxiliary_weight:
        return None
    if not hasattr(model, "auxiliary_head"):
        raise UsageError(f"auxiliary_weight needs a cell network; {config.architecture} has no auxiliary head")
    scale = model.feature_info[1]["reduction"] * 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        return model.auxiliary_head(height // scale).to(device)


def optimizer(
    config: TrainConfig, model: Any, auxiliary: nn.Module | None, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of all weights; the `factor` of each of its groups multiplies the learning rate.

    Raises:
        UsageError: unknown optimizer.
    """
    fused = device.type == "cuda"
    body, head = body_and_head(model) if config.init else ([], list(model.parameters()))
    head = [*head, *(auxiliary.parameters() if auxiliary else ())]
    groups: list[dict[str, Any]] = []
    for parameters, factor in ((head, 1.0), (body, config.body_rate)):
        decayed = [p for p in parameters if p.ndim > 1 or config.decay_all]
        plain = [p for p in parameters if p.ndim <= 1 and not config.decay_all]
        for some, decay in ((decayed, config.weight_decay), (plain, 0.0)):
            if some:
                groups.append({"params": some, "weight_decay": decay, "factor": factor})
    if config.optimizer == "sgd":
        momentum = config.momentum
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.learning_rate, capturable=fused)
    raise UsageError(f"unknown optimizer {config.optimizer!r}; use sgd or adam")


def objectives(
    config: TrainConfig,
    model: nn.Module,
    teacher: nn.Module | None,
    image_size: tuple[int, int],
    classes: int,
    device: torch.device,
) -> dict[str, Objective]:
    """The objective of each phase that a training has; `config.teacher` is loaded where no teacher is given.

    Raises:
        UsageError: a value out of range, or a teacher of other classes.
    """
    if teacher is None and config.teacher:
        teacher = load_reference(config.teacher)
    if teacher is not None:
        teacher = teacher.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        with torch.no_grad():
            check_teacher(teacher(torch.zeros(1, 3, *image_size, device=device)), classes)
    attends = teacher is not None and config.attention and config.objective != "rslad"
    if not 0 <= config.multi_step_from <= 1:
        raise UsageError(f"multi_step_from is a fraction of training, got {config.multi_step_from}")
    first = Objective(
        config.objective,
        config.attack_steps,
        config.attack,
        config.attack_mode,
        config.beta,
        config.label_smoothing,
        teacher,
        CrossLayer(model, teacher, image_size) if attends and teacher is not None else None,
        config.distill,
        config.attention,
    )
    found = {SINGLE: first}
    if first.images in SINGLE_STEP:
        found.update({DOUBLE: first.with_steps(2), MULTI: first.with_steps(config.attack_steps)})
    return found
