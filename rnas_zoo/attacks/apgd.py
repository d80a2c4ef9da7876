"""Auto-PGD, untargeted and targeted (Croce & Hein, ICML 2020): PGD that halves its step where progress stalls.

The update, the checkpoints and the two stalling conditions follow the authors' implementation to the last constant,
its zero row before the first loss included. What differs leaves verdicts alone: draws are keyed by image and not by
batch, all targets of an image ascend side by side, and an image that is broken is dropped at once.
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
from .result import WIDE, AttackResult, Keys, Logits, frozen, input_gradient, like
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
    """Targeted Auto-PGD on the DLR loss.

    Attributes:
        targets: number of classes to aim at, of rank 2 to `targets` + 1 of the clean logits.
        steps: gradient steps towards each of them.
        rho: as for `APGD`.
    """

    targets: int = 9
    steps: int = 100
    rho: float = 0.75


@dataclass(frozen=True)
class Ascent:
    """R runs of Auto-PGD.

    Attributes:
        x_best: the misclassified iterate, else the one of highest loss, (R, C, H, W).
        best: highest loss, (R,).
        step: the step that misclassified, -1 if none did, (R,).
        passes: forward passes spent, and as many backward.
    """

    x_best: Tensor
    best: Tensor
    step: Tensor
    passes: int


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
        noise = noise / noise.flatten(1).abs().amax(1).clamp_min(1e-12)[WIDE]
    else:
        noise = threat.ascent(random.normal(shape, **key))
    return like((x + threat.radius * noise.to(x.dtype)).clamp(0, 1), x)


class _Rows:
    """The runs still going: tensors whose first dimension shrinks together."""

    def __init__(self, x: Tensor, threat: Threat, first: Tensor) -> None:
        self.id = torch.arange(len(x), device=x.device)
        self.x_adv = self.previous = self.x_best = first
        self.threat = threat
        if threat.norm == "linf":
            self.low, self.high = (x - threat.radius).clamp_min(0), (x + threat.radius).clamp_max(1)
        else:
            self.clean = x

    def keep(self, mask: Tensor) -> None:
        rows = torch.nonzero(mask)[:, 0]
        self.threat = self.threat.take(rows)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[:, rows] if name == "history" else value[rows])

    def project(self, z: Tensor) -> Tensor:
        if self.threat.norm == "linf":
            return torch.clamp(z, self.low, self.high)
        return self.threat.project(z, self.clean)


def ascend(
    model: Logits,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    first: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    rho: float,
    image: Tensor,
) -> Ascent:
    """R runs of Auto-PGD side by side; a run ends early when one of its image's runs misclassified.

    Args:
        x, y, first: clean images, labels and starts of the runs, (R, C, H, W), (R,), (R, C, H, W).
        objective: maps logits (M, K) and the numbers (M,) of the runs they belong to, to losses (M,).
        image: which image a run attacks, integers (R,).
    """
    s: Any = _Rows(x, threat, first)
    x_best, best, step = first.clone(), torch.full_like(x[:, 0, 0, 0], -torch.inf), torch.full_like(y, -1)
    passes = 0

    def look() -> None:
        """Gradient and loss at the current iterates; runs of broken images are recorded and dropped."""
        nonlocal passes
        logits: list[Tensor] = []

        def loss(z: Tensor) -> Tensor:
            logits[:] = [model(z)]
            return objective(logits[0], s.id)

        gradient, value = input_gradient(loss, s.x_adv)
        s.gradient, s.value = losses.finite(gradient), losses.finite(value)
        passes += len(s.id)
        wrong = logits[0].detach().argmax(1) != y[s.id]
        if bool(wrong.any()):
            step[s.id[wrong]] = at
            x_best[s.id[wrong]] = s.x_adv[wrong]
            over = torch.isin(image[s.id], image[s.id[wrong]])
            put(over & ~wrong)
            s.keep(~over)

    def put(mask: Tensor) -> None:
        x_best[s.id[mask]], best[s.id[mask]] = s.x_best[mask], s.best[mask]

    s.best = best.clone()
    at = 0
    look()
    s.gradient_best, s.best, s.best_before = s.gradient, s.value, s.value
    s.size = (2 * threat.eps * torch.ones_like(step, dtype=x.dtype))[s.id]
    s.reduced = torch.ones_like(s.id, dtype=torch.bool)
    s.history = torch.zeros(steps, len(s.id), device=x.device, dtype=x.dtype)
    judged = dict(checkpoints(steps))
    for index in range(steps):
        if not len(s.id):
            break
        weight, at = MOMENTUM if index else 1.0, index + 1
        z = s.project(torch.addcmul(s.x_adv, s.size[WIDE], s.threat.ascent(s.gradient)))
        z = torch.lerp(s.x_adv, z, weight)
        if weight < 1:
            z = s.project(z.add_(s.x_adv - s.previous, alpha=1 - weight))
        s.previous, s.x_adv = s.x_adv, z
        look()
        s.history[index] = s.value
        better = s.value > s.best
        taken = better.to(x.dtype)[WIDE]  # lerp by 0 or 1 is exact, and several times faster than a masked choice
        s.x_best = torch.lerp(s.x_best, s.x_adv, taken)
        s.gradient_best = torch.lerp(s.gradient_best, s.gradient, taken)
        s.best = torch.where(better, s.value, s.best)
        if at in judged:
            rows = torch.arange(index, index - judged[at], -1, device=x.device)
            improving = (s.history[rows] > s.history[rows - 1]).sum(0)  # row -1 is the last, still zero
            stalled = (improving <= rho * judged[at]) | (~s.reduced & (s.best_before >= s.best))
            s.reduced, s.best_before = stalled, s.best
            s.size = torch.where(stalled, s.size / 2, s.size)
            s.x_adv = torch.where(stalled[WIDE], s.x_best, s.x_adv)
            s.gradient = torch.where(stalled[WIDE], s.gradient_best, s.gradient)
    put(torch.ones_like(s.id, dtype=torch.bool))
    return Ascent(x_best, best, step, passes)


def first_broken(step: Tensor, runs: int) -> tuple[Tensor, Tensor]:
    """Of `runs` runs per image (R,), image by image: the number of the run to report, and its step or -1, (N,) each."""
    table = step.view(-1, runs)
    never = torch.iinfo(step.dtype).max
    early, rank = torch.where(table >= 0, table, never).min(1)
    return torch.arange(len(table), device=step.device) * runs + rank, torch.where(early < never, early, -1)


def apgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: APGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,)."""
    loss = LOSSES[config.loss]
    x_adv, step, passes = x.clone(), torch.full_like(y, -1), 0
    with frozen(model):
        for restart in range(config.restarts):
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            part, labels, ball = x[left], y[left], threat.take(left)
            first = start(part, ball, keys.take(left), f"apgd-{config.loss}", restart)
            runs = ascend(
                model,
                part,
                labels,
                ball,
                first,
                partial(_lose, loss, labels),
                config.steps,
                config.rho,
                torch.arange(len(left), device=x.device),
            )
            passes += runs.passes
            x_adv[left], step[left] = runs.x_best, runs.step
    return AttackResult(x_adv, step >= 0, step, passes, passes)


def _lose(loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    return loss(logits, labels[rows])


def pull(labels: Tensor, target: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    """The targeted DLR loss of the logits of some runs, from the labels and targets of all."""
    return losses.targeted_dlr(logits, labels[rows], target[rows])


def apgd_t(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: APGDT, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); any misclassification counts."""
    with frozen(model):
        with torch.no_grad():
            targets = losses.ranked_targets(model(x), y, config.targets)
        ranks = targets.shape[1]
        image = torch.arange(len(x), device=x.device).repeat_interleave(ranks)
        target = targets.reshape(-1)
        starts = [start(x, threat, keys, "apgd-t", rank) for rank in range(ranks)]
        clean, labels = x[image], y[image]
        first = like(torch.stack(starts, 1).flatten(0, 1), clean)
        runs = ascend(
            model,
            clean,
            labels,
            threat.take(image),
            first,
            partial(pull, labels, target),
            config.steps,
            config.rho,
            image,
        )
    chosen, step = first_broken(runs.step, ranks)
    return AttackResult(runs.x_best[chosen], step >= 0, step, len(x) + runs.passes, runs.passes)
