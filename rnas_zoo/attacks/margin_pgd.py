"""PGD on the margin of the logits: what papers on adversarial training call "CW-L∞" or "CW∞".

The loss is Carlini & Wagner's (S&P 2017), the optimiser Madry's (ICLR 2018). It is not the L2 attack of `cw`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import losses
from .pgd import PGD, restart
from .result import AttackResult, Keys, Logits, frozen
from .threat import Threat


@dataclass(frozen=True)
class MarginPGD(PGD):
    """PGD that raises min(margin, kappa); papers take 30 or 100 steps, the step size is PGD's.

    Attributes:
        steps, relative_step, random_start, keep, restarts: as in `PGD`.
        kappa: margin in logits up to which a misclassified image is pushed on; 0 stops at the boundary.
        targets: 0 for the margin over the strongest other class at each step, else the number of classes, those
            strongest on the clean image first, to aim at in turn (z_t - z_y); each has its own start.
    """

    steps: int = 30
    kappa: float = 50.0
    targets: int = 0


def margin_pgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: MarginPGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); with targets, too, any misclassification counts.

    Images broken by one target or restart are left out of the next; `step` counts on over the runs.
    """
    if not config.targets:

        def untargeted(run: int, rows: Any) -> Callable[[Tensor], Tensor]:
            return lambda logits: losses.margin(logits, y[rows]).clamp_max(config.kappa)

        return restart(model, x, y, threat, config, keys, "margin-pgd", untargeted, config.restarts)

    with frozen(model), torch.no_grad():
        targets = losses.ranked_targets(model(x), y, config.targets)
    classes = targets.shape[1]

    def targeted(run: int, rows: Any) -> Callable[[Tensor], Tensor]:
        aim = targets[rows, run % classes]
        return lambda logits: losses.targeted_margin(logits, y[rows], aim).clamp_max(config.kappa)

    found = restart(model, x, y, threat, config, keys, "margin-pgd-targeted", targeted, config.restarts * classes)
    return AttackResult(found.x_adv, found.broken, found.step, found.forwards + len(x), found.backwards)
