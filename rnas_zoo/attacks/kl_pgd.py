"""PGD on the Kullback-Leibler divergence from the clean prediction: the inner maximisation of TRADES (ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import random
from . import losses
from .pgd import ascend, climb
from .result import AttackResult, Keys, Logits, frozen, like
from .threat import Threat


@dataclass(frozen=True)
class KLPGD:
    """TRADES' attack (Zhang et al., ICML 2019), which sees no labels; the last iterate is judged.

    Attributes:
        steps: gradient steps.
        relative_step: step size as a fraction of ε; the default is the paper's 0.003 at ε = 0.031.
        noise: standard deviation of the Gaussian start around the clean image, in pixels.
    """

    steps: int = 10
    relative_step: float = 0.003 / 0.031
    noise: float = 0.001


def kl_pgd(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: KLPGD, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1]; labels y (N,) only judge the result.

    The noisy start is projected onto ball and box, which the authors do from the first step on.
    """
    x = x.detach()
    first = _start(x, threat, config, keys)
    with frozen(model):
        with torch.no_grad():
            objective = partial(losses.kl, clean=model(x))
        size = config.relative_step * threat.radius
        x_adv, step, _ = ascend(model, x, y, threat, first, objective, config.steps, size, "last")
    return AttackResult(x_adv, step >= 0, step, (config.steps + 2) * len(x), config.steps * len(x))


def kl_pgd_images(model: Logits, x: Tensor, clean: Tensor, threat: Threat, config: KLPGD, keys: Keys) -> Tensor:
    """The last images of the ascent for training: not judged, `steps` forward and backward passes.

    Args:
        clean: logits (N, K) that predictions are driven away from: the model's own on x, or a teacher's.
    """
    x = x.detach()
    first = _start(x, threat, config, keys)
    return climb(model, x, threat, first, partial(losses.kl, clean=clean), config.steps, config.relative_step)


def _start(x: Tensor, threat: Threat, config: KLPGD, keys: Keys) -> Tensor:
    draw = random.normal(tuple(x.shape[1:]), seed=keys.seed, stream="kl-pgd", draw=0, positions=keys.positions)
    return threat.project(x + config.noise * like(draw, x), x).to(x.dtype)
