"""What training minimises: the images each objective learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..attacks import FGSMRS, NFGSM, PGD, Keys, Threat, n_fgsm_images, pgd_images
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


def adversarial(steps: int, mode: str = "eval") -> Perturb:
    """PGD adversarial training (Madry et al., ICLR 2018): images of PGD with `steps` steps.

    Step size is ε/4 from seven steps on (the papers' 2/255 at ε = 8/255) and wide enough to cross the ball below.

    Args:
        mode: `eval`: the network attacked uses its running statistics; `train`: those of the batch, and updates them.

    Raises:
        UsageError: fewer than one step, or an unknown mode.
    """
    if steps < 1:
        raise UsageError(f"adversarial training needs at least one attack step, got {steps}; use objective `clean`")
    config = PGD(steps=steps, relative_step=max(0.25, 1.75 / steps))
    return _attacking(lambda net, x, y, threat, keys: pgd_images(net, x, y, threat, config, keys), mode)


def single_step(name: str, mode: str = "eval") -> Perturb:
    """One gradient per image: `nfgsm` (de Jorge et al., NeurIPS 2022) or `fgsm_rs` (Wong et al., ICLR 2020).

    Raises:
        UsageError: an unknown mode.
    """
    config = NFGSM() if name == "nfgsm" else FGSMRS()
    return _attacking(lambda net, x, y, threat, keys: n_fgsm_images(net, x, y, threat, config, keys), mode)


def _attacking(attack: Perturb, mode: str) -> Perturb:
    if mode not in MODES:
        raise UsageError(f"unknown attack mode {mode!r}; use eval or train")

    def perturb(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
        with evaluating(model) if mode == "eval" else nullcontext():
            return attack(model, x, y, threat, keys)

    return perturb


OBJECTIVES = ("clean", "pgd", "nfgsm", "fgsm_rs")
SINGLE_STEP = ("nfgsm", "fgsm_rs")
MODES = ("eval", "train")


def perturbation(objective: str, attack_steps: int, mode: str = "eval") -> Perturb:
    """The function that turns clean training images into those the objective learns from.

    Raises:
        UnknownNameError: no such objective.
    """
    if objective == "clean":
        return clean
    if objective == "pgd":
        return adversarial(attack_steps, mode)
    if objective in SINGLE_STEP:
        return single_step(objective, mode)
    raise UnknownNameError(
        f"unknown objective {objective!r}.{closest(objective, list(OBJECTIVES))} Known: {', '.join(OBJECTIVES)}."
    )


def keys_of_step(seed: int, step: int, batch: int, device: torch.device) -> Keys:
    """Draw keys of a training batch: images are numbered through the whole run."""
    return Keys(seed, torch.arange(step * batch, (step + 1) * batch, device=device))
