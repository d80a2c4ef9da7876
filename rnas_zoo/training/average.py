"""An exponential moving average of weights, and batch-norm statistics that fit averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The moving average of a network's weights and running statistics.

    Update n (from 0) keeps min(decay, (1 + n) / (10 + n)) of what there is, so that the first networks count no more
    than the later ones.

    Attributes:
        network: a network of the averaged weights, in evaluation mode.
        updates: how many networks have been averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network as it is; the first one is copied."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        own, new = ([*net.parameters(), *net.buffers()] for net in (self.network, network))
        real = [pair for pair in zip(own, new, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in real], [b for _, b in real], 1 - keep)
        for a, b in zip(own, new, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms with running statistics."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to their means over the batches (N, C, H, W).

    All else computes as in evaluation mode, in which the network is left; without batch norms nothing is computed.
    """
    found = norms(network)
    if not found:
        network.eval()
        return
    momenta = [norm.momentum for norm in found]
    network.eval()
    try:
        for norm in found:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for x in batches:
            network(x)
    finally:
        for norm, momentum in zip(found, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
