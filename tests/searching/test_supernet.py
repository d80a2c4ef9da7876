"""The supernet: every edge is the softmax-weighted sum of all primitives, and α has the gradient of that sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.searching.supernet import SuperCell, Supernet

SIZE = {"num_classes": 3, "channels": 2, "layers": 3, "stem": "cifar_stride2"}


@pytest.fixture
def net() -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Supernet(**SIZE).double()


def images(n: int = 3, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_parameters_are_weights_or_architecture_and_never_both(net):
    weights, alphas = list(net.weight_parameters()), net.arch_parameters()
    assert {id(p) for p in weights} & {id(p) for p in alphas} == set()
    assert {id(p) for p in weights} | {id(p) for p in alphas} == {id(p) for p in net.parameters()}
    assert len(weights) + len(alphas) == len(list(net.parameters()))
    assert [alpha.shape for alpha in alphas] == [(14, 8), (14, 8)]
    assert set(net.alphas) == {"normal", "reduce"}


def test_cells_at_one_and_two_thirds_reduce_and_double_the_width():
    net = Supernet(**{**SIZE, "layers": 8})
    assert [cell.role for cell in net.cells] == [
        "normal",
        "normal",
        "reduce",
        "normal",
        "normal",
        "reduce",
        "normal",
        "normal",
    ]
    assert net.classifier.in_features == 4 * 2 * 4
    assert net(images().float()).shape == (3, 3)


def test_a_new_architecture_is_almost_undecided(net):
    for alpha in net.arch_parameters():
        assert 0 < float(alpha.detach().abs().max()) < 0.01
        torch.testing.assert_close(alpha.detach().softmax(1), torch.full((14, 8), 0.125).double(), rtol=0, atol=1e-3)


# --- one-hot α --------------------------------------------------------------------------------------------------------


def batch_norm(x: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5)


def relu_conv_bn(x: Tensor, weight: Tensor) -> Tensor:
    return batch_norm(torch.einsum("nchw,oc->nohw", x.clamp(min=0), weight[:, :, 0, 0]))


def halving(x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    x = x.clamp(min=0)
    halves = (
        torch.einsum("nchw,oc->nohw", x[:, :, ::2, ::2], even[:, :, 0, 0]),
        torch.einsum("nchw,oc->nohw", x[:, :, 1::2, 1::2], odd[:, :, 0, 0]),
    )
    return batch_norm(torch.cat(halves, 1))


def windows(x: Tensor, kernel: int, stride: int, padding: int, dilation: int, fill: float) -> Tensor:
    """All windows of an image: (N, C, kernel², H', W')."""
    x = F.pad(x, [padding] * 4, value=fill)
    reach = dilation * (kernel - 1)
    rows, columns = x.shape[2] - reach, x.shape[3] - reach
    parts = [
        x[:, :, dilation * i : dilation * i + rows : stride, dilation * j : dilation * j + columns : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return torch.stack(parts, 2)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    kernel = weight.shape[2]
    return torch.einsum(
        "nckhw,ck->nchw", windows(x.clamp(min=0), kernel, stride, dilation * (kernel - 1) // 2, dilation, 0.0),
        weight.flatten(1),
    )  # fmt: skip


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0])


def naive_op(name: str, x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    """One primitive in the supernet's form, in training mode, from the DARTS paper's definition."""
    if name == "none":
        return torch.zeros_like(x[:, :, ::stride, ::stride])
    if name == "skip_connect":
        return x if stride == 1 else halving(x, *weights)
    if name == "max_pool_3x3":
        return batch_norm(windows(x, 3, stride, 1, 1, float("-inf")).amax(2))
    if name == "avg_pool_3x3":
        ones = windows(torch.ones_like(x), 3, stride, 1, 1, 0.0).sum(2)
        return batch_norm(windows(x, 3, stride, 1, 1, 0.0).sum(2) / ones)
    if name.startswith("dil_conv"):
        return batch_norm(pointwise(depthwise(x, weights[0], stride, 2), weights[1]))
    middle = batch_norm(pointwise(depthwise(x, weights[0], stride, 1), weights[1]))
    return batch_norm(pointwise(depthwise(middle, weights[2], 1, 1), weights[3]))


def convolutions(module: nn.Module) -> list[Tensor]:
    return [m.weight.detach() for m in module.modules() if isinstance(m, nn.Conv2d)]


def naive_cell(cell: SuperCell, s0: Tensor, s1: Tensor, weights: Tensor, reduction: bool, halve: bool) -> Tensor:
    first = convolutions(cell.preprocess0)
    states = [
        halving(s0, *first) if halve else relu_conv_bn(s0, *first),
        relu_conv_bn(s1, *convolutions(cell.preprocess1)),
    ]
    row = 0
    for node in range(4):
        total = 0.0
        for source in range(2 + node):
            stride = 2 if reduction and source < 2 else 1
            for op, name in enumerate(PRIMITIVES):
                value = naive_op(name, states[source], convolutions(cell.edges[row].ops[op]), stride)
                total = total + weights[row, op] * value
            row += 1
        states.append(total)
    return torch.cat(states[2:], 1)


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("sharp", [True, False])
def test_a_cell_is_the_weighted_sum_of_its_primitives(reduction, halve, sharp):
    """Against each primitive written out; with huge logits the sum is the one chosen operation."""
    generator = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        cell = SuperCell((4, 6), 2, reduction, halve).double().train()
    big = 16 if halve else 8
    s0 = torch.randn(3, 4, big, big, generator=generator, dtype=torch.float64)
    s1 = torch.randn(3, 6, 8, 8, generator=generator, dtype=torch.float64)
    alpha = torch.randn(14, 8, generator=generator, dtype=torch.float64)
    if sharp:
        ops = torch.tensor([1 + (5 * row) % 7 for row in range(14)])  # all primitives but `none`, which zeroes a cell
        alpha = F.one_hot(ops, 8).double() * 1e4
    weights = alpha.exp() / alpha.exp().sum(1, keepdim=True) if not sharp else F.one_hot(ops, 8).double()
    with torch.no_grad():
        found = cell(s0, s1, alpha.softmax(1))
        expected = naive_cell(cell, s0, s1, weights, reduction, halve)
    assert found.shape == ((3, 8, 4, 4) if reduction else (3, 8, 8, 8))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_the_network_mixes_normal_and_reduction_cells_by_their_own_alpha(net):
    """The whole network, cell by cell; its α shared by the cells of a role."""
    x = images()
    with torch.no_grad():
        for alpha in net.arch_parameters():
            alpha.copy_(torch.randn(14, 8, generator=torch.Generator().manual_seed(int(alpha is net.alphas["normal"]))))
        found = net.train()(x)
        weights = {role: alpha.exp() / alpha.exp().sum(1, keepdim=True) for role, alpha in net.alphas.items()}
        s0 = s1 = batch_norm(F.conv2d(x, net.stem[0].weight, stride=2, padding=1))
        previous = False
        for cell, reduction in zip(net.cells, (False, True, True), strict=True):
            role = "reduce" if reduction else "normal"
            s0, s1 = s1, naive_cell(cell, s0, s1, weights[role], reduction, previous)
            previous = reduction
        expected = F.linear(s1.flatten(2).mean(2), net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("role", ["normal", "reduce"])
def test_alpha_gradient_is_the_finite_difference(net, role):
    x, y, alpha = images(), torch.tensor([0, 1, 2]), net.alphas[role]
    with torch.no_grad():
        alpha.mul_(300)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), y), alpha)
    assert float(gradient.abs().min()) < float(gradient.abs().max())
    step = 1e-6
    for row, op in [(0, 0), (1, 4), (3, 7), (6, 3), (9, 1), (13, 2), (12, 5)]:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                alpha[row, op] += sign * step
                losses.append(F.cross_entropy(net(x), y).item())
                alpha[row, op] -= sign * step
        assert gradient[row, op].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("changes", [{"layers": 2}, {"channels": 0}, {"channels": 1}, {"stem": "imagenet"}])
def test_sizes_out_of_range_are_refused(changes):
    with pytest.raises(UsageError, match="a supernet needs"):
        Supernet(**{**SIZE, **changes})
