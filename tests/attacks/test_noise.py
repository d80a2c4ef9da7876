"""Noise: random, of full size, and judged draw by draw."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.attacks import Noise, Threat, noise

from .small import each_threat, keys


@each_threat
def test_noise_is_of_full_size_and_random(threat):
    x = torch.full((20, 3, 6, 6), 0.5, dtype=torch.float64)
    silent = lambda z: torch.zeros(len(z), 2)  # noqa: E731
    found = noise(silent, x, torch.zeros(20, dtype=torch.long), threat, Noise(draws=4), keys(20))
    offsets = (found.x_adv - x).flatten(1)
    size = offsets.abs().amax(1) if threat.norm == "linf" else offsets.norm(dim=1)
    assert size.tolist() == pytest.approx([threat.eps] * 20)
    assert not found.broken.any()
    assert float(offsets.mean().abs()) < 0.1 * float(offsets.std())
    assert len({tuple(row) for row in offsets.tolist()}) == 20


def test_noise_returns_the_first_draw_that_breaks(small_net, small_batch):
    x, y = small_batch
    threat = Threat("linf", 0.2)
    found = noise(small_net, x, y, threat, Noise(draws=6), keys(len(x)))
    for draws in range(1, 7):
        fewer = noise(small_net, x, y, threat, Noise(draws=draws), keys(len(x)))
        expected = torch.where((found.step > 0) & (found.step <= draws), found.step, -1)
        assert torch.equal(fewer.step, expected)
    assert len(set(found.step.tolist())) > 2
