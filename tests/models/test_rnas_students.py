"""Compact students against a plain reading of their definition."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rnas_zoo import genotype as genotypes
from rnas_zoo import resources
from rnas_zoo.errors import GenotypeError
from rnas_zoo.models.rnas_students import InvertedResidual, RnasStudent

from ..strategies import channel_structures, genotype_object, reproducible


def naive_logits(value: dict[str, Any], state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The student a genotype's JSON describes, with the tensors of a state dict, each used once, in order."""
    tensors = iter(state.values())

    def conv_bn(x: Tensor, kernel: int, stride: int = 1, depthwise: bool = False, act: bool = True) -> Tensor:
        weight, bias, scale, shift, mean, variance, _ = (next(tensors) for _ in range(7))
        x = F.pad(x, [(kernel - 1) // 2] * 4)
        x = F.conv2d(x, weight, bias, stride=stride, groups=x.shape[1] if depthwise else 1)
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5) * scale.view(shape) + shift.view(shape)
        return x * (x + 3).clamp(0, 6) / 6 if act else x

    x = conv_bn(x, 3, value["stem"]["stride"])
    for stage in value["stages"]:
        for i, width in enumerate(stage["widths"]):
            stride = stage["stride"] if i == 0 else 1
            y = conv_bn(x, 1)
            assert y.shape[1] == x.shape[1] * value["expansion"]
            y = conv_bn(y, 3, stride, depthwise=True)
            y = conv_bn(y, 1, act=False)
            assert y.shape[1] == width
            x = x + y if x.shape == y.shape and stride == 1 else y
    logits = F.linear(x.mean(dim=(2, 3)), next(tensors), next(tensors))
    assert next(tensors, None) is None
    return logits


def assert_equal_students(value: dict[str, Any], seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = RnasStudent(value, num_classes=5).double().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    x = torch.rand(2, 3, size, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        found, expected = model(x), naive_logits(value, model.state_dict(), x)
    assert (found - expected).abs().max() <= 1e-12 * max(1.0, expected.abs().max().item())


@reproducible(40)
@given(structure=channel_structures(max_width=12), seed=st.integers(0, 99), size=st.sampled_from([8, 15, 32]))
def test_any_student_equals_the_definition(structure, seed, size):
    assert_equal_students(genotype_object(structure), seed, size)


@pytest.mark.parametrize("name", ["cl_s3", "cl_s7"])
def test_published_students_equal_the_definition(name):
    value = json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))
    assert_equal_students(value, seed=0, size=32)


def test_residual_blocks_start_as_the_identity():
    block = InvertedResidual(6, 6, 1, expansion=4).train()
    x = torch.randn(4, 6, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), x)
    assert not InvertedResidual(6, 6, 2, expansion=4).residual
    assert not InvertedResidual(6, 8, 1, expansion=4).residual


def test_batch_norms_have_the_momentum_of_the_paper():
    model = timm.create_model("rnas_cl_s3")
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.003}


def test_tutors_do_not_change_the_network():
    value = genotypes.named("cl_s3").to_json()
    plain, guided = RnasStudent(value), RnasStudent({**value, "tutors": list(range(28))})
    guided.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), guided.eval()(x))


@pytest.mark.parametrize("name", ["vuln_h", "robnet_large"])
def test_cell_genotypes_are_refused_naming_the_right_builder(name):
    kind = genotypes.named(name).kind
    with pytest.raises(GenotypeError, match=f"'{name}' is of kind '{kind}': build it with rnas_cells"):
        RnasStudent(name)
    with pytest.raises(GenotypeError, match="build it with rnas_cells"):
        timm.create_model("rnas_students", genotype=genotypes.named(name).to_json())


def test_invalid_genotypes_are_refused_by_the_builder():
    broken = genotypes.named("cl_s3").to_json()
    broken["stages"][1]["stride"] = 3
    with pytest.raises(GenotypeError, match=r"stages\[1\]"):
        timm.create_model("rnas_students", genotype=broken)
