"""E2RNAS: robustness below, accuracy and size above (Yue, Lin, Huang, Zhang, arXiv 2011.09820).

    min over α of ( L_val(w*, α), R(α) )   subject to   w* = argmin of the loss on single-step adversarial images

R is the expected number of parameters (searching.cost) under a constraint. The combination of both is MGDA's, from
first-order gradients at the virtual weights; the step on α adds the second-order term of the weighted loss. The form of
the constraint in the paper could not be read; the modes are those of the published code without its over-count.
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

CONSTRAINTS = ("floor", "abs", "grow", "shrink", "none")
# The solver of the published code gives no task less than this, so that a flat R does not stop the search.
LEAST_SHARE = 0.001


@dataclass(frozen=True)
class E2RnasSettings:
    """Numbers of E2RNAS.

    Attributes:
        constraint: R for n expected parameters and a limit L: `floor` max(L, n), `abs` |L - n|, `grow` max(0, L - n),
            `shrink` max(0, n - L), or `none`: n itself.
        limit: L in units of the expectation at uniform α. The default is what the published code's 1e6 amounts to
            once its 14-fold over-count is taken out: 71,429 of 135,121 parameters.
        adversarial_objective: a third upper objective, the adversarial validation loss.
        normalize: gradients before MGDA: `none`, `l2`, `loss` or `loss+`.

    Raises:
        UsageError: an unknown constraint or normalisation, or a negative limit.
    """

    constraint: str = "floor"
    limit: float = 0.529
    adversarial_objective: bool = False
    normalize: str = "none"

    def __post_init__(self) -> None:
        if self.constraint not in CONSTRAINTS:
            raise UsageError(f"constraint must be one of {', '.join(CONSTRAINTS)}, got {self.constraint!r}")
        if self.normalize not in mgda.NORMALIZATIONS:
            raise UsageError(f"normalize must be one of {', '.join(mgda.NORMALIZATIONS)}, got {self.normalize!r}")
        if self.limit < 0:
            raise UsageError(f"limit must not be negative, got {self.limit}")


class E2Rnas(Method):
    """The virtual step is on clean training images; adversarial ones serve the weights alone."""

    second_order: ClassVar[bool] = True
    Settings: ClassVar[type] = E2RnasSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"attack": "fgsm_rs", "eps": "2/255", "augmentation": "pad_crop_flip_cutout"},
        # Unnormalised gradients, in a search of 1,050 steps, left every decision to size: max pools only.
        "fast": {**FAST, "settings": {"normalize": "l2"}},
    }

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        (x, y), (u, v) = train, validation
        net, settings = search.net, self.settings
        objectives = [lambda: F.cross_entropy(net(u), v)]
        if settings.adversarial_objective:
            u_adv = search.attack(u, v, keys)
            objectives.append(lambda: F.cross_entropy(net(u_adv), v))
        found = search.unrolled(lambda: F.cross_entropy(net(x), y), objectives)
        parameters = search.expected("parameters")
        size = self.constrained(parameters / 1e6, search.expected_at_start("parameters") / 1e6)
        by_size = search.gradients(size, search.alphas)
        first = [*(outer.first for outer in found), by_size]
        values = [*(outer.loss for outer in found), size.detach()]
        shares = mgda.weights(first, settings.normalize, values).clamp(LEAST_SHARE, 1 - LEAST_SHARE)
        search.update(mgda.combine([*(outer.full for outer in found), by_size], shares))
        metrics = {
            "validation_loss": found[0].loss,
            "expected_parameters": parameters.detach(),
            "mgda_natural": shares[0],
            "mgda_size": shares[-1],
        }
        return metrics

    def constrained(self, parameters: Tensor, uniform: Tensor | float) -> Tensor:
        """R of an expected number of parameters, in the unit of both arguments."""
        limit = self.settings.limit * uniform
        if self.settings.constraint == "floor":
            return parameters.clamp_min(limit)
        if self.settings.constraint == "abs":
            return (limit - parameters).abs()
        if self.settings.constraint == "grow":
            return (limit - parameters).clamp_min(0)
        if self.settings.constraint == "shrink":
            return (parameters - limit).clamp_min(0)
        return parameters
