"""Every network takes [0, 1]."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rnas_zoo.models.pixels import Preprocessed, applied, behind, declared_image_size, in_pixels, resized
from rnas_zoo.preprocessing import Preprocessing


class Sums(nn.Module):
    def forward(self, x):
        return x.sum((2, 3))


class Keeps(nn.Module):
    """Returns what it receives."""

    def forward(self, x):
        return x


def images(n: int = 2, height: int = 5, width: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def declaring(mean: tuple[float, ...] = (0.5, 0.25, 0.0), std: tuple[float, ...] = (0.5, 0.25, 2.0)) -> nn.Module:
    network = Keeps()
    network.pretrained_cfg = {"mean": mean, "std": std, "input_size": (3, 6, 7)}
    return network


def test_a_declared_normalisation_becomes_a_layer():
    network = Sums()
    network.pretrained_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 2.0)}
    found = in_pixels(network)(torch.full((1, 3, 2, 2), 0.5))
    assert found.tolist() == [[0.0, 4 * 1.0, 4 * 0.25]]
    assert applied(in_pixels(network)).mean == (0.5, 0.25, 0.0)


@pytest.mark.parametrize("cfg", [None, {}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}])
def test_a_network_without_normalisation_is_itself(cfg):
    network = Sums()
    network.pretrained_cfg = cfg
    assert in_pixels(network) is network
    assert behind(network, None) is network
    assert behind(network, Preprocessing()) is network
    assert applied(network) is None


@settings(max_examples=40)
@given(
    st.tuples(*[st.floats(0, 1)] * 3),
    st.tuples(*[st.floats(0.05, 1)] * 3),
    st.sampled_from([1, 255]),
    st.sampled_from(["nchw", "nhwc"]),
    st.sampled_from([None, (5, 4), (9, 7), (3, 2)]),
)
def test_what_the_network_receives_is_computed_in_the_order_that_is_documented(mean, std, white, layout, size):
    scaled = [tuple(max(v, 0.005) * white for v in values) for values in (mean, std)]
    network = behind(Keeps(), Preprocessing(*scaled, size, layout, white))
    x = images().double()
    wanted = nn.functional.interpolate(x, size, mode="bilinear", antialias=True) if size else x
    wanted = wanted * white
    wanted = torch.stack([(wanted[:, i] - scaled[0][i]) / scaled[1][i] for i in range(3)], 1)
    wanted = wanted.permute(0, 2, 3, 1) if layout == "nhwc" else wanted
    found = network(images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_given_values_take_precedence_over_declared_ones_field_by_field():
    x = images()
    torch.testing.assert_close(in_pixels(declaring())(x)[:, 0], 2 * x[:, 0] - 1)
    own_mean = in_pixels(declaring(), Preprocessing(mean=(0.1, 0.1, 0.1)))
    torch.testing.assert_close(own_mean(x)[:, 0], (x[:, 0] - 0.1) / 0.5)
    plain = in_pixels(declaring(), Preprocessing((0, 0, 0), (1, 1, 1)))
    assert torch.equal(plain(x), x)
    assert not isinstance(plain, Preprocessed)


def test_a_second_preprocessing_replaces_the_first():
    first = in_pixels(declaring())
    assert in_pixels(first) is first
    second = behind(first, Preprocessing((0.2,) * 3, (0.4,) * 3))
    assert second.network is first.network
    torch.testing.assert_close(second(images()), (images() - 0.2) / 0.4)
    assert torch.equal(behind(first, Preprocessing())(images()), images())


def test_resizing_is_linear_and_has_its_gradient():
    x = images(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: resized(z, (7, 3)), (x,))
    for size in ((1, 1), (5, 9), (2, 2), (16, 16)):
        wanted = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        torch.testing.assert_close(resized(x, size), wanted, rtol=1e-9, atol=1e-9)
    constant = resized(torch.full((1, 3, 5, 5), 0.25), (8, 3))
    torch.testing.assert_close(constant, torch.full((1, 3, 8, 3), 0.25))


def test_a_network_on_the_8_bit_grid_gets_whole_numbers_and_passes_gradients():
    network = Preprocessed(Keeps(), Preprocessing(range=255).completed(), grid=True)
    steps = torch.arange(256) / 255
    grid = steps.repeat(3).view(1, 3, 16, 16)
    assert torch.equal(network(grid).flatten()[:256], torch.arange(256.0))
    x = images().requires_grad_()
    assert torch.equal(network(x), (x * 255).round())
    assert torch.equal(torch.autograd.grad(network(x).sum(), x)[0], torch.full_like(x, 255))


def test_the_declared_size_is_that_of_the_network_unless_it_resizes():
    assert declared_image_size(declaring()) == declared_image_size(in_pixels(declaring())) == (6, 7)
    assert declared_image_size(in_pixels(declaring(), Preprocessing(input_size=(6, 7)))) is None
