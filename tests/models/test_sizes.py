"""Parameters, operations, widths and resolutions of the networks against published numbers and closed forms."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import rnas_zoo  # noqa: F401  (registers the models)
from rnas_zoo import resources
from rnas_zoo.errors import ImageSizeError, UsageError
from rnas_zoo.genotype import model_name
from rnas_zoo.models.cell import AuxiliaryHead
from rnas_zoo.models.rnas_cells import RnasCells
from rnas_zoo.models.size import count_macs, count_parameters

NAMES = sorted(path.stem for path in resources.folder("genotypes").glob("*.json"))
FILES = {name: json.loads((resources.folder("genotypes") / f"{name}.json").read_text("utf-8")) for name in NAMES}
CELLS = [name for name in NAMES if FILES[name]["kind"] != "channels"]
COMPACT = [name for name in timm.list_models(module="rnas_cells") if name.endswith("_c16l8")]


def weightless(make, *args, **kwargs) -> nn.Module:
    """A network of shapes alone: building and running it costs no arithmetic."""
    with torch.device("meta"):
        return make(*args, **kwargs).eval()


@cache
def entry(name: str) -> nn.Module:
    """The registered network at its default size; shared, so no test may change it."""
    return weightless(timm.create_model, name)


def images(size: int, count: int = 1) -> torch.Tensor:
    return torch.zeros(count, 3, size, size, device="meta")


def parameters(model: nn.Module) -> int:
    buffers = {name for name, _ in model.named_buffers()}
    return sum(tensor.numel() for name, tensor in model.state_dict().items() if name not in buffers)


def half_the_flops(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images(size))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


# Closed forms, from the definitions of the operations and the genotype file alone


def operation_parameters(op: str, c: int, stride: int, bn: int) -> int:
    """Parameters of an operation on c channels; `bn` is what a batch norm costs per channel."""
    if " + " in op:
        return sum(operation_parameters(part, c, stride, bn) for part in op.split(" + "))
    k = int(op[-1]) if op[-1].isdigit() else 0
    if op.startswith("sep"):
        return 2 * (k * k * c + c * c + bn * c)
    if op.startswith("dil"):
        return k * k * c + c * c + bn * c
    return c * c + bn * c if op == "skip_connect" and stride == 2 else 0


def cell_network_parameters(value: dict[str, Any], c: int, layers: int, classes: int) -> int:
    words = {"00": "none", "01": "sep_conv_3x3", "10": "skip_connect", "11": "sep_conv_3x3 + skip_connect"}
    kind, bn = value["kind"], 0 if value["kind"] == "dense_cells" else 2
    first, second = layers // 3, 2 * layers // 3
    total = 3 * 9 * 3 * c + 2 * 3 * c
    before, last = 3 * c, 3 * c
    for index in range(layers):
        reduction = index in (first, second)
        if index == first or (index == second and kind != "accurate_robust_cells"):
            c *= 2
        if kind == "dense_cells":
            code = value["codes"][0 if value["share"] else index].split()
            sources = [source for node in range(4) for source in range(2 + node)]
            edges, width = [(words[bits], source) for bits, source in zip(code, sources, strict=True)], 4
        else:
            role = "reduce" if reduction else "normal"
            if kind == "accurate_robust_cells" and not reduction:
                role = "accurate" if index < second else "robust"
            edges, width = value["cells"][role]["edges"], len(value["cells"][role]["concat"])
        total += before * c + bn * c + last * c + bn * c
        total += sum(operation_parameters(op, c, 2 if reduction and source < 2 else 1, bn) for op, source in edges)
        before, last = last, width * c
    return total + last * classes + classes


def student_parameters(value: dict[str, Any], classes: int) -> int:
    c = value["stem"]["width"]
    total = 3 * 9 * c + 3 * c
    for width in [width for stage in value["stages"] for width in stage["widths"]]:
        mid = c * value["expansion"]
        total += (c * mid + 3 * mid) + (9 * mid + 3 * mid) + (mid * width + 3 * width)
        c = width
    return total + c * classes + classes


@pytest.mark.parametrize("name", NAMES)
def test_default_sizes_equal_the_check_of_the_genotype_and_the_closed_form(name):
    value = FILES[name]
    model = entry(model_name(name))
    assert parameters(model) == count_parameters(model) == value["check"]["params"]
    if value["kind"] == "channels":
        assert parameters(model) == student_parameters(value, 10)
    else:
        default = value["default"]
        assert parameters(model) == cell_network_parameters(value, default["channels"], default["layers"], 10)


@pytest.mark.parametrize("name", [name for name in NAMES if "macs" in FILES[name]["check"]])
def test_default_macs_equal_the_check_of_the_genotype(name):
    model = entry(model_name(name))
    assert count_macs(model) == FILES[name]["check"]["macs"]


@pytest.mark.parametrize("name", ["cl_s3", "cl_l", "arnas", "robnet_free"])
def test_macs_are_half_the_flops_torch_counts(name):
    model = entry(model_name(name))
    assert count_macs(model) == half_the_flops(model, 32)


@pytest.mark.parametrize("name", COMPACT)
def test_compact_networks_have_16_channels_and_8_cells(name):
    model = entry(name)
    value = FILES[next(own for own in NAMES if model_name(own) == name.removesuffix("_c16l8"))]
    assert len(model.cells) == 8
    assert parameters(model) == count_parameters(model) == cell_network_parameters(value, 16, 8, 10)
    assert count_macs(model) == half_the_flops(model, 32)


@pytest.mark.parametrize("budget", ["s3", "s7"])
def test_cells_beside_the_students_have_their_parameters_and_macs(budget):
    student, cells = entry(f"rnas_cl_{budget}"), entry(f"rnas_vuln_h_{budget}")
    assert parameters(cells) == pytest.approx(parameters(student), rel=0.05)
    assert count_macs(cells) == half_the_flops(cells, 32) == pytest.approx(count_macs(student), rel=0.05)
    assert cells.genotype.name == "vuln_h"


def test_macs_grow_with_the_area_and_counting_leaves_no_trace():
    model = timm.create_model("rnas_cl_s3", num_classes=0).train()
    small, large = count_macs(model), count_macs(model, (3, 64, 64))
    assert large == 4 * small
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    weight = model.stem[0].weight.detach().clone()
    assert torch.equal(model.stem[1].running_mean, torch.zeros(16))
    assert torch.equal(model.stem[0].weight, weight)


def test_macs_of_layers_by_hand():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5))
    assert count_macs(model, (4, 9, 9)) == 6 * 16 * (2 * 9) + 96 * 5
    assert count_parameters(model) == 6 * 2 * 9 + 6 + 96 * 5 + 5
    model[0].requires_grad_(False)
    assert count_parameters(model) == 6 * 2 * 9 + 6 + 96 * 5 + 5


# Widths


def cell_widths(model: RnasCells, size: int = 32) -> list[tuple[int, int]]:
    """Channels of a node and height of the output, cell by cell."""
    outputs = model.cell_outputs(images(size))
    return [(output.shape[1] // 4, output.shape[2]) for output in outputs]


def test_arnas_widths_are_c_2c_2c():
    paper = entry("rnas_arnas")
    assert cell_widths(paper) == [(64, 32)] * 6 + [(128, 16)] * 7 + [(128, 8)] * 7
    search = weightless(RnasCells, "arnas", channels=24, layers=8)
    assert cell_widths(search) == [(24, 32)] * 2 + [(48, 16)] * 3 + [(48, 8)] * 3


def test_darts_widths_are_c_2c_4c():
    model = entry("rnas_darts_v2")
    assert cell_widths(model) == [(36, 32)] * 6 + [(72, 16)] * 7 + [(144, 8)] * 7
    search = weightless(RnasCells, "darts_v2", channels=16, layers=8)
    assert cell_widths(search) == [(16, 32)] * 2 + [(32, 16)] * 3 + [(64, 8)] * 3
    tiny = weightless(RnasCells, "darts_v2", channels=16, layers=14)
    assert cell_widths(tiny) == [(16, 32)] * 4 + [(32, 16)] * 5 + [(64, 8)] * 5


@pytest.mark.parametrize("name", CELLS)
def test_classifiers_see_16_times_the_channels_and_8_times_for_arnas(name):
    model = entry(model_name(name))
    if FILES[name]["kind"] == "accurate_robust_cells":
        expected = 8 * 64
    else:
        expected = 16 * {"robnet_large_v2": 64}.get(name, 36)
    assert model.get_classifier().in_features == model.num_features == expected


# Configurations of the papers


def test_arnas_with_100_classes():
    model = weightless(timm.create_model, "rnas_arnas", num_classes=100)
    assert parameters(model) == 4_566_564


def test_arnas_for_tiny_imagenet():
    model = weightless(RnasCells, "arnas", channels=84, layers=14, num_classes=200)
    assert parameters(model) == 5_405_684
    assert round(count_macs(model, (3, 64, 64)) / 1e9, 2) == 5.82
    assert half_the_flops(model, 64) == count_macs(model, (3, 64, 64))


@pytest.mark.parametrize(("channels", "millions"), [(16, 0.449), (25, 1.042), (36, 2.102), (46, 3.383)])
def test_e2rnas_at_the_widths_of_its_paper(channels, millions):
    model = weightless(RnasCells, "e2rnas", channels=channels)
    assert round(parameters(model) / 1e6, 3) == millions


@pytest.mark.parametrize("channels", [1, 0, -2])
def test_fewer_than_two_channels_are_refused(channels):
    with pytest.raises(UsageError, match=f"at least 2 channels .* got channels={channels}, layers=20"):
        RnasCells("e2rnas", channels=channels)


@pytest.mark.parametrize("layers", [2, 0, -1])
def test_fewer_than_three_layers_are_refused(layers):
    with pytest.raises(UsageError, match=f"3 layers, got channels=16, layers={layers}"):
        RnasCells("e2rnas", channels=16, layers=layers)


# Other image sizes and stems


@pytest.mark.parametrize("name", ["rnas_vuln_h_c16l8", "rnas_arnas_c16l8", "rnas_robnet_large_c16l8"])
@pytest.mark.parametrize(("size", "feature"), [(32, 8), (64, 16)])
def test_auxiliary_heads_fit_the_map_they_read(name, size, feature):
    model = timm.create_model(name, num_classes=7).train()
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    head = model.auxiliary_head(feature)
    logits, tap = model.forward_with_auxiliary(x)
    assert logits.shape == (2, 7)
    assert tap.shape[2:] == (feature, feature)
    assert tap.shape[1] == model.cell_channels(model.auxiliary_cell)
    assert head(tap).shape == (2, 7)
    head(tap).sum().backward()
    assert model.stem[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.head.parameters())
    assert {tuple(m.kernel_size) for m in head.modules() if isinstance(m, nn.Conv2d)} == {
        (1, 1),
        {8: (2, 2), 16: (4, 4)}[feature],
    }


def test_the_auxiliary_head_has_the_published_size():
    head = AuxiliaryHead(576, 10, 8)
    assert count_parameters(head) == 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10


@pytest.mark.parametrize("feature", [4, 1, 0])
def test_auxiliary_heads_refuse_maps_that_are_too_small(feature):
    with pytest.raises(UsageError, match=f"at least 5x5, found {feature}x{feature}"):
        AuxiliaryHead(16, 10, feature)


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    [
        ("cifar", 32, [32, 16, 8]),
        ("cifar", 64, [64, 32, 16]),
        ("cifar", 28, [28, 14, 7]),
        ("cifar_stride2", 32, [16, 8, 4]),
        ("cifar_stride2", 64, [32, 16, 8]),
        ("imagenet", 64, [8, 4, 2]),
        ("imagenet", 224, [28, 14, 7]),
    ],
)
@pytest.mark.parametrize("genotype", ["vuln_l", "arnas", "robnet_large"])
def test_every_stem_gives_the_resolutions_it_states(stem, size, expected, genotype):
    model = RnasCells(genotype, channels=4, layers=5, stem=stem, num_classes=6).eval()
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert model(x).shape == (1, 6)
        assert torch.isfinite(model(x)).all()
    assert [tuple(m.shape[2:]) for m in maps] == [(side, side) for side in expected]
    assert [size // info["reduction"] for info in model.feature_info] == expected
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert final.shape == (1, model.num_features, expected[-1], expected[-1])


def test_images_need_not_be_square():
    model = RnasCells("vuln_l", channels=4, layers=5).eval()
    with torch.no_grad():
        assert model.forward_features(torch.rand(1, 3, 32, 64)).shape[2:] == (8, 16)


@pytest.mark.parametrize(
    ("stem", "height", "width", "multiple"),
    [
        ("cifar", 30, 30, 4),
        ("cifar", 32, 30, 4),
        ("cifar", 33, 32, 4),
        ("cifar_stride2", 36, 36, 8),
        ("imagenet", 48, 48, 32),
        ("imagenet", 64, 225, 32),
    ],
)
def test_images_that_do_not_divide_are_refused_naming_both_sides(stem, height, width, multiple):
    model = RnasCells("vuln_l", channels=4, layers=5, stem=stem)
    x = torch.zeros(1, 3, height, width)
    for call in (model, model.forward_features, model.cell_outputs, model.forward_intermediates):
        with pytest.raises(ImageSizeError) as refused:
            call(x)
        assert f"{height}x{width} pixels" in str(refused.value)
        assert f"divisible by {multiple}" in str(refused.value)


@pytest.mark.parametrize(("size", "expected"), [(32, [16, 8, 4]), (64, [32, 16, 8]), (33, [17, 9, 5])])
def test_students_take_any_image_size(size, expected):
    model = timm.create_model("rnas_cl_s3").eval()
    with torch.no_grad():
        _, maps = model.forward_intermediates(torch.rand(1, 3, size, size))
        assert model(torch.rand(1, 3, size, size)).shape == (1, 10)
    assert [m.shape[2] for m in maps] == expected
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8]
