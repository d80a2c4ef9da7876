"""The form of an exported file: which images it takes, what it answers, and how its numbers are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .surgery import sort_nodes, subgraphs

if TYPE_CHECKING:
    import onnx

INPUTS = ("float32-nchw", "uint8-nhwc")
OUTPUTS = ("logits", "probabilities")
PRECISIONS = ("float32", "float16")
OPSETS = range(17, 24)
OPSET = 20
RESIZE_OPSET = 18  # the first whose Resize knows antialiasing and axes


@dataclass(frozen=True)
class Form:
    """How an exported file takes images and answers.

    Attributes:
        input: `float32-nchw`: (batch, 3, H, W) in [0, 1]; `uint8-nhwc`: pixels (batch, H, W, 3) from 0 to 255.
        output: `logits`, or `probabilities` (their softmax), (batch, classes).
        precision: of weights and activations; input and output stay as they are.
        resize: the file takes uint8 images of any size and scales both sides to its own (bilinear, antialiased); the
            aspect ratio is not kept.
        opset: version of the ONNX operators.

    Raises:
        UsageError: an unknown choice, or two that exclude each other.
    """

    input: str = "float32-nchw"
    output: str = "logits"
    precision: str = "float32"
    resize: bool = False
    opset: int = OPSET

    def __post_init__(self) -> None:
        for name, known in (("input", INPUTS), ("output", OUTPUTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} of an ONNX file is {' or '.join(known)}, got {getattr(self, name)!r}")
        if self.opset not in OPSETS:
            raise UsageError(f"opset is {OPSETS[0]} to {OPSETS[-1]}, got {self.opset!r}")
        if self.resize and self.input != "uint8-nhwc":
            raise UsageError("a file that resizes takes uint8 pixels: choose the input uint8-nhwc as well")
        if self.resize and self.opset < RESIZE_OPSET:
            raise UsageError(f"resizing in the graph needs opset {RESIZE_OPSET} or newer, got {self.opset}")

    @property
    def grid(self) -> bool:
        """Whether the file takes 8-bit pixels."""
        return self.input == "uint8-nhwc"

    def described(self, size: tuple[int, int]) -> str:
        """What the file takes, in one sentence for its metadata."""
        inside = "normalisation, if any, is inside the graph"
        if not self.grid:
            return f"float32 RGB in [0, 1], NCHW; {inside}"
        resized = f" of any size, scaled to {size[0]}x{size[1]}" if self.resize else ""
        return f"uint8 RGB from 0 to 255, NHWC{resized}; {inside}"

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Images uint8 (N, H, W, 3) as the file takes them."""
        if self.grid:
            return pixels
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def dress(model: onnx.ModelProto, form: Form, size: tuple[int, int]) -> None:
    """Give, in place, a graph of float32 images (batch, 3, H, W) to logits the input and output of a form.

    Args:
        size: height and width that the graph takes.
    """
    if form.grid:
        _take_pixels(model.graph, size, form.resize)
    if form.output == "probabilities":
        _give_probabilities(model.graph)


def _take_pixels(graph: onnx.GraphProto, size: tuple[int, int], resize: bool) -> None:
    from onnx import TensorProto, helper, numpy_helper

    image, inner = graph.input[0], "image_as_float"
    batch = image.type.tensor_type.shape.dim[0]
    sides: tuple[Any, ...] = ("height", "width") if resize else size
    shape = [batch.dim_param or batch.dim_value, *sides, 3]
    for part in subgraphs(graph):
        for node in part.node:
            node.input[:] = [inner if name == image.name else name for name in node.input]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
    ]
    constants = {"image_white": np.array(255, np.float32)}
    if resize:
        constants["image_size"] = np.array(size, np.int64)
        scaling = {"axes": [2, 3], "mode": "linear", "antialias": 1, "exclude_outside": 1}
        steps.append(("Resize", ["", "", "image_size"], scaling))
    steps.append(("Div", ["image_white"], {}))
    made, last = [], image.name
    for number, (operator, others, options) in enumerate(steps):
        after = inner if number == len(steps) - 1 else f"image_{operator.lower()}"
        made.append(helper.make_node(operator, [last, *others], [after], f"image_{operator.lower()}", **options))
        last = after
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    image.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.UINT8, shape))


def _give_probabilities(graph: onnx.GraphProto) -> None:
    from onnx import TensorProto, helper

    logits = graph.output[0]
    graph.node.append(helper.make_node("Softmax", [logits.name], ["probabilities"], "probabilities", axis=1))
    shape = logits.type.tensor_type.shape.dim
    described = [dim.dim_param or dim.dim_value for dim in shape]
    logits.CopyFrom(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, described))


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights and activations in float16; what it takes and gives stays float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    found: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    del found.graph.value_info[:]
    sort_nodes(found.graph)
    return found
