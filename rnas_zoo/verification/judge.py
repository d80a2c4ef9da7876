"""One function judges every adversarial image, whoever found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks import Threat, losses

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Judgement:
    """Verdicts on N images.

    Attributes:
        broken: inside ball and box, finite logits, misclassified.
        refused: non-finite logits; such an image counts neither as robust nor as broken.
        margin: logit of the label minus the largest other logit; negative where misclassified.
        norm: distance from the clean image in the threat model's norm.
    """

    broken: Tensor
    refused: Tensor
    margin: Tensor
    norm: Tensor


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit, (N,)."""
    return -losses.margin(logits, y)


@torch.no_grad()
def judge(logits: Callable[[Tensor], Tensor], x: Tensor, x_adv: Tensor, y: Tensor, threat: Threat) -> Judgement:
    """Judge images x_adv (N, C, H, W) against their clean images x and labels y (N,), in fp32."""
    found = logits(x_adv).float()
    refused = ~torch.isfinite(found).all(1)
    norm = threat.distance(x_adv, x)
    inside = (norm <= threat.eps + TOLERANCE) & (x_adv >= 0).flatten(1).all(1) & (x_adv <= 1).flatten(1).all(1)
    margin = margins(torch.nan_to_num(found), y)
    return Judgement((found.argmax(1) != y) & inside & ~refused, refused, margin, norm)
