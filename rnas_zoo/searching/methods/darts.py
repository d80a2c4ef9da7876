"""DARTS, first order (Liu, Simonyan, Yang, ICLR 2019): the base of the robust methods, and their control.

    min over α of L_val(w*(α), α)   subject to   w*(α) = argmin over w of L_train(w, α)

Both levels take one gradient step in turn and w is used in place of w*(α). With an adversarial weight step, L_train is
the cross-entropy on PGD images of the current supernet.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...attacks import Keys, Threat
from ...training.objectives import Perturb


class Darts:
    """Clean validation loss above, (adversarial) training loss below."""

    def weight_loss(self, net: nn.Module, x: Tensor, y: Tensor, perturb: Perturb, threat: Threat, keys: Keys) -> Tensor:
        """What a weight step minimises on a training batch."""
        return F.cross_entropy(net(perturb(net, x, y, threat, keys)), y)

    def arch_loss(self, net: nn.Module, x: Tensor, y: Tensor, perturb: Perturb, threat: Threat, keys: Keys) -> Tensor:
        """What an architecture step minimises on a validation batch."""
        return F.cross_entropy(net(x), y)
