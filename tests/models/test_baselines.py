"""ResNet-20 and MobileNetV2 against published sizes, torchvision, a plain reading of their definition, and budgets."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import rnas_zoo
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.deploy.twin import twin
from rnas_zoo.errors import UsageError
from rnas_zoo.models.baselines import BasicBlock, LinearBottleneck, MobileNetV2, ResNet20
from rnas_zoo.models.size import count_macs, count_parameters

NAMES = [f"rnas_{kind}{budget}" for kind in ("resnet20", "mobilenetv2") for budget in ("", "_s3", "_s7")]


def image(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def disturbed(model: nn.Module) -> nn.Module:
    """The model in double precision and evaluation mode, with arbitrary statistics, scales and shifts."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
    return model


# Sizes


def test_resnet20_has_the_published_size():
    model = timm.create_model("rnas_resnet20")
    stages = ((16, 16, 1024), (16, 32, 256), (32, 64, 64))
    weights = [9 * (a * b + 5 * b * b) for a, b, _ in stages]
    norms = 2 * (16 + 6 * (16 + 32 + 64))
    assert count_parameters(model) == 27 * 16 + sum(weights) + norms + 64 * 10 + 10
    assert round(count_parameters(model) / 1e6, 2) == 0.27
    assert count_macs(model) == 27 * 16 * 1024 + sum(w * s[2] for w, s in zip(weights, stages, strict=True)) + 640
    assert round(count_macs(model) / 1e6) == 41


def test_mobilenetv2_has_the_size_of_torchvisions():
    with torch.device("meta"):
        peer = torchvision.models.mobilenet_v2(num_classes=10)
        assert count_parameters(timm.create_model("rnas_mobilenetv2")) == count_parameters(peer)


@pytest.mark.parametrize("kind", ["resnet20", "mobilenetv2"])
@pytest.mark.parametrize("student", ["s3", "s7"])
def test_matched_entries_cost_what_the_student_costs(kind, student):
    macs = count_macs(timm.create_model(f"rnas_{kind}_{student}"))
    assert macs == pytest.approx(count_macs(timm.create_model(f"rnas_cl_{student}")), rel=0.05)


@pytest.mark.parametrize("student", ["s3", "s7"])
def test_matched_mobilenets_are_also_as_large_as_the_student(student):
    parameters = count_parameters(timm.create_model(f"rnas_mobilenetv2_{student}"))
    assert parameters == pytest.approx(count_parameters(timm.create_model(f"rnas_cl_{student}")), rel=0.05)


# Forward and backward


def bn(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    def view(tensor: Tensor) -> Tensor:
        return tensor.view(1, -1, 1, 1)

    return (x - view(norm.running_mean)) / (view(norm.running_var) + 1e-5).sqrt() * view(norm.weight) + view(norm.bias)


def naive_basic(block: nn.Module, x: Tensor, stride: int) -> Tensor:
    conv1, bn1, _, conv2, bn2 = block.body
    y = bn(F.conv2d(x, conv1.weight, stride=stride, padding=1), bn1).clamp_min(0)
    y = bn(F.conv2d(y, conv2.weight, padding=1), bn2)
    shortcut = torch.zeros_like(y)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            shortcut[:, : x.shape[1], row, column] = x[:, :, row * stride, column * stride]
    return (y + shortcut).clamp_min(0)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("in_chs", "out_chs", "stride"), [(4, 4, 1), (4, 4, 2), (3, 7, 2), (2, 5, 1)])
def test_a_basic_block_equals_the_definition(in_chs, out_chs, stride, size):
    block = disturbed(BasicBlock(in_chs, out_chs, stride))
    x = image(2, in_chs, *size) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(block(x), naive_basic(block, x, stride), rtol=1e-10, atol=1e-10)


