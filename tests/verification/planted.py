"""Models planted to fool attacks, the honest one inside them, and what reports say of their images."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnas_zoo import verify as full_verify
from rnas_zoo.verification import flags

verify = partial(full_verify, device="cpu", protocol="quick", batch_size=32)
SIZE, CLASSES, EPS = 4, 3, 0.04


class Linear(nn.Module):
    """Three classes, linear in the image; logits of ordinary size."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(3 * (weight - weight.mean(1, keepdim=True)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Around(nn.Module):
    """A planted model: the linear one with something around it."""

    def __init__(self, before=None, after=None) -> None:
        super().__init__()
        self.linear, self.before, self.after = Linear(), before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(self.before(x) if self.before else x)
        return self.after(logits) if self.after else logits


def exactly_robust(x: Tensor, y: Tensor, eps: float) -> np.ndarray:
    """Closed form: no interior image is moved across a plane nearer than eps, and no farther one."""
    with torch.no_grad():
        weight, logits = Linear().weight.double(), x.double().flatten(1) @ Linear().weight.double().T
        reach = (weight[y][:, None] - weight[None]).abs().sum(2)
        gap = logits.gather(1, y[:, None]) - logits - eps * reach
        gap[torch.arange(len(y)), y] = torch.inf
        return (gap.amin(1) > 0).numpy()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """40 images in the interior of the box and the linear model's classes, of which five are wrong."""
    x = 0.2 + 0.6 * torch.rand(40, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = Linear()(x).argmax(1)
    y[::9] = (y[::9] + 1) % CLASSES
    return x, y


def many(n: int = 60) -> tuple[Tensor, Tensor]:
    x = 0.2 + 0.6 * torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return x, Linear()(x).argmax(1)


def codes(report) -> list[str]:
    """Codes of a run's flags, each of which leads to its section and carries a detail."""
    found = []
    for text in report.run["flags"]:
        code, _, detail = text.partition(": ")
        assert code in flags.FLAGS
        assert detail.strip()
        assert flags.explain(text) == flags.explain(code) != ""
        found.append(code)
    assert len(found) == len(set(found))
    return found


def broken(report) -> np.ndarray:
    return report.verdicts["broken_by"] != ""


def robust(report) -> np.ndarray:
    return report.verdicts["clean_correct"] & ~broken(report) & ~report.verdicts["refused"]
