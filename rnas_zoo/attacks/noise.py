"""Random noise of the threat model's size: the control every attack must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import random
from .result import AttackResult, Keys, Logits
from .threat import Threat


@dataclass(frozen=True)
class Noise:
    """Corners of the ball (random signs under L∞, random directions under L2), `draws` of them."""

    draws: int = 5


def noise(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: Noise, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,)."""
    x_adv, step = x.clone(), torch.full_like(y, -1)
    for index in range(config.draws):
        if threat.norm == "linf":
            direction = random.signs(
                tuple(x.shape[1:]), seed=keys.seed, stream="noise", draw=index, positions=keys.positions
            )
        else:
            direction = threat.ascent(
                random.normal(tuple(x.shape[1:]), seed=keys.seed, stream="noise", draw=index, positions=keys.positions)
            )
        candidate = threat.project(x + threat.radius * direction, x).to(x.dtype)
        with torch.no_grad():
            new = (model(candidate).argmax(1) != y) & (step < 0)
        if index == 0:
            x_adv = candidate
        x_adv = torch.where(new[:, None, None, None], candidate, x_adv)
        step = torch.where(new, index + 1, step)
    return AttackResult(x_adv, step >= 0, step, config.draws * len(x), 0)
