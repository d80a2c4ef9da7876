"""Targeted Auto-PGD that spends its steps where they pay: on the classes whose boundary comes nearest.

Every image is pulled towards several classes for a few steps; after each rung only its most promising targets climb on
from where they are. The losses and steps are AutoAttack's (Croce & Hein, ICML 2020); the elimination is successive
halving (Jamieson & Talwalkar, AISTATS 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import losses
from .apgd import ascend, first_broken, pull, start
from .result import AttackResult, Keys, Logits, frozen, like
from .threat import Threat


@dataclass(frozen=True)
class Halving:
    """Targeted Auto-PGD in rungs.

    Attributes:
        rungs: (targets, steps) one after the other; the targets of the first are those of rank 2 and up of the clean
            logits, each later rung keeps the best of the one before.
        rho: as for `APGD`.
    """

    rungs: tuple[tuple[int, int], ...] = ((9, 10), (3, 30), (1, 100))
    rho: float = 0.75


def halving(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: Halving, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); any misclassification counts."""
    x_adv, step = x.clone(), torch.full_like(y, -1)
    with frozen(model):
        with torch.no_grad():
            targets = losses.ranked_targets(model(x), y, config.rungs[0][0])
        starts = [start(x, threat, keys, "halving", rank) for rank in range(targets.shape[1])]
        first = torch.stack(starts, 1)
        left, passes, spent, value = torch.arange(len(x), device=x.device), 0, 0, torch.empty_like(targets)
        for number, (count, steps) in enumerate(config.rungs):
            count = min(count, targets.shape[1])
            if number:
                order = value.topk(count, dim=1).indices
                targets = targets.gather(1, order)
                first = first.gather(1, order[:, :, None, None, None].expand(-1, -1, *x.shape[1:]))
            if not len(left):
                break
            image = torch.arange(len(left), device=x.device).repeat_interleave(count)
            clean, labels, target = x[left][image], y[left][image], targets.reshape(-1)
            runs = ascend(
                model,
                clean,
                labels,
                threat.take(left[image]),
                like(first.flatten(0, 1), clean),
                partial(pull, labels, target),
                steps,
                config.rho,
                image,
            )
            passes += runs.passes
            chosen, at = first_broken(runs.step, count)
            broken = at >= 0
            x_adv[left], step[left] = runs.x_best[chosen], torch.where(broken, at + spent, -1)
            spent += steps
            shape = (len(left), count)
            value, first = runs.best.view(shape)[~broken], runs.x_best.view(*shape, *x.shape[1:])[~broken]
            left, targets = left[~broken], targets[~broken]
        if len(left):
            x_adv[left] = first[torch.arange(len(left)), value.argmax(1)]
    return AttackResult(x_adv, step >= 0, step, len(x) + passes, passes)
