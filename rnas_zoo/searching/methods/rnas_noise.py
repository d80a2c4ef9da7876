"""RNAS with noise examples (Zhu, Li, Liu, Wang, arXiv 2304.02845): a reconstruction.

The abstract says that noise examples take the place of adversarial ones, and that a regulariser balances natural
accuracy and robustness. The body of the paper was not at hand and no code is public. This file reads the abstract as

    min over α of CE_val(f(x)) + λ KL(f(x) ‖ f(x̃))   subject to   w = argmin CE_train(f(x̃)),   x̃ = clip(x + δ, 0, 1)

with δ uniform in the threat model's ball. No figure of that paper describes what this file finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ... import random
from ...attacks import Keys, losses
from ...attacks.pgd import start_point
from ...errors import UsageError
from ..config import FAST
from .base import Batch, Method, Metrics

if TYPE_CHECKING:
    from ..task import SearchTask

NOISES = ("uniform", "gaussian", "sign")
REGULARISERS = ("kl", "logits", "loss")


@dataclass(frozen=True)
class RnasNoiseSettings:
    """Numbers of the reconstruction.

    Attributes:
        balance: λ.
        noise: `uniform` in the ball, `gaussian` of standard deviation ε, or `sign`, ±ε per pixel.
        regulariser: `kl`, `logits` (squared distance of the logits), or `loss` (distance of the losses).

    Raises:
        UsageError: an unknown name or a negative λ.
    """

    balance: float = 1.0
    noise: str = "uniform"
    regulariser: str = "kl"

    def __post_init__(self) -> None:
        if self.noise not in NOISES or self.regulariser not in REGULARISERS:
            raise UsageError(
                f"noise is one of {', '.join(NOISES)} and regulariser one of {', '.join(REGULARISERS)}, "
                f"got {self.noise!r} and {self.regulariser!r}"
            )
        if self.balance < 0:
            raise UsageError(f"balance must not be negative, got {self.balance}")


class RnasNoise(Method):
    """One extra forward pass on noise in the place of an attack's many; λ = 0 without noise is DARTS."""

    Settings: ClassVar[type] = RnasNoiseSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"attack": "clean"},
        "fast": {**FAST, "attack": "clean"},
    }

    def weight_loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> Tensor:
        return F.cross_entropy(search.net(self.noisy(search, x, keys)), y)

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        x, y = validation
        logits = search.net(x)
        loss = natural = F.cross_entropy(logits, y)
        metrics = {"validation_loss": natural.detach()}
        if self.settings.balance:
            with search.net.untracked():
                distance = self.regulariser(logits, search.net(self.noisy(search, x, keys)), y)
            loss = natural + self.settings.balance * distance
            metrics["regulariser"] = distance.detach()
        search.update(search.gradients(loss, search.alphas))
        return metrics

    def noisy(self, search: SearchTask, x: Tensor, keys: Keys) -> Tensor:
        """Noise examples of images x (N, C, H, W), fresh for every step."""
        if self.settings.noise == "uniform":
            return start_point(x, search.threat, keys, "noise-examples")
        shape = tuple(x.shape[1:])
        delta = random.normal(shape, seed=keys.seed, stream="noise-examples", draw=0, positions=keys.positions)
        delta = delta.sign() if self.settings.noise == "sign" else delta
        return (x + search.threat.radius * delta).clamp(0, 1)

    def regulariser(self, clean: Tensor, noisy: Tensor, y: Tensor) -> Tensor:
        """R, the mean over images of how far the predictions on noise lie from those on the images."""
        if self.settings.regulariser == "kl":
            p, q = clean.log_softmax(1), noisy.log_softmax(1)
            return (p.exp() * (p - q)).sum(1).mean()
        if self.settings.regulariser == "logits":
            return (clean - noisy).square().sum(1).mean()
        return (losses.cross_entropy(noisy, y) - losses.cross_entropy(clean, y)).abs().mean()
