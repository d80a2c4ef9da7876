"""Every network takes [0, 1]."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rnas_zoo.models.pixels import in_pixels


class Sums(nn.Module):
    def forward(self, x):
        return x.sum((2, 3))


def test_a_declared_normalisation_becomes_a_layer():
    network = Sums()
    network.pretrained_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 2.0)}
    found = in_pixels(network)(torch.full((1, 3, 2, 2), 0.5))
    assert found.tolist() == [[0.0, 4 * 1.0, 4 * 0.25]]


@pytest.mark.parametrize("cfg", [None, {}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}])
def test_a_network_without_normalisation_is_itself(cfg):
    network = Sums()
    network.pretrained_cfg = cfg
    assert in_pixels(network) is network
