"""ONNX graphs on whole numbers (8-bit inputs, quantized weights and activations) made differentiable.

Forward they compute what ONNX says; backward, rounding counts as the identity (straight-through, Bengio et al. 2013)
and clamping has its own gradient: one inside its range, zero outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

DOMAIN = "rnas_zoo"  # of the operators below, so that they never meet converters that onnx2torch may get
STANDARD = ("", "ai.onnx")
TYPES = onnx.TensorProto
BITS: dict[int, tuple[int, int]] = {
    TYPES.UINT4: (0, 15),
    TYPES.INT4: (-8, 7),
    TYPES.UINT8: (0, 255),
    TYPES.INT8: (-128, 127),
    TYPES.UINT16: (0, 65535),
    TYPES.INT16: (-32768, 32767),
}
FLOATS = (TYPES.FLOAT, TYPES.DOUBLE, TYPES.FLOAT16, TYPES.BFLOAT16)
WIDE_INTEGERS = (TYPES.UINT8, TYPES.INT16, TYPES.UINT16, TYPES.INT32, TYPES.UINT32, TYPES.INT64, TYPES.UINT64)
INTEGER_OPERATORS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantize")
MOVES = {"Concat", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze",
         "Transpose", "Unsqueeze"}  # fmt: skip


class _Round(torch.autograd.Function):
    """Whole numbers of `low` to `high` nearest to x / scale + zero (halves to even)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        found = torch.round(x / scale) + zero
        ctx.save_for_backward((found >= low) & (found <= high), scale)
        return found.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, scale = ctx.saved_tensors
        return torch.where(inside, gradients[0] / scale, 0), None, None, None, None


class Quantize(nn.Module):
    """QuantizeLinear: numbers to whole numbers, kept in floating point.

    Args:
        scale, zero: one number, or one per entry of `axis`.
        low, high: range of the integer type.
    """

    def __init__(self, scale: Tensor, zero: Tensor, axis: int, low: int, high: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.zero: Tensor
        self.axis, self.low, self.high = axis, low, high
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def _along_axis(self, values: Tensor, x: Tensor) -> Tensor:
        if values.numel() == 1:
            return values.reshape(())
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return values.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self._along_axis(self.scale, x), self._along_axis(self.zero, x)
        return _Round.apply(x, scale, zero, self.low, self.high)


class Dequantize(Quantize):
    """DequantizeLinear: whole numbers back to numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - self._along_axis(self.zero, x)) * self._along_axis(self.scale, x)


class Rectify(nn.Module):
    """Numbers of at least zero, as they are; smaller ones become zero. Zero itself has a gradient: black pixels do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, 0, x)


