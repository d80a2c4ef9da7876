"""Wide residual networks against published sizes and a plain reading of their definition, and the bundled teacher."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from rnas_zoo import data, resources
from rnas_zoo.errors import UsageError
from rnas_zoo.models.size import count_macs, count_parameters
from rnas_zoo.models.teachers import WideResNet

BUNDLED = "rnas_wrn10_1.pgd_digits_linf16"


PUBLISHED = [("rnas_wrn34_10", 46.16), ("rnas_wrn28_10", 36.48), ("rnas_wrn16_4", 2.75)]


@pytest.mark.parametrize(("name", "millions"), PUBLISHED)
def test_sizes_are_the_published_ones(name, millions):
    with torch.device("meta"):
        assert round(count_parameters(timm.create_model(name)) / 1e6, 2) == millions


def test_size_of_wrn_10_1_by_hand():
    blocks = [(16, 16, 0), (16, 32, 512), (32, 64, 2048)]
    expected = 27 * 16 + sum(2 * a + 9 * a * b + 2 * b + 9 * b * b + short for a, b, short in blocks) + 128 + 650
    macs = 27 * 16 * 1024 + 2 * 9 * 256 * 1024 + (9 * 512 + 9 * 1024 + 512) * 256 + (9 * 2048 + 9 * 4096 + 2048) * 64
    model = timm.create_model("rnas_wrn10_1")
    assert count_parameters(model) == expected
    assert count_macs(model) == macs + 640


def naive_logits(state: dict[str, Tensor], depth: int, x: Tensor) -> Tensor:
    """The network by its definition, with the tensors of a state dict in their order."""
    tensors = iter(tensor for name, tensor in state.items() if not name.startswith("head."))

    def bn_relu(x: Tensor) -> Tensor:
        scale, shift, mean, variance, _ = (next(tensors) for _ in range(5))
        view = (1, -1, 1, 1)
        x = (x - mean.view(view)) / (variance.view(view) + 1e-5).sqrt() * scale.view(view) + shift.view(view)
        return x.clamp_min(0)

    x = F.conv2d(x, next(tensors), padding=1)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            active = bn_relu(x)
            y = F.conv2d(active, next(tensors), stride=stride, padding=1)
            y = F.conv2d(bn_relu(y), next(tensors), padding=1)
            x = y + (x if y.shape == x.shape else F.conv2d(active, next(tensors), stride=stride))
    x = bn_relu(x)
    assert next(tensors, None) is None
    return x.mean((2, 3)) @ state["head.fc.weight"].T + state["head.fc.bias"]


@pytest.mark.parametrize(("depth", "width", "first"), [(10, 1, 4), (10, 2, 3), (16, 3, 2)])
def test_any_depth_and_width_equal_the_definition(depth, width, first):
    generator = torch.Generator().manual_seed(depth)
    model = WideResNet(depth, width, first, num_classes=5).double().eval()
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator) * (1 if "running_var" in name else -1))
    x = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), naive_logits(model.state_dict(), depth, x), rtol=1e-10, atol=1e-10)
    assert [info["num_chs"] for info in model.feature_info] == [first * width * k for k in (1, 2, 4)]


def test_depths_and_widths_that_do_not_exist_are_refused():
    for depth in (4, 12, 33):
        with pytest.raises(UsageError, match=rf"depth of 6n \+ 4 .* got {depth}"):
            WideResNet(depth)
    with pytest.raises(UsageError, match="width=0, first_width=16"):
        timm.create_model("rnas_wrn10_1", width=0)


def test_the_bundled_teacher_has_the_accuracy_its_evidence_states():
    folder = resources.folder("model_cards") / BUNDLED
    run = json.loads((folder / "robustness.json").read_text(encoding="utf-8"))["runs"][0]
    test = data.load("digits").test.take(np.arange(run["n"]))
    model = timm.create_model(BUNDLED, pretrained=True).eval()
    with torch.no_grad():
        correct = model(data.to_pixels(test.images)).argmax(1).numpy() == test.labels
    assert correct.mean() == run["clean_accuracy"] > 0.95
    assert run["eps"] == "16/255"
    assert run["robust_accuracy"] > 0.6
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1.2e6
