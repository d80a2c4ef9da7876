"""ONNX graphs whose weights are kept as int8 and whose arithmetic stays in floating point.

Each weight is `Cast(int8) * scale`: constants that onnxruntime (and any runtime that folds constants) multiplies once,
when it loads the file, so that the file has a quarter of the weights' bytes and runs as fast as the float one.
`DequantizeLinear` says the same, but onnxruntime leaves it in place for integer kernels that a float activation never
reaches, and multiplies at every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

LARGEST = 127  # symmetric: -128 is not used
WEIGHTED = ("Conv", "Gemm", "MatMul")


def round_weights(model: onnx.ModelProto, per_channel: bool) -> None:
    """Keep, in place, the weights of convolutions and matrix products as int8 with float32 scales.

    Args:
        per_channel: one scale per output channel of a weight instead of one per weight.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    axes: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in WEIGHTED:
            axes.setdefault(node.input[1], _output_axis(node))
    found = []
    for weight in [value for value in graph.initializer if value.name in axes and len(value.dims) >= 2]:
        values = numpy_helper.to_array(weight).astype(np.float32)
        axis = axes[weight.name] % values.ndim
        rest = tuple(i for i in range(values.ndim) if i != axis) if per_channel else None
        scale = np.abs(values).max(axis=rest, keepdims=True) / np.float32(LARGEST)
        scale[scale == 0] = 1
        whole = np.clip(np.rint(values / scale), -LARGEST, LARGEST).astype(np.int8)
        name = weight.name
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(whole, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        found.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT))
        found.append(helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
    nodes = [*found, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _output_axis(node: onnx.NodeProto) -> int:
    """Where the output channels of a node's weight are; the last axis is -1."""
    transposed = any(option.name == "transB" and option.i for option in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else -1


def keeps_int8_weights(model: onnx.ModelProto) -> bool:
    """Whether a graph holds weights (of two or more dimensions) as 8-bit integers."""
    return any(len(value.dims) >= 2 and _eight_bits(value) for value in model.graph.initializer)


def fold(model: onnx.ModelProto) -> None:
    """Replace, in place, `Cast` and `Mul` of constants by the float32 constants that they give."""
    from onnx import numpy_helper

    graph = model.graph
    known = {value.name: value for value in graph.initializer}
    kept = []
    for node in graph.node:
        folded = _value(node, known)
        if folded is None:
            kept.append(node)
            continue
        known[node.output[0]] = numpy_helper.from_array(folded, node.output[0])
        graph.initializer.append(known[node.output[0]])
    del graph.node[:]
    graph.node.extend(kept)


def _value(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> np.ndarray | None:
    from onnx import TensorProto, numpy_helper

    if node.op_type not in ("Cast", "Mul") or node.domain not in ("", "ai.onnx"):
        return None
    if any(name not in known for name in node.input):
        return None
    values = [numpy_helper.to_array(known[name]) for name in node.input]
    if node.op_type == "Cast":
        wanted = any(option.name == "to" and option.i == TensorProto.FLOAT for option in node.attribute)
        return values[0].astype(np.float32) if wanted and _eight_bits(known[node.input[0]]) else None
    return np.asarray(values[0] * values[1]) if all(value.dtype == np.float32 for value in values) else None


def _eight_bits(value: onnx.TensorProto) -> bool:
    from onnx import TensorProto

    return value.data_type in (TensorProto.INT8, TensorProto.UINT8)
