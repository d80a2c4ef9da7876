"""Projected gradient descent on the cross-entropy (Madry et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import random
from .result import AttackResult, Keys, Logits, frozen, input_gradient
from .threat import Threat


@dataclass(frozen=True)
class PGD:
    """PGD with a uniform random start.

    Attributes:
        steps: gradient steps.
        relative_step: step size as a fraction of ε; 1/4 is the 2/255 of the papers at ε = 8/255.
        random_start: start at a uniform point of the ball (L∞) or a random direction inside it (L2).
        keep: `last` judges the last iterate, as the papers do; `any` keeps the first misclassified one.
    """

    steps: int = 20
    relative_step: float = 0.25
    random_start: bool = True
    keep: str = "last"


def start_point(x: Tensor, threat: Threat, keys: Keys, stream: str, draw: int = 0) -> Tensor:
    """A random image of the ball around each x, clamped to [0, 1]."""
    shape = tuple(x.shape[1:])
    key: dict[str, Any] = {"seed": keys.seed, "draw": draw, "positions": keys.positions}
    if threat.norm == "linf":
        return threat.project(x + threat.eps * (2 * random.uniform(shape, stream=stream, **key) - 1), x)
    radius = random.uniform((1, 1, 1), stream=f"{stream}-radius", **key)
    return threat.project(x + threat.eps * radius * threat.ascent(random.normal(shape, stream=stream, **key)), x)


def pgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: PGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,)."""
    logits: list[Tensor] = []

    def loss(z: Tensor) -> Tensor:
        logits[:] = [model(z)]
        return F.cross_entropy(logits[0], y, reduction="none")

    x_adv = start_point(x, threat, keys, "pgd") if config.random_start else x.clone()
    found, step = x_adv, torch.full_like(y, -1)

    def look(z: Tensor, at: int) -> None:
        nonlocal found, step
        wrong = logits[0].detach().argmax(1) != y
        new = wrong & (step < 0)
        step = torch.where(new, at, step)
        found = torch.where(new[:, None, None, None], z, found)

    with frozen(model):
        for index in range(config.steps):
            gradient, _ = input_gradient(loss, x_adv)
            if config.keep == "any":
                look(x_adv, index)
            x_adv = threat.project(x_adv + config.relative_step * threat.eps * threat.ascent(gradient), x)
        with torch.no_grad():
            loss(x_adv)
    look(x_adv, config.steps)
    broken = step >= 0
    found = torch.where(broken[:, None, None, None], found, x_adv)
    return AttackResult(found, broken, step, (config.steps + 1) * len(x), config.steps * len(x))
