"""Settings of int8 files: what each of them rounds, and what it leaves in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, numpy_helper

from rnas_zoo.deploy.int8_graph import Setting, quantized
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.errors import UsageError

from .small import images, network, scales


@pytest.fixture(scope="module")
def float_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export(network(), path, images=images().images)
    return path


def graph(float_file: Path, **options: Any) -> onnx.ModelProto:
    return quantized(float_file, images().images[:32], Setting(**options))


def test_per_channel_is_one_scale_per_output_channel_and_else_one_per_weight(float_file):
    shapes = [(16, 3, 3, 3), (32, 16, 1, 1), (32, 1, 3, 3), (64, 32, 1, 1), (3, 1024)]
    assert sorted(scales(graph(float_file))) == sorted((shape, 1) for shape in shapes)
    assert sorted(scales(graph(float_file, per_channel=True))) == sorted((shape, shape[0]) for shape in shapes)


def convolutions(model: onnx.ModelProto) -> dict[bool, list[onnx.NodeProto]]:
    """By whether they are grouped."""
    found: dict[bool, list[onnx.NodeProto]] = {False: [], True: []}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found[any(a.name == "group" and a.i > 1 for a in node.attribute)].append(node)
    return found


@pytest.mark.parametrize("in_float", ["nothing", "depthwise"])
def test_depthwise_leaves_grouped_convolutions_in_float_and_no_others(float_file, in_float):
    model = graph(float_file, in_float=in_float)
    kinds = {value.name: value.data_type for value in model.graph.initializer}
    found = convolutions(model)
    assert (len(found[True]), len(found[False])) == (1, 3)
    assert [kinds.get(node.input[1]) == TensorProto.FLOAT for node in found[True]] == [in_float == "depthwise"]
    assert [node.input[1] in kinds for node in found[False]] == [False] * 3, "those come from DequantizeLinear"


@pytest.mark.parametrize("in_float", ["nothing", "hardswish"])
def test_hardswish_leaves_what_convolutions_give_unrounded(float_file, in_float):
    model = graph(float_file, in_float=in_float)
    users = {name: node for node in model.graph.node for name in node.input}
    after = [users[node.output[0]].op_type for node in model.graph.node if node.op_type == "Conv"]
    assert len(after) == 4
    assert ("QuantizeLinear" in after) == (in_float == "nothing")
    assert after == ["QuantizeLinear"] * 4 or "HardSwish" in after


def test_percentile_gives_a_narrower_range_to_activations_than_their_extremes(float_file):
    pixels = images().images[:32].copy()
    pixels[:, 4:] //= 3
    pixels[0, 0, 0] = 255  # one pixel of 8192, more than 0.001 %; three of 24576 numbers
    found = []
    for calibration in ("minmax", "percentile"):
        model = quantized(float_file, pixels, Setting(calibration=calibration))
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] != "image")
        values = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
        found.append(float(values[node.input[1]]))
    assert found[1] <= found[0]
    assert found[1] != found[0]


@pytest.mark.parametrize("wrong", [{"calibration": "median"}, {"in_float": "everything"}])
def test_a_setting_that_does_not_exist_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        Setting(**wrong)
