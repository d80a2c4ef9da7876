"""Cell networks against a plain reading of their papers, drop path, and arguments that are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rnas_zoo import genotype as genotypes
from rnas_zoo.errors import GenotypeError, UsageError
from rnas_zoo.models.ops import build_op
from rnas_zoo.models.rnas_cells import RnasCells

from ..strategies import cell_structures, dense_structures, genotype_object, reproducible

STEMS = ["cifar", "cifar_stride2", "imagenet"]


# A naive network, written from the papers: tensors are taken from the model's state in order of definition


class Naive:
    """Evaluates a genotype's JSON with the tensors of a state dict, each used once, in order."""

    def __init__(self, value: dict[str, Any], state: dict[str, Tensor], layers: int, stem: str) -> None:
        self.value, self.layers, self.stem = value, layers, stem
        self.tensors: Iterator[Tensor] = iter(state.values())
        self.affine = value["kind"] != "dense_cells"

    def conv(self, x: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1, depthwise: bool = False) -> Tensor:
        weight = next(self.tensors)
        x = F.pad(x, [padding] * 4)
        return F.conv2d(x, weight, stride=stride, dilation=dilation, groups=x.shape[1] if depthwise else 1)

    def bn(self, x: Tensor, affine: bool) -> Tensor:
        scale, shift = (next(self.tensors), next(self.tensors)) if affine else (torch.tensor(1.0), torch.tensor(0.0))
        mean, variance, _ = (next(self.tensors) for _ in range(3))
        shape = (1, -1, 1, 1)
        y = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        return y * scale.view(shape) + shift.view(shape)

    def relu_conv_bn(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x.clamp(min=0)), self.affine)

    def factorized_reduce(self, x: Tensor) -> Tensor:
        x = x.clamp(min=0)
        even, odd = x[:, :, 0::2, 0::2], x[:, :, 1::2, 1::2]
        return self.bn(torch.cat([self.conv(even), self.conv(odd)], dim=1), self.affine)

    def shifted(self, x: Tensor, stride: int, fill: float) -> Tensor:
        """The nine neighbours of every kept position: (9, N, C, H / stride, W / stride)."""
        height, width = x.shape[2:]
        padded = F.pad(x, [1, 1, 1, 1], value=fill)
        windows = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return torch.stack(windows)[..., ::stride, ::stride]

    def operation(self, op: str, x: Tensor, stride: int) -> Tensor:
        if " + " in op:
            first, second = op.split(" + ")
            return self.operation(first, x, stride) + self.operation(second, x, stride)
        if op == "none":
            return torch.zeros_like(x[:, :, ::stride, ::stride])
        if op == "skip_connect":
            return x if stride == 1 else self.factorized_reduce(x)
        if op == "max_pool_3x3":
            return self.shifted(x, stride, -math.inf).amax(0)
        if op == "avg_pool_3x3":
            inside = self.shifted(torch.ones_like(x), stride, 0.0)
            return self.shifted(x, stride, 0.0).sum(0) / inside.sum(0)
        k = int(op[-1])
        if op.startswith("sep_conv"):
            for step in (stride, 1):
                x = self.conv(x.clamp(min=0), step, (k - 1) // 2, depthwise=True)
                x = self.bn(self.conv(x), self.affine)
            return x
        x = self.conv(x.clamp(min=0), stride, k - 1, dilation=2, depthwise=True)
        return self.bn(self.conv(x), self.affine)

    def cell(self, index: int) -> tuple[list[tuple[str, int, int]], list[int], int]:
        """Edges as (operation, from, to), the concatenated states, and the number of states."""
        if self.value["kind"] == "dense_cells":
            words = {"01": "sep_conv_3x3", "10": "skip_connect", "11": "sep_conv_3x3 + skip_connect"}
            code = self.value["codes"][0 if self.value["share"] else index].split()
            ends = [(source, node) for node in range(2, 6) for source in range(node)]
            edges = [(words[bits], *end) for bits, end in zip(code, ends, strict=True) if bits != "00"]
            return edges, [2, 3, 4, 5], 6
        first, second = self.layers // 3, 2 * self.layers // 3
        role = "reduce" if index in (first, second) else "normal"
        if self.value["kind"] == "accurate_robust_cells" and role == "normal":
            role = "accurate" if index < second else "robust"
        found = self.value["cells"][role]
        edges = [(op, source, 2 + i // 2) for i, (op, source) in enumerate(found["edges"])]
        return edges, found["concat"], 2 + len(edges) // 2

    def __call__(self, x: Tensor) -> Tensor:
        if self.stem == "imagenet":
            s0 = self.bn(self.conv(x, 2, 1), True).clamp(min=0)
            s0 = self.bn(self.conv(s0, 2, 1), True)
            s1 = self.bn(self.conv(s0.clamp(min=0), 2, 1), True)
        else:
            s0 = s1 = self.bn(self.conv(x, 2 if self.stem == "cifar_stride2" else 1, 1), True)
        for index in range(self.layers):
            reduction = index in (self.layers // 3, 2 * self.layers // 3)
            edges, concat, count = self.cell(index)
            read = {source for _, source, _ in edges} | {
                0 for node in range(2, count) if node not in {e[2] for e in edges}
            }
            halves = s0.shape[2] != s1.shape[2]
            states: list[Any] = [None] * count
            if 0 in read:
                states[0] = self.factorized_reduce(s0) if halves else self.relu_conv_bn(s0)
            if 1 in read:
                states[1] = self.relu_conv_bn(s1)
            shape = next(s for s in states if s is not None).shape
            side = [length // 2 if reduction else length for length in shape[2:]]
            for node in range(2, count):
                states[node] = torch.zeros(*shape[:2], *side, dtype=x.dtype)
            for op, source, node in edges:
                stride = 2 if reduction and source < 2 else 1
                states[node] = states[node] + self.operation(op, states[source], stride)
            s0, s1 = s1, torch.cat([states[i] for i in concat], dim=1)
        logits = F.linear(s1.mean(dim=(2, 3)), next(self.tensors), next(self.tensors))
        assert next(self.tensors, None) is None
        return logits


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The model in double precision and evaluation mode, with arbitrary statistics, scales and shifts."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def assert_equal_networks(value: dict[str, Any], layers: int, stem: str, seed: int, channels: int = 4) -> None:
    model = randomised(RnasCells(value, channels=channels, layers=layers, stem=stem, num_classes=5), seed)
    size = 64 if stem == "imagenet" else 16
    x = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = model(x)
        expected = Naive(value, model.state_dict(), layers, stem)(x)
    assert found.shape == (2, 5)
    assert (found - expected).abs().max() <= 1e-12 * max(1.0, expected.abs().max().item())


@reproducible(40)
@given(structure=cell_structures(), layers=st.integers(3, 7), stem=st.sampled_from(STEMS), seed=st.integers(0, 99))
def test_any_cell_network_equals_the_definition(structure, layers, stem, seed):
    assert_equal_networks(genotype_object(structure), layers, stem, seed)


@reproducible(15)
@given(data=st.data(), layers=st.integers(3, 5), stem=st.sampled_from(STEMS), seed=st.integers(0, 99))
def test_any_dense_network_equals_the_definition(data, layers, stem, seed):
    assert_equal_networks(genotype_object(data.draw(dense_structures(layers))), layers, stem, seed)


@pytest.mark.parametrize("name", ["vuln_h", "darts_v2", "arnas", "robnet_large"])
def test_published_networks_equal_the_definition(name):
    assert_equal_networks(genotypes.named(name).to_json(), 8, "cifar", seed=1, channels=6)


def test_a_dense_network_without_any_operation_is_constant():
    value = genotype_object({"kind": "dense_cells", "share": True, "codes": [" ".join(["00"] * 14)]})
    model = randomised(RnasCells(value, channels=4, layers=3), seed=0)
    with torch.no_grad():
        logits = model(torch.rand(3, 3, 16, 16, dtype=torch.float64))
    assert torch.equal(logits, model.head.fc.bias.expand(3, -1))


@pytest.mark.parametrize("name", ["robnet_large", "robnet_free"])
def test_dense_cells_have_no_scale_and_shift(name):
    with torch.device("meta"):
        model = timm.create_model(f"rnas_{name}")
    norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {n for n, m in norms.items() if m.affine} == {"stem.1"}
    assert len(norms) > 100


# Operations


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", genotypes.PRIMITIVES)
def test_operations_keep_channels_and_divide_the_resolution(op, stride):
    x = torch.rand(2, 6, 8, 12)
    assert build_op(op, 6, stride)(x).shape == (2, 6, 8 // stride, 12 // stride)


def test_average_pooling_does_not_count_the_padding():
    pool = build_op("avg_pool_3x3", 1, 1)
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_factorized_reduce_sees_the_even_and_the_odd_diagonal_pixels():
    reduce = build_op("skip_connect", 2, 2).eval()
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    reduce(x).abs().sum().backward()
    seen = (x.grad.abs().sum(dim=(0, 1)) > 0).int()
    assert seen.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]] * 2


# Drop path

POOL_AND_SKIP = {
    "kind": "cells",
    "cells": {
        "normal": {"edges": [["max_pool_3x3", 0], ["skip_connect", 1]], "concat": [2]},
        "reduce": {"edges": [["skip_connect", 0], ["avg_pool_3x3", 1]], "concat": [2]},
    },
}


@pytest.mark.parametrize("name", ["rnas_vuln_h_c16l8", "rnas_arnas_c16l8", "rnas_robnet_large_c16l8"])
def test_drop_path_and_auxiliary_head_leave_no_trace_in_the_state(name):
    plain, dropping = timm.create_model(name), timm.create_model(name, drop_path_rate=0.2)
    head = dropping.auxiliary_head(8)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in dropping.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert not any("aux" in key or "drop" in key for key in dropping.state_dict())
    assert len(head.state_dict()) > 0
    plain.load_state_dict(dropping.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), dropping.eval()(x))


def test_drop_path_at_rate_zero_is_the_plain_network_in_training():
    plain = RnasCells("vuln_h", channels=4, layers=5).train()
    dropping = RnasCells("vuln_h", channels=4, layers=5, drop_path_rate=0.5).train()
    dropping.load_state_dict(plain.state_dict())
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.manual_seed(0)
        assert not torch.equal(dropping(x), plain(x))
        plain.load_state_dict(dropping.state_dict())
        dropping.set_drop_path_rate(0.0)
        assert torch.equal(dropping(x), plain(x))


def test_the_rate_of_drop_path_can_be_set_later():
    model = RnasCells(genotype_object(POOL_AND_SKIP), channels=4, layers=3).train()
    x = torch.rand(64, 3, 8, 8)
    with torch.no_grad():
        steady = model(x)
        assert torch.equal(model(x), steady)
        model.set_drop_path_rate(0.5)
        assert not torch.equal(model(x), steady)
        assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_drop_path_drops_one_edge_per_sample_and_keeps_its_expectation(rate):
    count = 4000
    model = RnasCells(genotype_object(POOL_AND_SKIP), channels=4, layers=3, drop_path_rate=rate)
    cell = model.cells[0].double().train()
    cell.preprocess0.eval()
    cell.preprocess1.eval()
    one = torch.randn(1, 12, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with torch.no_grad():
        kept = cell.preprocess1(one)
        edge = F.max_pool2d(cell.preprocess0(one), 3, 1, 1)
        dropped = cell(one.expand(count, -1, -1, -1), one.expand(count, -1, -1, -1)) - kept
    factors = (dropped * edge).sum(dim=(1, 2, 3)) / (edge * edge).sum()
    torch.testing.assert_close(dropped, factors.view(-1, 1, 1, 1) * edge, rtol=0, atol=1e-12)
    alive = factors > 0.5
    torch.testing.assert_close(factors, alive.double() / (1 - rate), rtol=0, atol=1e-12)
    five_sigma = 5 * math.sqrt(rate * (1 - rate) / count)
    assert abs(alive.double().mean().item() - (1 - rate)) < five_sigma
    assert abs(factors.mean().item() - 1) < five_sigma / (1 - rate)


def test_identity_edges_are_never_dropped():
    value = {
        "kind": "cells",
        "cells": {
            "normal": {"edges": [["skip_connect", 0], ["skip_connect", 1]], "concat": [2]},
            "reduce": {"edges": [["skip_connect", 0], ["skip_connect", 1]], "concat": [2]},
        },
    }
    model = RnasCells(genotype_object(value), channels=4, layers=4, drop_path_rate=0.9).train()
    maps = torch.rand(64, 12, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.cells[0](maps, maps), model.cells[0](maps, maps))
        strided = [model.cells[1](maps, model.cells[0](maps, maps)) for _ in range(2)]
    assert not torch.equal(*strided)


def test_the_auxiliary_map_is_the_output_of_the_second_reduction():
    model = RnasCells("vuln_h", channels=4, layers=8).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        logits, tap = model.forward_with_auxiliary(x)
        assert torch.equal(logits, model(x))
        assert torch.equal(tap, model.cell_outputs(x)[5])
        assert torch.equal(model.cell_outputs(x, stop=6)[-1], tap)
    assert model.auxiliary_cell == 5


# Refusals


def test_student_genotypes_are_refused_naming_the_right_builder():
    with pytest.raises(GenotypeError, match=r"'cl_s3' is of kind 'channels': build it with rnas_students"):
        RnasCells("cl_s3")
    with pytest.raises(GenotypeError, match="build it with rnas_students"):
        timm.create_model("rnas_cells", genotype=genotypes.named("cl_s3").to_json())


def test_unknown_stems_are_refused_naming_the_known_ones():
    with pytest.raises(UsageError, match="unknown stem 'tiny', known are cifar, cifar_stride2, imagenet"):
        RnasCells("vuln_h", stem="tiny")


@pytest.mark.parametrize(("layers", "channels"), [(2, 16), (8, 1)])
def test_layers_and_channels_out_of_range_are_refused(layers, channels):
    with pytest.raises(UsageError, match=f"got channels={channels}, layers={layers}"):
        timm.create_model("rnas_cells", genotype="vuln_h", layers=layers, channels=channels)


@pytest.mark.parametrize("layers", [8, 19, 21])
def test_a_code_per_cell_fixes_the_number_of_cells(layers):
    with pytest.raises(GenotypeError, match=f"has 20 cells of its own, but layers={layers}"):
        timm.create_model("rnas_robnet_free", channels=4, layers=layers)


def test_invalid_genotypes_are_refused_by_the_builder(tmp_path):
    broken = genotypes.named("vuln_h").to_json()
    broken["cells"]["reduce"]["edges"][3] = ["sep_conv_9x9", 0]
    with pytest.raises(GenotypeError, match=r"cells.reduce.edges\[3\]: unknown operation"):
        timm.create_model("rnas_cells", genotype=broken)
    with pytest.raises(GenotypeError, match="no such genotype file"):
        timm.create_model("rnas_cells", genotype=str(tmp_path / "absent.json"))


def test_a_wrong_number_of_input_channels_or_classes_is_refused_naming_both():
    donor = RnasCells("vuln_h", channels=4, layers=3, num_classes=10)
    with pytest.raises(RuntimeError, match=r"head\.fc\.weight.*\[10, \d+\].*\[7, \d+\]"):
        RnasCells("vuln_h", channels=4, layers=3, num_classes=7).load_state_dict(donor.state_dict())
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 1"):
        donor(torch.zeros(1, 1, 16, 16))
