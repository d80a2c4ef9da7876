"""What tests of verification share: small networks with images, and what their reports say of each image."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import Threat
from rnas_zoo.verification import run as verification
from rnas_zoo.verification import sweep

verify, curve = (partial(function, device="cpu", protocol="quick") for function in (verification.verify, sweep.curve))
THREATS = [Threat("linf", 0.04), Threat("l2", 0.2)]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=["linf", "l2"])


class Linear(nn.Module):
    """Two classes, linear in the image: the exact robust accuracy of interior images has a closed form."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        weight = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(weight - weight.mean((1, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def robust(self, x: Tensor, y: Tensor, threat: Threat) -> np.ndarray:
        with torch.no_grad():
            towards = (self.weight[1] - self.weight[0]).double()
            margin = torch.einsum("nchw,chw->n", x.double(), towards) * (2 * y - 1)
            size = towards.abs().sum() if threat.norm == "linf" else towards.norm()
            return (margin > threat.eps * size).numpy()


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    model = Linear()
    x = 0.3 + 0.4 * torch.rand(40, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    y = model(x).argmax(1)
    y[::9] = 1 - y[::9]
    return model, x, y


@pytest.fixture
def conv(small_net, small_batch) -> tuple[nn.Module, Tensor, Tensor]:
    """The shared network in single precision; a few labels are wrong."""
    x, y = small_batch
    y = y.clone()
    y[::6] = (y[::6] + 1) % 4
    return small_net.float(), x.float(), y


def robust(report) -> np.ndarray:
    table = report.verdicts
    return table["clean_correct"] & (table["broken_by"] == "") & ~table["refused"]


def table(report) -> list[tuple]:
    keys = ("pixels_sha256", "clean_correct", "broken_by", "step", "refused")
    return list(zip(*(report.verdicts[key].tolist() for key in keys), strict=True))
