"""A differentiable torch twin of an ONNX graph, so that white-box attacks reach models that are only ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import OnnxFileError
from .surgery import sort_nodes
from .weight_only import fold, keeps_int8_weights

if TYPE_CHECKING:
    import onnx

TWIN_OPSET = 17


class Twin(nn.Module):
    """The converted graph: its input, as float32 even where the graph takes uint8, to logits (N, classes).

    Args:
        graph: the converted graph.
        shape: the shape it declares, None for a size it leaves open. A fixed batch size is filled up unseen.
        grid: the graph takes uint8; it gets the same whole numbers as float32.
    """

    def __init__(self, graph: nn.Module, shape: tuple[int | None, ...], grid: bool) -> None:
        super().__init__()
        self.graph, self.shape, self.grid = graph, shape, grid

    def forward(self, x: Tensor) -> Tensor:
        size = self.shape[0] if self.shape else None
        if size is None or len(x) == size:
            return self._logits(x)
        filled = torch.cat([x, x[-1:].expand(-len(x) % size, *x.shape[1:])])
        return torch.cat([self._logits(part) for part in filled.split(size)])[: len(x)]

    def _logits(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # onnx2torch indexes slices with a list; torch reads it as the tuple it means, and says so each time.
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            found = self.graph(x)
        return found[0] if isinstance(found, list | tuple) else found


def twin(path: str | Path, rounding: bool = True) -> Twin:
    """The graph of an ONNX file as a torch module in evaluation mode, weights frozen.

    Rounding in it (8-bit pixels, QuantizeLinear) has a straight-through gradient.

    Args:
        rounding: without it, activations that the file rounds to whole numbers pass as they are.

    Raises:
        OnnxFileError: the file is no ONNX model, or uses an operator without a counterpart.
    """
    import onnx

    try:
        import onnx2torch
    except ImportError as error:
        raise OnnxFileError(f"attacking {path} needs onnx2torch ({error}): pip install onnx2torch") from error
    model = _checked(path)
    try:
        from .straight_through import image_input

        tensor = image_input(model.graph).type.tensor_type
        grid = tensor.elem_type == onnx.TensorProto.UINT8
        shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
        module = onnx2torch.convert(_convertible(model, grid, rounding))
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise OnnxFileError(f"{path}: no differentiable twin can be built ({cause})") from error
    return Twin(module, shape, grid).eval().float().requires_grad_(False)


def rounds_activations(path: str | Path) -> bool:
    """Whether an ONNX file computes on activations that it rounds to whole numbers.

    Raises:
        OnnxFileError: the file is no ONNX model.
    """
    from .straight_through import rounds_activations

    return rounds_activations(_checked(path))


def keeps_integers(path: str | Path) -> bool:
    """Whether an ONNX file keeps its weights as 8-bit integers, or computes on such.

    Raises:
        OnnxFileError: the file is no ONNX model.
    """
    from .straight_through import rounds_activations

    model = _checked(path)
    return keeps_int8_weights(model) or rounds_activations(model)


def _checked(path: str | Path) -> onnx.ModelProto:
    import onnx

    try:
        model = onnx.load(str(path))
        sort_nodes(model.graph)
        onnx.checker.check_model(model)
    except Exception as error:
        raise OnnxFileError(f"{path} is not a valid ONNX model: {str(error).splitlines()[0][:120]}") from error
    return model


def _convertible(model: onnx.ModelProto, grid: bool, rounding: bool) -> onnx.ModelProto:
    """The same function in operators that onnx2torch knows."""
    from onnx import shape_inference, version_converter

    from . import straight_through

    if grid:
        straight_through.take_floats(model)
    fold(model)
    straight_through.fold_constants(model)
    straight_through.standardize(model)
    model = shape_inference.infer_shapes(model)  # converters ask for ranks; nobody infers any behind operators of ours
    if not rounding:
        straight_through.forget_rounding(model)
    straight_through.make_straight_through(model)
    # onnx2torch reads ReduceMean's axes as an attribute (opset 17) and no `allowzero`: the graph stays the same.
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) > TWIN_OPSET:
        model = version_converter.convert_version(model, TWIN_OPSET)
    for node in model.graph.node:
        for index in reversed(range(len(node.attribute))):
            attribute = node.attribute[index]
            if attribute.name == "allowzero":
                del node.attribute[index]
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in straight_through.FLOATS:
                attribute.i = straight_through.TYPES.FLOAT  # twins compute in float32 throughout
    return model
