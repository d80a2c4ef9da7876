"""Fast gradient sign method (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses
from .result import AttackResult, Keys, Logits, frozen, input_gradient
from .threat import Threat


@dataclass(frozen=True)
class FGSM:
    """One step of size ε from the clean image, no random start."""


def fgsm(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: FGSM, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); no draws are used."""
    with frozen(model):
        gradient, _ = input_gradient(lambda z: losses.cross_entropy(model(z), y), x)
        x_adv = threat.project(x + threat.radius * threat.ascent(losses.finite(gradient)), x).to(x.dtype)
        with torch.no_grad():
            broken = model(x_adv).argmax(1) != y
    return AttackResult(x_adv, broken, torch.where(broken, 1, -1), 2 * len(x), len(x))