def test_resnet20_is_a_stem_nine_blocks_and_a_classifier():
    torch.manual_seed(0)
    model = disturbed(ResNet20(width=0.2, num_classes=4))
    x = image(2, 3, 16, 16)
    with torch.no_grad():
        y = bn(F.conv2d(x, model.stem[0].weight, padding=1), model.stem[1]).clamp_min(0)
        for i, stage in enumerate(model.stages):
            assert len(stage) == 3
            for j, block in enumerate(stage):
                y = naive_basic(block, y, stride=2 if i and not j else 1)
        y = y.mean((2, 3)) @ model.head.fc.weight.T + model.head.fc.bias
        assert (y[0] - y[1]).abs().max() > 1e-3
        torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)
    assert [info["num_chs"] for info in model.feature_info] == [3, 6, 13]


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("out_chs", "stride", "expansion"), [(3, 1, 6), (3, 2, 6), (5, 1, 2), (3, 1, 1)])
def test_a_bottleneck_equals_the_definition(out_chs, stride, expansion, size):
    block = disturbed(LinearBottleneck(3, out_chs, stride, expansion))
    x = 4 * (image(2, 3, *size) - 0.5)
    layers = [layer for layer in block.body if not isinstance(layer, nn.ReLU6)]
    with torch.no_grad():
        y = x
        if expansion > 1:
            y = bn(F.conv2d(y, layers[0].weight), layers[1]).clamp(0, 6)
        depthwise = layers[-4].weight
        y = torch.cat([F.conv2d(y[:, i : i + 1], depthwise[i : i + 1], stride=stride, padding=1)
                       for i in range(3 * expansion)], dim=1)  # fmt: skip
        y = bn(F.conv2d(bn(y, layers[-3]).clamp(0, 6), layers[-2].weight), layers[-1])
        expected = x + y if stride == 1 and out_chs == 3 else y
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_mobilenetv2_equals_torchvisions_with_the_strides_of_small_images(stem_stride):
    torch.manual_seed(0)
    peer = torchvision.models.mobilenet_v2(num_classes=10, dropout=0.0)
    peer.features[0][0].stride = (stem_stride, stem_stride)
    peer.features[2].conv[1][0].stride = (1, 1)
    peer, model = disturbed(peer).train(), MobileNetV2(stem_stride=stem_stride).double().train()
    tensors = peer.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    x = image(3, 3, 17, 16)
    with torch.no_grad():
        y = peer(x)
        assert (y[0] - y[1]).abs().max() > 0.1
        torch.testing.assert_close(model(x), y, rtol=1e-8, atol=1e-8)
        assert model.forward_features(image(2, 3, 32, 32)).shape[2:] == (4 // stem_stride, 4 // stem_stride)


@pytest.mark.parametrize("name", ["rnas_resnet20_s3", "rnas_mobilenetv2_s3"])
def test_gradients_by_the_image_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    model = disturbed(timm.create_model(name)).train()  # statistics of the batch keep the signal from fading
    x = image(4, 3, 9, 9).requires_grad_()
    direction = image(4, 3, 9, 9).flip(0, 2) - 0.5
    (gradient,) = torch.autograd.grad(model(x)[0, 0], x)
    slope = (gradient * direction).sum().item()
    step = 1e-7
    with torch.no_grad():
        ends = [model(x + sign * step * direction)[0, 0].item() for sign in (1, -1)]
    assert abs(slope) > 1e-2
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_shortcuts_of_resnet20_survive_as_onnx_and_its_differentiable_twin(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("rnas_resnet20_s3").eval()
    export(model, tmp_path / "model.onnx")
    x = image(2, 3, 32, 32).float().requires_grad_()
    ours, twins = model(x), twin(tmp_path / "model.onnx")(x)
    torch.testing.assert_close(twins, ours, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y[:, 0].sum(), x)[0] for y in (twins, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_batch_norms_have_the_usual_momentum():
    for name in NAMES:
        assert {m.momentum for m in timm.create_model(name).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


# Arguments and names


def test_arguments_of_the_entries_can_be_changed():
    assert timm.create_model("rnas_resnet20", width=2).num_features == 128
    assert timm.create_model("rnas_resnet20_s3", width=0.001).num_features == 1
    model = timm.create_model("rnas_mobilenetv2_s3", stem_stride=2, in_chans=1, num_classes=3)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16]


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf, "wide", None, True])
@pytest.mark.parametrize("network", [ResNet20, MobileNetV2])
def test_widths_that_do_not_exist_are_refused(network, width):
    with pytest.raises(UsageError, match=rf"width .* must be a positive number, got {width!r}"):
        network(width)


@pytest.mark.parametrize("stride", [0, 3, 4, "2", 1.5])
def test_other_stem_strides_are_refused(stride):
    with pytest.raises(UsageError, match=f"stem_stride must be 1 or 2, got {stride!r}"):
        timm.create_model("rnas_mobilenetv2", stem_stride=stride)


def test_the_baselines_are_listed():
    assert set(NAMES) <= set(rnas_zoo.list_models())
