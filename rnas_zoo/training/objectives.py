"""What training minimises: the images each objective learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..attacks import PGD, Keys, Threat, pgd
from ..errors import UnknownNameError, UsageError, closest

Perturb = Callable[[nn.Module, Tensor, Tensor, Threat, Keys], Tensor]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, so that attacks leave batch statistics alone."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def clean(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
    """Standard training: the images as they are."""
    return x


def adversarial(steps: int) -> Perturb:
    """PGD adversarial training (Madry et al., ICLR 2018): images of PGD with `steps` steps, network in evaluation mode.

    Step size is ε/4 from seven steps on (the papers' 2/255 at ε = 8/255) and wide enough to cross the ball below.

    Raises:
        UsageError: fewer than one step.
    """
    if steps < 1:
        raise UsageError(f"adversarial training needs at least one attack step, got {steps}; use objective `clean`")
    config = PGD(steps=steps, relative_step=max(0.25, 1.75 / steps))

    def perturb(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
        with evaluating(model):
            return pgd(model, x, y, threat, config, keys).x_adv

    return perturb


OBJECTIVES = ("clean", "pgd")


def perturbation(objective: str, attack_steps: int) -> Perturb:
    """The function that turns clean training images into those the objective learns from.

    Raises:
        UnknownNameError: no such objective.
    """
    if objective == "clean":
        return clean
    if objective == "pgd":
        return adversarial(attack_steps)
    raise UnknownNameError(
        f"unknown objective {objective!r}.{closest(objective, list(OBJECTIVES))} Known: {', '.join(OBJECTIVES)}."
    )


def keys_of_step(seed: int, step: int, batch: int, device: torch.device) -> Keys:
    """Draw keys of a training batch: images are numbered through the whole run."""
    return Keys(seed, torch.arange(step * batch, (step + 1) * batch, device=device))
