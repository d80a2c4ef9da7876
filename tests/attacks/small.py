"""What tests of attacks share: threats, keys, a model whose worst case has a closed form, and one that counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import Keys, Threat
from rnas_zoo.attacks.threat import NORMS

THREATS = [Threat("linf", 0.04), Threat("l2", 0.3)]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=NORMS)


def keys(n: int, seed: int = 5) -> Keys:
    return Keys(seed, torch.arange(n))


class Linear(nn.Module):
    """Two logits, linear in the image; the label's margin at the worst point of the ball has a closed form."""

    def __init__(self, shape: tuple[int, ...] = (3, 4, 4)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape, generator=torch.Generator().manual_seed(3)).double())

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self(x).detach()
        return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]

    def worst_point(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Interior images only: the ball's point farthest along the other class's weights."""
        towards = (self.weight[1 - y] - self.weight[y]).detach()
        if threat.norm == "linf":
            return x + threat.eps * towards.sign()
        return x + threat.eps * towards / towards.flatten(1).norm(dim=1)[:, None, None, None]


class Counting(nn.Module):
    """Counts the images that pass forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
