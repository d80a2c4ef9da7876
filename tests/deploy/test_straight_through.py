"""Quantized graphs and graphs of 8-bit pixels: forward what ONNX says, backward as if nothing had been rounded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.straight_through import Dequantize, Quantize
from rnas_zoo.deploy.twin import twin
from rnas_zoo.errors import OnnxFileError

from ..graphs import CHANNELS_FIRST, TO_FLOAT, UNIT, graph, net, pixels, slope, uint8_nhwc

KINDS = {np.uint8: (0, 255), np.int8: (-128, 127), np.uint16: (0, 65535), np.int16: (-32768, 32767)}


@settings(max_examples=40)
@given(st.sampled_from(list(KINDS)), st.booleans(), st.integers(0, 2**32 - 1))
def test_rounding_is_onnx_s_and_its_gradient_one_inside_and_zero_outside(kind, per_channel, seed):
    generator = np.random.default_rng(seed)
    low, high = KINDS[kind]
    count = 3 if per_channel else 1
    scale = generator.uniform(0.001, 0.1, count).astype(np.float32)
    zero = generator.integers(low, high + 1, count).astype(kind)
    x = (generator.normal(size=(2, 3, 4)) * scale.max() * (high - low)).astype(np.float32)
    x.flat[:6] = (np.arange(6) + 0.5) * scale[0]  # ties
    shape = [count] if per_channel else []
    values = {"x": x, "scale": scale.reshape(shape), "zero": zero.reshape(shape)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in values.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in ("q", "y")]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 21)]
    )
    whole, wanted = ReferenceEvaluator(made).run(None, values)

    parameters = torch.from_numpy(scale), torch.from_numpy(zero.astype(np.float32)), 1, low, high
    z = torch.from_numpy(x).requires_grad_()
    quantized = Quantize(*parameters)(z)
    found = Dequantize(*parameters)(quantized)
    np.testing.assert_array_equal(quantized.detach().numpy(), whole.astype(np.float32))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-6)
    free = np.rint(x / scale[None, :, None]) + zero.astype(np.float64)[None, :, None]
    inside = (free >= low) & (free <= high)
    np.testing.assert_allclose(torch.autograd.grad(found.sum(), z)[0].numpy(), inside, rtol=1e-6)


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    return graph(tmp_path_factory.mktemp("graphs") / "float.onnx")


def quantized(source, out, **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([{"image": pixels(40).numpy()}])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(str(source), str(out), Reader(), quant_format=QuantFormat.QDQ, **options)
    return out


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_twin_of_an_int8_model_has_its_logits_and_nearly_the_float_model_s_gradient(tmp_path, opset, per_channel):
    path = quantized(graph(tmp_path / "f.onnx", opset=opset), tmp_path / "q.onnx", per_channel=per_channel)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(path).graph.node}
    x = pixels(40)
    double = twin(path)
    session = Session(path, provider="cpu", threads=1)
    logits = session.logits(x.numpy())
    step = np.ptp(logits) / 255  # of the last activation, about
    difference = np.abs(double(x).numpy() - logits)
    assert difference.max() <= 3 * step
    assert difference.mean() <= 0.2 * step
    found, wanted = slope(double, x), slope(net(), x)
    similarity = torch.nn.functional.cosine_similarity(found.flatten(1), wanted.flatten(1))
    assert similarity.quantile(0.2) > 0.99  # the others have a logit at the edge of its range, where the clamp begins


@pytest.mark.parametrize("kinds", [("QUInt16", "QInt8"), ("QInt8", "QInt8"), ("QInt16", "QInt16")])
def test_other_integer_types_are_understood(float_file, tmp_path, kinds):
    from onnxruntime.quantization import QuantType

    activations, weights = (QuantType[kind] for kind in kinds)
    path = quantized(float_file, tmp_path / "q.onnx", activation_type=activations, weight_type=weights)
    session = Session(path, provider="cpu", threads=1)
    np.testing.assert_allclose(twin(path)(pixels()).numpy(), session.logits(pixels().numpy()), atol=0.02)


def test_weights_that_are_quantized_in_the_graph_are_folded(float_file, tmp_path):
    model = onnx.load(float_file)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    weight, scale = convolution.input[1], numpy_helper.from_array(np.full(6, 0.01, np.float32), "scale")
    zero = numpy_helper.from_array(np.zeros(6, np.int8), "zero")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", [weight, "scale", "zero"], ["q"], axis=0))
    convolution.input[1] = "w"
    onnx.save(model, tmp_path / "q.onnx")
    double, session = twin(tmp_path / "q.onnx"), Session(tmp_path / "q.onnx", provider="cpu", threads=1)
    np.testing.assert_allclose(double(pixels()).numpy(), session.logits(pixels().numpy()), atol=1e-5)
    assert not any(isinstance(module, Quantize) for module in double.modules())


def test_a_scale_computed_in_the_graph_has_no_twin(float_file, tmp_path):
    model = onnx.load(float_file)
    for name, value in (("a", np.float32(0.01)), ("zero", np.uint8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    nodes = [
        helper.make_node("Abs", ["a"], ["scale"]),
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["image8"]),
    ]
    model.graph.node[0].input[0] = "image8"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, tmp_path / "q.onnx")
    with pytest.raises(OnnxFileError, match="a scale or zero point that is not constant"):
        twin(tmp_path / "q.onnx")


def from_uint8(path):
    return uint8_nhwc(path)


def through_int32(path):
    return graph(path, ("Cast", {"to": TensorProto.INT32}), TO_FLOAT, UNIT, kind=TensorProto.UINT8)


def dequantized(path):
    graph(path, ("Identity", {}), kind=TensorProto.UINT8)
    model = onnx.load(path)
    for name, value in (("s", np.float32(1 / 255)), ("z", np.uint8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node[0].CopyFrom(
        helper.make_node("DequantizeLinear", ["image", "s", "z"], list(model.graph.node[0].output))
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("make", [from_uint8, through_int32, dequantized])
def test_the_twin_of_a_graph_of_8_bit_pixels_has_the_float_graph_s_logits_and_gradient(make, tmp_path):
    path = make(tmp_path / "u8.onnx")
    double, x = twin(path), pixels()
    assert double.grid
    layout = (0, 2, 3, 1) if make is from_uint8 else (0, 1, 2, 3)
    whole = (x * 255).round().permute(layout)
    torch.testing.assert_close(double(whole), net()(x))
    found = slope(double, whole)
    torch.testing.assert_close(found, slope(net(), x).permute(layout) / 255, rtol=1e-4, atol=1e-8)
    logits = Session(path, provider="cpu", threads=1).logits(whole.numpy().astype(np.uint8))
    np.testing.assert_allclose(double(whole).numpy(), logits, atol=1e-5)


def test_arithmetic_on_integers_has_no_twin(tmp_path):
    divide = ("Div", {}, np.array(16, np.uint8))
    path = graph(tmp_path / "u8.onnx", CHANNELS_FIRST, divide, TO_FLOAT, kind=TensorProto.UINT8, shape=("n", 8, 8, 3))
    with pytest.raises(OnnxFileError, match=r"no differentiable twin.*Div node1 computes on integers"):
        twin(path)
