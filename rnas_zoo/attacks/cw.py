"""The L2 attack of Carlini & Wagner (S&P 2017) with one fixed constant, as robust-NAS papers run it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses
from .result import WIDE, AttackResult, Keys, Logits, frozen, input_gradient
from .threat import Threat

INSIDE = 1 - 1e-6


@dataclass(frozen=True)
class CW:
    """Adam on ‖x' - x‖² + c max(z_y - max_{j≠y} z_j, -kappa), x' = (tanh w + 1) / 2; no search for c.

    Attributes:
        c: weight of the margin.
        kappa: margin in logits up to which the loss pushes a misclassified image on.
        steps: iterates looked at; the first is the clean image.
        lr: Adam's step size in w.
    """

    c: float = 0.5
    kappa: float = 0.0
    steps: int = 100
    lr: float = 0.01


def cw(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: CW, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); no draws are used.

    The attack has no ε: `threat` is not used, and `broken` means misclassified at any distance. Report `mean_l2`, not
    an accuracy "at ε". `x_adv` is the misclassified iterate nearest to x, or x where there is none; `step` is its
    number. Images do not influence each other. Pixels at 0 or 1 start 5e-7 inside, so they can move.
    """
    x = x.detach()
    w = torch.atanh((2 * x - 1) * INSIDE)
    adam = torch.optim.Adam([w], lr=config.lr)
    x_adv, step = x.clone(), torch.full_like(y, -1)
    nearest = torch.full_like(step, float("inf"), dtype=x.dtype)
    seen: list[Tensor] = []

    def loss(w: Tensor) -> Tensor:
        z = (torch.tanh(w) + 1) / 2
        square = (z - x).square().flatten(1).sum(1)
        margin = losses.margin(model(z), y)
        seen[:] = [z.detach(), square.detach(), margin.detach()]
        return square + config.c * (-margin).clamp_min(-config.kappa)

    with frozen(model):
        for index in range(config.steps):
            gradient, _ = input_gradient(loss, w)
            z, square, margin = seen
            better = (margin > 0) & (square < nearest)
            nearest = torch.where(better, square, nearest)
            x_adv, step = torch.where(better[WIDE], z, x_adv), torch.where(better, index, step)
            w.grad = losses.finite(gradient)
            adam.step()
    return AttackResult(x_adv, step >= 0, step, config.steps * len(x), config.steps * len(x))


def mean_l2(result: AttackResult, x: Tensor) -> tuple[float, int]:
    """Mean L2 distance, in pixels of [0, 1], of the images a result found from x (N, C, H, W), and their number.

    (nan, 0) if there are none. Images misclassified from the start count, with a distance near 0.
    """
    distances = Threat("l2", 0).distance(result.x_adv, x)[result.broken]
    return float(distances.mean()), len(distances)
