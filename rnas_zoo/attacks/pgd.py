"""Projected gradient descent on the cross-entropy (Madry et al., ICLR 2018), and the loop its relatives share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import random
from ..errors import UsageError
from . import losses
from .result import WIDE, AttackResult, Keys, Logits, frozen, input_gradient, like
from .threat import Threat

KEEPS = ("last", "any", "best")


@dataclass(frozen=True)
class PGD:
    """PGD with a uniform random start.

    Attributes:
        steps: gradient steps.
        relative_step: step size as a fraction of ε; 1/4 is the 2/255 of the papers at ε = 8/255.
        random_start: start at a uniform point of the ball (L∞) or a random direction inside it (L2).
        keep: `last` judges the last iterate, as the papers do; `any` keeps the first misclassified one; `best` judges
            the one of highest loss.
        restarts: runs, each from its own start, on the images that no run before has broken.

    Raises:
        UsageError: an unknown `keep`, or no or pointless restarts.
    """

    steps: int = 20
    relative_step: float = 0.25
    random_start: bool = True
    keep: str = "last"
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.keep not in KEEPS:
            raise UsageError(f"unknown keep {self.keep!r}, known are {', '.join(KEEPS)}")
        if self.restarts < 1:
            raise UsageError(f"restarts must be at least 1, got {self.restarts}")
        if self.restarts > 1 and not self.random_start:
            raise UsageError("without a random start every restart is the same run; set restarts=1")


def offset(x: Tensor, threat: Threat, keys: Keys, stream: str, draw: int = 0) -> Tensor:
    """A random perturbation of size up to ε for each image: uniform (L∞), or a direction of uniform length (L2)."""
    shape = tuple(x.shape[1:])
    key: dict[str, Any] = {"seed": keys.seed, "draw": draw, "positions": keys.positions}
    if threat.norm == "linf":
        return threat.radius * (2 * random.uniform(shape, stream=stream, **key) - 1)
    radius = random.uniform((1, 1, 1), stream=f"{stream}-radius", **key)
    return threat.radius * radius * threat.ascent(random.normal(shape, stream=stream, **key))


def start_point(x: Tensor, threat: Threat, keys: Keys, stream: str, draw: int = 0) -> Tensor:
    """A random image of the ball around each x, clamped to [0, 1]."""
    return threat.project(x + like(offset(x, threat, keys, stream, draw), x), x).to(x.dtype)


def ascend(
    model: Logits,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    first: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    size: float | Tensor,
    keep: str,
    direction: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One run of projected ascent from `first`: `steps` + 1 forward and `steps` backward passes per image.

    Args:
        objective: maps logits (N, K) to the losses (N,) to raise.
        size: step length in pixels, a number or (N, 1, 1, 1).
        keep: which iterate is judged, see `PGD`.
        direction: maps the gradient to the step of unit size; None for the threat model's steepest ascent.

    Returns:
        The image kept, the step that broke it (-1 if it is classified correctly), and its loss.
    """
    logits: list[Tensor] = []
    direction = direction or threat.ascent

    def loss(z: Tensor) -> Tensor:
        logits[:] = [model(z)]
        return objective(logits[0])

    z, found, step = first, first, torch.full_like(y, -1)
    best = torch.full_like(step, float("-inf"), dtype=x.dtype)
    for index in range(steps + 1):
        if index < steps:
            gradient, value = input_gradient(loss, z)
        else:
            with torch.no_grad():
                value = loss(z)
        if keep != "last" or index == steps:
            value = losses.finite(value).to(x.dtype)
            at = torch.where(logits[0].detach().argmax(1) != y, index, -1)
            taken = step < 0 if keep == "any" else value > best
            found = torch.where(taken[WIDE], z, found)
            step, best = torch.where(taken, at, step), torch.where(taken, value, best)
        if index < steps:
            z = threat.project(z + size * direction(losses.finite(gradient)), x).to(x.dtype)
    return found, step, best


def restart(
    model: Logits,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    config: PGD,
    keys: Keys,
    stream: str,
    objective: Callable[[int, Any], Callable[[Tensor], Tensor]],
    runs: int,
) -> AttackResult:
    """`runs` runs of `ascend`, each on the images still unbroken; those never broken end at their highest loss.

    Args:
        stream: name of the draws of the starts; run r takes draw r.
        objective: gives what run r maximises on some rows (an index into N) of the batch.
    """
    x = x.detach()
    x_adv, step, images = x.clone(), torch.full_like(y, -1), 0
    best = torch.full_like(step, float("-inf"), dtype=x.dtype)
    with frozen(model):
        for run in range(runs):
            rows: Any = torch.nonzero(step < 0)[:, 0] if run else slice(None)
            part, labels, ball = x[rows], y[rows], threat.take(rows)
            if not len(part):
                break
            first = part
            if config.random_start:
                first = start_point(part, ball, keys.take(rows), stream, run)
            aim, size = objective(run, rows), config.relative_step * ball.radius
            found, at, value = ascend(model, part, labels, ball, first, aim, config.steps, size, config.keep)
            images += len(part)
            better = (at >= 0) | (value > best[rows])
            x_adv[rows] = torch.where(better[WIDE], found, x_adv[rows])
            best[rows] = torch.where(better, value, best[rows])
            step[rows] = torch.where(at >= 0, at + run * config.steps, -1)
    return AttackResult(x_adv, step >= 0, step, (config.steps + 1) * images, config.steps * images)


def pgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: PGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); `step` counts on over the restarts."""

    def objective(run: int, rows: Any) -> Callable[[Tensor], Tensor]:
        return partial(losses.cross_entropy, y=y[rows])

    return restart(model, x, y, threat, config, keys, "pgd", objective, config.restarts)


def pgd_images(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: PGD, keys: Keys) -> Tensor:
    """The last images of one run of `pgd` for training: not judged, `steps` forward and backward passes."""
    x = x.detach()
    first = start_point(x, threat, keys, "pgd") if config.random_start else x
    return climb(model, x, threat, first, partial(losses.cross_entropy, y=y), config.steps, config.relative_step)


def climb(
    model: Logits,
    x: Tensor,
    threat: Threat,
    first: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    relative_step: float,
) -> Tensor:
    """`ascend` for training: the last image of `steps` steps from `first`, which nobody judges."""
    z = first
    with frozen(model):
        for _ in range(steps):
            gradient, _ = input_gradient(lambda found: objective(model(found)), z)
            step = relative_step * threat.radius * threat.ascent(losses.finite(gradient))
            z = threat.project(z + step, x).to(x.dtype)
    return z
