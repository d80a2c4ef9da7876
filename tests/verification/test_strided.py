"""Strided convolutions: the same output, and the input gradient autograd gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnas_zoo.verification.strided import StridedConv2d, suits


@given(
    channels=st.sampled_from([1, 2, 3, 4]),
    outputs=st.sampled_from([1, 2, 4, 6]),
    size=st.sampled_from([1, 2, 3, 4, 5, 7]),
    dilation=st.sampled_from([1, 2, 3]),
    padding=st.integers(0, 6),
    pixels=st.sampled_from([(8, 8), (6, 10), (7, 7), (12, 9)]),
    depthwise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_output_and_input_gradient_are_those_of_the_convolution(
    channels, outputs, size, dilation, padding, pixels, depthwise, seed
):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        groups = channels if depthwise else 1
        conv = nn.Conv2d(channels, outputs * groups, size, 2, padding, dilation, groups).double()
        x = torch.randn(2, channels, *pixels, dtype=torch.float64, requires_grad=True)
    if any(p + 2 * padding < dilation * (size - 1) + 1 for p in pixels):
        return
    fast = StridedConv2d(conv)
    expected, found = conv(x), fast(x)
    assert torch.equal(expected, found)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), x)
    (gradient,) = torch.autograd.grad((found * direction).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


def test_what_follows_may_overwrite_the_output():
    conv = nn.Conv2d(3, 4, 3, 2, 1).double()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(torch.relu(conv(x)).sum(), x)
    (found,) = torch.autograd.grad(nn.ReLU(inplace=True)(StridedConv2d(conv)(x)).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("conv", "gains"),
    [
        (nn.Conv2d(3, 8, 3, 2, 1), True),
        (nn.Conv2d(8, 8, 5, 2, 4, dilation=2, groups=8), True),
        (nn.Conv2d(8, 8, 5, 2, 2, groups=8), False),
        (nn.Conv2d(3, 8, 3, 1, 1), False),
        (nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"), False),
        (nn.Conv2d(3, 8, (3, 1), 2, 1), False),
        (nn.Conv2d(3, 8, 3, 1, "same"), False),
        (nn.ConvTranspose2d(3, 8, 3, 2, 1), False),
    ],
)
def test_only_convolutions_that_gain_are_replaced(conv, gains):
    assert suits(conv) is gains
