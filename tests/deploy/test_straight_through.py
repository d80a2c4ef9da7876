"""Quantized graphs and graphs of 8-bit pixels: forward what ONNX says, backward as if nothing had been rounded; and
the same graphs without their rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rnas_zoo.deploy.form import Form, dress
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.straight_through import Dequantize, Quantize
from rnas_zoo.deploy.twin import rounds_activations, twin
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


def quantized(source, out, calibration=None, form="QDQ", **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([{"image": (pixels(40) if calibration is None else calibration).numpy()}])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(str(source), str(out), Reader(), quant_format=QuantFormat[form], **options)
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


def test_the_runtime_s_own_operators_are_understood(float_file, tmp_path):
    """They stand in files of older operator sets, between operators that need to know the rank of their input."""
    standard = onnx.load(quantized(float_file, tmp_path / "q.onnx"))
    for node in standard.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
    standard.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    del standard.graph.value_info[:]
    onnx.save(standard, tmp_path / "own.onnx")
    wanted = Session(tmp_path / "own.onnx", provider="cpu", threads=1).logits(pixels().numpy())
    np.testing.assert_allclose(twin(tmp_path / "own.onnx")(pixels()).numpy(), wanted, atol=0.02)


def weights_quantized_inside(float_file, path):
    """Only the weights of the convolution are rounded, and in the graph."""
    model = onnx.load(float_file)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    weight, scale = convolution.input[1], numpy_helper.from_array(np.full(6, 0.01, np.float32), "scale")
    zero = numpy_helper.from_array(np.zeros(6, np.int8), "zero")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", [weight, "scale", "zero"], ["q"], axis=0))
    convolution.input[1] = "w"
    onnx.save(model, path)
    return path


def test_weights_that_are_quantized_in_the_graph_are_folded(float_file, tmp_path):
    weights_quantized_inside(float_file, tmp_path / "q.onnx")
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


# --- which files round ------------------------------------------------------------------------------------------------


def dynamic(float_file, path):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(float_file), str(path), op_types_to_quantize=["MatMul", "Gemm"])
    return path


@pytest.mark.parametrize(
    ("make", "rounds"),
    [
        (lambda source, path: source, False),
        (lambda source, path: uint8_nhwc(path), False),
        (weights_quantized_inside, False),
        (lambda source, path: dequantized(path), False),  # pixels are whole numbers already
        (quantized, True),
        (lambda source, path: quantized(source, path, form="QOperator"), True),
        (dynamic, True),
    ],
    ids=["float", "uint8", "weights", "dequantized pixels", "QDQ", "QLinearConv", "dynamic"],
)
def test_a_file_rounds_if_it_computes_on_rounded_activations(float_file, tmp_path, make, rounds):
    assert rounds_activations(make(float_file, tmp_path / "q.onnx")) is rounds


def test_what_is_no_model_rounds_nothing(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    for name in ("x", "missing"):
        with pytest.raises(OnnxFileError, match="is not a valid ONNX model"):
            rounds_activations(tmp_path / f"{name}.onnx")


# --- without rounding -------------------------------------------------------------------------------------------------


def rounded_weights(path):
    """`net` with the weights that a QDQ file stands for, read from it."""
    model, found = onnx.load(path), net()
    values = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in values:
            continue
        whole, scale, zero = (values[name].astype(np.float64) for name in node.input)
        spread = (-1, *[1] * (whole.ndim - 1)) if scale.size > 1 else ()
        numbers = torch.from_numpy((whole - zero.reshape(spread)) * scale.reshape(spread)).float()
        (own,) = [p for p in found.parameters() if p.shape == numbers.shape]
        assert 0 < (own - numbers).abs().max() <= 0.05 * own.abs().max(), "these are the weights, rounded"
        own.copy_(numbers)
    return found


@pytest.mark.parametrize("activation", ["Softplus", "Relu"])
@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_without_rounding_it_is_the_float_network_with_the_weights_of_the_file(tmp_path, activation, kind, per_channel):
    from onnxruntime.quantization import QuantType

    model = onnx.load(graph(tmp_path / "f.onnx"))
    (node,) = [node for node in model.graph.node if node.op_type == "Softplus"]
    node.op_type = activation
    onnx.save(model, tmp_path / "f.onnx")
    options = {"per_channel": per_channel, "activation_type": QuantType[kind]}
    path = quantized(tmp_path / "f.onnx", tmp_path / "q.onnx", **options)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Relu" not in operators, "the quantizer leaves it out: the range does its work"
    wanted, x = rounded_weights(path), pixels(20)
    if activation == "Relu":
        wanted[1] = torch.nn.ReLU()
    x[:, :, :3] = 0  # at the very edge of the range
    free = twin(path, rounding=False)
    assert not any(isinstance(module, Quantize) for module in free.modules())
    torch.testing.assert_close(free(x), wanted(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope(free, x), slope(wanted, x), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(twin(path)(x), wanted(x), rtol=1e-4, atol=1e-4), "with rounding it is another function"


def test_without_rounding_there_is_a_gradient_where_the_range_ends(float_file, tmp_path):
    path = quantized(float_file, tmp_path / "q.onnx", pixels(40) * 0.2)
    x = pixels(10).clamp_min(0.3)  # all beyond the range of the image
    assert slope(twin(path), x).abs().max() == 0
    wanted = rounded_weights(path)
    torch.testing.assert_close(slope(twin(path, rounding=False), x), slope(wanted, x), rtol=1e-4, atol=1e-6)
    assert (slope(wanted, x).flatten(1).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("pooled", [False, True])
def test_without_rounding_8_bit_pixels_are_still_divided_and_moves_in_between_are_passed(tmp_path, pooled):
    model = onnx.load(dequantized(tmp_path / "u8.onnx"))
    value, first = model.graph.node[0].output[0], model.graph.node[1]
    for name, number in (("scale8", np.float32(0.02)), ("zero8", np.uint8(3))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number), name))
    nodes = [helper.make_node("QuantizeLinear", [value, "scale8", "zero8"], ["whole"])]
    if pooled:
        pool = helper.make_node("MaxPool", ["whole"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4)
        nodes.append(pool)
    nodes.append(helper.make_node("DequantizeLinear", [nodes[-1].output[0], "scale8", "zero8"], ["coarse"]))
    first.input[0] = "coarse"
    for node in reversed(nodes):
        model.graph.node.insert(1, node)
    onnx.save(model, tmp_path / "u8.onnx")
    assert rounds_activations(tmp_path / "u8.onnx")
    x = pixels()
    moved = torch.nn.functional.max_pool2d(x, 3, 1, 1) if pooled else x
    free, rounded = twin(tmp_path / "u8.onnx", rounding=False), twin(tmp_path / "u8.onnx")
    torch.testing.assert_close(free((x * 255).round()), net()(moved), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rounded((x * 255).round()), net()((moved / 0.02).round() * 0.02), rtol=1e-5, atol=1e-5)


# --- resizing ---------------------------------------------------------------------------------------------------------


def resampling(old, new):
    """Weights (new, old) of a triangle as wide as a pixel of the smaller grid."""
    width = max(1.0, old / new)
    centres, places = (np.arange(new) + 0.5) * old / new - 0.5, np.arange(old)
    found = np.maximum(0, 1 - np.abs(places[None] - centres[:, None]) / width)
    return torch.from_numpy(found / found.sum(1, keepdims=True)).float()


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("size", [(8, 8), (17, 23), (40, 9), (5, 3), (4, 19)])
def test_resizing_in_the_graph_is_onnxruntime_s_and_has_the_gradient_of_a_linear_map(tmp_path, opset, size):
    model = onnx.load(graph(tmp_path / "f.onnx", opset=opset))
    dress(model, Form(input="uint8-nhwc", resize=True, opset=opset), (8, 8))
    onnx.save(model, tmp_path / "any.onnx")
    whole = np.random.default_rng(0).integers(0, 256, (4, *size, 3)).astype(np.uint8)
    double, session = twin(tmp_path / "any.onnx"), Session(tmp_path / "any.onnx", provider="cpu", threads=1)
    x = torch.from_numpy(whole).float()
    np.testing.assert_allclose(double(x).numpy(), session.logits(whole), atol=1e-5)
    rows, columns = (resampling(side, 8) for side in size)

    def wanted(z):
        return net()(rows @ z.permute(0, 3, 1, 2) @ columns.T / 255)

    torch.testing.assert_close(double(x), wanted(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slope(double, x), slope(wanted, x), rtol=1e-3, atol=1e-7)
    assert (slope(double, x).flatten(1).abs().amax(1) > 0).all()
