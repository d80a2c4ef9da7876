"""Momentum iterative FGSM (Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import losses
from .pgd import ascend
from .result import WIDE, AttackResult, Keys, Logits, frozen
from .threat import Threat


@dataclass(frozen=True)
class MIFGSM:
    """`steps` steps of size ε / steps from the clean image; the last iterate is judged.

    Attributes:
        steps: gradient steps.
        decay: weight of the accumulated gradient at each step (μ of the paper).
    """

    steps: int = 10
    decay: float = 1.0


def mi_fgsm(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: MIFGSM, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); no draws are used.

    Each gradient is divided by its L1 norm, as in the paper; its L1 mean, as in the authors' code, gives the same
    images.
    """
    x = x.detach()
    total = torch.zeros_like(x)

    def direction(gradient: Tensor) -> Tensor:
        nonlocal total
        total = config.decay * total + gradient / gradient.abs().flatten(1).sum(1).clamp_min(1e-12)[WIDE]
        return threat.ascent(total)

    objective = partial(losses.cross_entropy, y=y)
    size = threat.radius / max(config.steps, 1)
    with frozen(model):
        x_adv, step, _ = ascend(model, x, y, threat, x, objective, config.steps, size, "last", direction)
    return AttackResult(x_adv, step >= 0, step, (config.steps + 1) * len(x), config.steps * len(x))
