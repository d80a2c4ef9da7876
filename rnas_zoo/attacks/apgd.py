"""Auto-PGD, untargeted and targeted (Croce & Hein, ICML 2020): PGD that halves its step where progress stalls.

The update, the checkpoints and the two stalling conditions follow the authors' implementation to the last constant,
its zero row before the first loss included; only the draws differ (keyed by image, not by batch).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import random
from . import losses
from .result import AttackResult, Keys, Logits, frozen, input_gradient
from .threat import Threat

LOSSES = {"ce": losses.cross_entropy, "dlr": losses.dlr}
MOMENTUM = 0.75


@dataclass(frozen=True)
class APGD:
    """Untargeted Auto-PGD.

    Attributes:
        loss: `ce` (AutoAttack's first attack) or `dlr`.
        steps: gradient steps per restart.
        restarts: random starts.
        rho: fraction of improving steps below which the step size is halved.
    """

    loss: str = "ce"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75


@dataclass(frozen=True)
class APGDT:
    """Targeted Auto-PGD on the DLR loss: the classes of rank 2 to `targets` + 1 of the clean logits in turn."""

    targets: int = 9
    steps: int = 100
    rho: float = 0.75


def checkpoints(steps: int) -> list[tuple[int, int]]:
    """(step after which progress is judged, number of steps judged) for a run of `steps`."""
    length, found, at = max(int(0.22 * steps), 1), [], 0
    while at + length <= steps:
        at += length
        found.append((at, length))
        length = max(length - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def start(x: Tensor, threat: Threat, keys: Keys, stream: str, draw: int) -> Tensor:
    """A random image on the ball's surface, clamped to [0, 1]: one coordinate at ±ε, or a random direction (L2)."""
    key: dict[str, Any] = {"seed": keys.seed, "stream": stream, "draw": draw, "positions": keys.positions}
    shape = tuple(x.shape[1:])
    if threat.norm == "linf":
        noise = 2 * random.uniform(shape, **key) - 1
        noise = noise / noise.flatten(1).abs().amax(1).clamp_min(1e-12)[:, None, None, None]
    else:
        noise = threat.ascent(random.normal(shape, **key))
    return (x + threat.eps * noise.to(x.dtype)).clamp(0, 1)


def ascend(
    model: Logits,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    first: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    rho: float,
) -> tuple[Tensor, Tensor]:
    """One run of Auto-PGD from `first`; `objective` maps logits to losses (N,).

    Returns:
        The last misclassified iterate of each image (its start where there is none), and the first step that
        misclassified it, -1 if none did.
    """
    logits: list[Tensor] = []

    def loss(z: Tensor) -> Tensor:
        logits[:] = [model(z)]
        return objective(logits[0])

    def gradient(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, values = input_gradient(loss, z)
        return losses.finite(found), losses.finite(values), logits[0].detach().argmax(1) != y

    wide = (slice(None), None, None, None)
    judged = dict(checkpoints(steps))
    x_adv = previous = x_best = first
    g, value, wrong = gradient(x_adv)
    g_best, best, best_before = g, value, value
    found, step = x_adv, torch.where(wrong, 0, -1)
    size = torch.full_like(value, 2 * threat.eps)
    reduced = torch.ones_like(wrong)
    history = torch.zeros(steps, len(x), device=x.device, dtype=value.dtype)
    for index in range(steps):
        weight = MOMENTUM if index else 1.0
        z = threat.project(x_adv + size[wide] * threat.ascent(g), x)
        z = threat.project(x_adv + weight * (z - x_adv) + (1 - weight) * (x_adv - previous), x)
        previous, x_adv = x_adv, z
        g, value, wrong = gradient(x_adv)
        found = torch.where(wrong[wide], x_adv, found)
        step = torch.where(wrong & (step < 0), index + 1, step)
        history[index] = value
        better = value > best
        x_best, g_best = torch.where(better[wide], x_adv, x_best), torch.where(better[wide], g, g_best)
        best = torch.where(better, value, best)
        if index + 1 in judged:
            length = judged[index + 1]
            rows = torch.arange(index, index - length, -1, device=x.device)
            improving = (history[rows] > history[rows - 1]).sum(0)  # row -1 is the last, still zero
            stalled = (improving <= rho * length) | (~reduced & (best_before >= best))
            reduced, best_before = stalled, best
            size = torch.where(stalled, size / 2, size)
            x_adv, g = torch.where(stalled[wide], x_best, x_adv), torch.where(stalled[wide], g_best, g)
    return found, step


def apgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: APGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,)."""
    objective = LOSSES[config.loss]
    x_adv, step, images = x.clone(), torch.full_like(y, -1), 0
    with frozen(model):
        for restart in range(config.restarts):
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            part, labels, part_keys = x[left], y[left], Keys(keys.seed, keys.positions[left])
            first = start(part, threat, part_keys, f"apgd-{config.loss}", restart)
            found, at = ascend(
                model, part, labels, threat, first, partial(objective, y=labels), config.steps, config.rho
            )
            images += (config.steps + 1) * len(left)
            x_adv[left], step[left] = found, at
    return AttackResult(x_adv, step >= 0, step, images, images)


def apgd_t(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: APGDT, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); any misclassification counts."""
    x_adv, step = x.clone(), torch.full_like(y, -1)
    with frozen(model):
        with torch.no_grad():
            targets = losses.ranked_targets(model(x), y, config.targets)
        forwards, backwards = len(x), 0
        for rank in range(targets.shape[1]):
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            part, labels, target = x[left], y[left], targets[left, rank]
            first = start(part, threat, Keys(keys.seed, keys.positions[left]), "apgd-t", rank)
            aim = partial(losses.targeted_dlr, y=labels, target=target)
            found, at = ascend(model, part, labels, threat, first, aim, config.steps, config.rho)
            forwards += (config.steps + 1) * len(left)
            backwards += (config.steps + 1) * len(left)
            x_adv[left], step[left] = found, torch.where(at >= 0, at + rank * config.steps, -1)
    return AttackResult(x_adv, step >= 0, step, forwards, backwards)
