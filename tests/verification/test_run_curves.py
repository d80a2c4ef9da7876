"""Curves over sizes: what separate verifications would say together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import UsageError
from rnas_zoo.verification import sweep

from . import small
from .small import Linear, curve, robust, verify

conv, linear = small.conv, small.linear  # fixtures


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_curve_is_the_intersection_of_separate_verifications(conv, norm):
    net, x, y = conv
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    labels = y.numpy()
    sizes = [0.0, 0.01, 0.02, 0.05] if norm == "linf" else [0.0, 0.1, 0.2, 0.4]
    points = curve(net, data.ImageSet(images, labels), norm, sizes)
    assert [eps for eps, _ in points] == sizes
    left = np.ones(24, bool)
    for eps, accuracy in points:
        left &= robust(verify(net, images, labels, threat=Threat(norm, eps)))
        assert accuracy == left.mean()
    values = [accuracy for _, accuracy in points]
    assert values == sorted(values, reverse=True)
    with torch.no_grad():
        clean = net(data.to_pixels(images)).argmax(1).numpy() == labels
    assert values[0] == clean.mean()
    assert len(set(values)) > 2


def test_a_curve_of_a_linear_model_is_exact(linear):
    model, x, y = linear
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    pixels = data.to_pixels(images)
    sizes = [0.0, 0.005, 0.01, 0.02, 0.03, 0.1]
    points = curve(model, data.ImageSet(images, y.numpy()), "linf", sizes)
    assert [accuracy for _, accuracy in points] == [
        model.robust(pixels, y, Threat("linf", eps)).mean() for eps in sizes
    ]
    assert points[-1][1] == 0.0


def test_a_curve_needs_no_more_than_network_images_and_sizes(linear):
    model, x, y = linear
    images = data.ImageSet(np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8), y.numpy())
    assert sweep.curve(model, images, "linf", [0.0]) == [(0.0, 35 / 40)]


class Flat(Linear):
    """The linear model without a gradient: only the draws decide which images break."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() + 0 * x.sum((1, 2, 3))[:, None]


def test_a_curve_draws_for_an_image_what_its_position_says(linear):
    _, x, y = linear
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    sizes = [0.01, 0.02, 0.03, 0.04, 0.05]
    points = curve(Flat(), data.ImageSet(images, y.numpy()), "linf", sizes)
    left = np.ones(40, bool)
    for eps, accuracy in points:
        left &= robust(verify(Flat(), images, y, threat=Threat("linf", eps)))
        assert accuracy == left.mean()
    assert len(dict(points).values()) == len(set(dict(points).values()))


def test_the_sizes_of_a_curve_ascend(linear):
    with pytest.raises(UsageError, match="must ascend"):
        curve(linear[0], data.ImageSet(np.zeros((1, 5, 5, 3), np.uint8), np.zeros(1, int)), "linf", [0.2, 0.1])