class Resize(nn.Module):
    """Images (N, C, any, any) at one height and width: bilinear, antialiased where they shrink."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True)


def image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The one input of a graph that is no weight with a default (older files list those as well)."""
    weights = {value.name for value in graph.initializer}
    return next(value for value in graph.input if value.name not in weights)


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace, in place, quantized weights and biases by the numbers that they stand for.

    Raises:
        NotImplementedError: see `make_straight_through`.
    """
    graph, known = model.graph, _constants(model.graph)
    kept = []
    for node in graph.node:
        if not (_quantizes(node) and node.input[0] in known):
            kept.append(node)
            continue
        values = numpy_helper.to_array(known[node.input[0]]).astype(np.float32)
        found = _module(node.op_type, _parameters(node, known))(torch.from_numpy(values))
        known[node.output[0]] = numpy_helper.from_array(found.numpy(), node.output[0])
        graph.initializer.append(known[node.output[0]])
    del graph.node[:]
    graph.node.extend(kept)


def rounds_activations(model: onnx.ModelProto) -> bool:
    """Whether a graph quantizes anything but its weights, or computes on whole numbers."""
    known = set(_constants(model.graph))
    for node in model.graph.node:
        rounds = _quantizes(node) and node.op_type == "QuantizeLinear"
        if _quantizes(node) and node.input[0] in known:
            known.update(node.output)
        elif rounds or node.op_type.startswith(INTEGER_OPERATORS):
            return True
    return False


def forget_rounding(model: onnx.ModelProto) -> None:
    """Let, in place, numbers pass where quantizing nodes would round them to whole ones and bring them back.

    Where the range of the whole numbers begins at zero, negative numbers still become zero: quantizers leave out a ReLU
    whose work the range does.

    Raises:
        NotImplementedError: see `make_straight_through`.
    """
    known, passed = _constants(model.graph), set[str]()
    for node in model.graph.node:
        if node.op_type in MOVES and not passed.isdisjoint(node.input):
            passed.update(node.output)
        rounds = _quantizes(node) and node.op_type == "QuantizeLinear"
        if not rounds and not (_quantizes(node) and node.input[0] in passed):
            continue
        parameters = _parameters(node, known)
        rectifies = rounds and all(zero == parameters["low"] for zero in parameters["zero"])
        if rounds:
            passed.update(node.output)
        del node.input[1:], node.attribute[:]
        node.op_type, node.domain = ("Rectify", DOMAIN) if rectifies else ("Identity", "")


def standardize(model: onnx.ModelProto) -> None:
    """Move, in place, onnxruntime's own quantizing nodes to ONNX's domain, for whose operators shapes are inferred.

    Files of operator sets below 21 have them for whole numbers of 16 bits; they compute the same.
    """
    for node in model.graph.node:
        if _quantizes(node):
            node.domain = ""


def make_straight_through(model: onnx.ModelProto) -> None:
    """Replace, in place, quantizing nodes and antialiased resizing by differentiable ones.

    Raises:
        NotImplementedError: quantization in blocks, to another type, or with a scale that is not constant.
    """
    known = _constants(model.graph)
    for node in model.graph.node:
        parameters = _parameters(node, known) if _quantizes(node) else _target_size(node, known)
        if parameters is None:
            continue
        source = node.input[0]
        del node.input[:], node.attribute[:]
        node.input.append(source)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in parameters.items())
        node.domain = DOMAIN
    if any(node.domain == DOMAIN for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        _register()


def _parameters(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> dict[str, Any]:
    """What `_module` needs to know of a QuantizeLinear or DequantizeLinear."""
    text = f"{node.op_type} {node.name}".strip()
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if options.get("block_size"):
        raise NotImplementedError(f"{text} in blocks")
    if any(name and name not in known for name in node.input[1:]):
        raise NotImplementedError(f"{text} with a scale or zero point that is not constant")
    zero, kind = [0.0], int(options.get("output_dtype") or TYPES.UINT8)
    if len(node.input) > 2 and node.input[2]:
        point = known[node.input[2]]
        zero, kind = numpy_helper.to_array(point).astype(np.float32).reshape(-1).tolist(), point.data_type
    if node.op_type == "QuantizeLinear" and kind not in BITS:
        raise NotImplementedError(f"{text} to another type than integers of 4, 8 or 16 bits")
    low, high = BITS.get(kind, (0, 0))
    scale = numpy_helper.to_array(known[node.input[1]]).astype(np.float32).reshape(-1).tolist()
    return {"scale": scale, "zero": zero, "axis": int(options.get("axis", 1)), "low": low, "high": high}


def _target_size(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> dict[str, Any] | None:
    """What `_module` needs to know of a Resize that `Resize` computes as well; None for any other node."""
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    wanted = {"antialias": 1, "exclude_outside": 1, "axes": [2, 3], "mode": b"linear"}
    same = node.op_type == "Resize" and all(options.get(name) == value for name, value in wanted.items())
    half = options.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    if not (same and half and options.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"):
        return None
    if len(node.input) != 4 or node.input[3] not in known:
        return None
    return {"size": numpy_helper.to_array(known[node.input[3]]).tolist()}


def _module(operator: str, parameters: dict[str, Any]) -> nn.Module:
    if operator == "Resize":
        return Resize(tuple(parameters["size"]))
    if operator == "Rectify":
        return Rectify()
    kind = Quantize if operator == "QuantizeLinear" else Dequantize
    scale, zero = torch.tensor(parameters["scale"]), torch.tensor(parameters["zero"])
    return kind(scale, zero, parameters["axis"], parameters["low"], parameters["high"])


def take_floats(model: onnx.ModelProto) -> None:
    """Let, in place, a graph of uint8 pixels take the same whole numbers as float32, so that it has a gradient.

    Raises:
        NotImplementedError: the graph computes on integers before it turns them into floating-point numbers.
    """
    value = image_input(model.graph)
    value.type.tensor_type.elem_type = TYPES.FLOAT
    whole = {value.name}
    for node in model.graph.node:
        if whole.isdisjoint(node.input) or _quantizes(node):
            continue
        target = next((a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"), None)
        if target in FLOATS:
            continue
        if target in WIDE_INTEGERS:
            node.op_type = "Identity"
            del node.attribute[:]
        elif node.op_type not in MOVES:
            raise NotImplementedError(f"{node.op_type} {node.name} computes on integers")
        whole.update(node.output)
    del model.graph.value_info[:]


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _quantizes(node: onnx.NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in (*STANDARD, "com.microsoft")


def _register() -> None:
    """Tell onnx2torch about these operators, once."""
    from onnx2torch.node_converters import registry
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    def convert(node: Any, graph: Any) -> Any:
        module = _module(node.operation_type, node.attributes)
        return OperationConverterResult(torch_module=module, onnx_mapping=onnx_mapping_from_node(node))

    for operator in ("QuantizeLinear", "DequantizeLinear", "Rectify", "Resize"):
        try:
            registry.get_converter(operator, 1, DOMAIN)
        except NotImplementedError:
            registry.add_converter(operator, 1, DOMAIN)(convert)
