"""RNAS beyond DARTS (ICLR 2022 submission): an architecture search under a limit on network vulnerability.

    min over α of L_val(w*, α) + L_val_adv(w*, α)   subject to   w* = argmin L_train_adv,   F(α) <= H

F is the mean Kullback-Leibler divergence between the channels of all cells' outputs on clean and on adversarial images
(searching.vulnerability). Each epoch alternates: first-order search steps, then, with the weights at rest, projections
of α onto {F <= H}. The authors' search code with the constraint was never released; the projection is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attacks import Keys
from ...errors import UsageError
from ..config import FAST
from ..vulnerability import READINGS, network_vulnerability, projection
from .base import Batch, Method, Metrics

if TYPE_CHECKING:
    from ..task import SearchTask


@dataclass(frozen=True)
class RnasVulnSettings:
    """Numbers of the constraint.

    Attributes:
        limit: H; 0: `relative_limit` times F at the first projection, since the size of F depends on its reading.
        relative_limit: the stronger RNAS-H would have a smaller one than RNAS-L.
        reading: the divergence of a channel, `softmax` over its positions or `gaussian`.
        adversarial_only: search steps on the adversarial validation loss alone.

    Raises:
        UsageError: a number outside its range, or an unknown reading.
    """

    limit: float = 0.0
    relative_limit: float = 0.5
    reading: str = "softmax"
    adversarial_only: bool = False

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise UsageError(f"reading must be one of {', '.join(READINGS)}, got {self.reading!r}")
        if self.limit < 0 or self.relative_limit <= 0:
            raise UsageError("limit must not be negative, and relative_limit must be positive")


class RnasVuln(Method):
    """Search steps in the first part of each epoch, projections in its tail."""

    Settings: ClassVar[type] = RnasVulnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "epochs": 60,
            "batch_size": 128,
            "warmup": 0.25,
            "tail": 0.5,
            "learning_rate": 0.01,
            "learning_rate_floor": 0.0,
            "arch_learning_rate": 6e-4,
            "settings": {"limit": 1e-4},
        },
        "fast": {**FAST, "tail": 0.25},
    }

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.state = {"limit": torch.tensor(float(self.settings.limit))}

    def weight_loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> Tensor | None:
        return None if search.in_tail else super().weight_loss(search, x, y, keys)

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        x, y = validation
        x_adv = search.attack(x, y, keys)
        if search.in_tail:
            return self.project(search, x, x_adv)
        adversarial = F.cross_entropy(search.net(x_adv), y)
        loss = adversarial
        metrics = {"adversarial_validation_loss": adversarial.detach()}
        if not self.settings.adversarial_only:
            natural = F.cross_entropy(search.net(x), y)
            loss, metrics["validation_loss"] = adversarial + natural, natural.detach()
        search.update(search.gradients(loss, search.alphas))
        return metrics

    def project(self, search: SearchTask, x: Tensor, x_adv: Tensor) -> Metrics:
        """One step of α towards {F <= H}, from clean images and their adversarial twins (N, C, H, W)."""
        with search.net.untracked():
            clean, adversarial = search.net.features(x)[1], search.net.features(x_adv)[1]
            vulnerability = network_vulnerability(clean, adversarial, self.settings.reading)
        gradients = search.gradients(vulnerability, search.alphas)
        (value,) = search.average([vulnerability.detach()])
        limit = self.state["limit"]
        limit.copy_(torch.where(limit > 0, limit, self.settings.relative_limit * value))
        for alpha, new in zip(search.alphas, projection(search.alphas, value, limit, gradients), strict=True):
            alpha.data.copy_(new)
        return {"vulnerability": value, "vulnerability_limit": limit.clone()}
