"""ARNAS: cells for accuracy near the input, cells for robustness near the output (Ou, Feng, Sun, CVPR 2024).

    min over α of ( L_nat(w*, α), λ L_adv(w*, α) )   subject to   w* = argmin of the cross-entropy on PGD images

Both gradients are second order, through one virtual step on the adversarial training loss. The step on α follows their
min-norm combination (MGDA, two tasks in closed form).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...attacks import Keys
from ...errors import UsageError
from .. import mgda
from ..config import FAST
from .base import Batch, Method, Metrics

if TYPE_CHECKING:
    from ..task import SearchTask


@dataclass(frozen=True)
class ArnasSettings:
    """Numbers of ARNAS.

    Attributes:
        adversarial_weight: λ, which multiplies the adversarial loss before MGDA; the published code's 0.1.

    Raises:
        UsageError: λ is not positive.
    """

    adversarial_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.adversarial_weight <= 0:
            raise UsageError(f"adversarial_weight must be positive, got {self.adversarial_weight}")


class Arnas(Method):
    """Three kinds of cells, two losses. The adversarial training images of a step serve both levels, as published."""

    space: ClassVar[str] = "accurate_robust_cells"
    second_order: ClassVar[bool] = True
    Settings: ClassVar[type] = ArnasSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"batch_size": 32, "channels": 24, "none": False, "attack_mode": "train"},
        "fast": {**FAST, "channels": 24, "none": False},
    }

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self._attacked: tuple[Tensor, Tensor] | None = None

    def weight_loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> Tensor:
        known, self._attacked = self._attacked, None
        x_adv = known[1] if known is not None and known[0] is x else search.attack(x, y, keys)
        return F.cross_entropy(search.net(x_adv), y)

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        (x, y), (u, v) = train, validation
        x_adv, u_adv = search.attack(x, y, keys), search.attack(u, v, keys)
        self._attacked = x, x_adv
        net, weight = search.net, self.settings.adversarial_weight
        natural, adversarial = search.unrolled(
            lambda: F.cross_entropy(net(x_adv), y),
            [lambda: F.cross_entropy(net(u), v), lambda: weight * F.cross_entropy(net(u_adv), v)],
        )
        gradients = [natural.full, adversarial.full]
        shares = mgda.weights(gradients)
        search.update(mgda.combine(gradients, shares))
        return {
            "validation_loss": natural.loss,
            "adversarial_validation_loss": adversarial.loss / weight,
            "mgda_natural": shares[0],
        }
