"""A differentiable torch twin of an ONNX graph, so that white-box attacks reach models that are only ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor, nn

from ..errors import OnnxFileError

TWIN_OPSET = 17


class Twin(nn.Module):
    """The converted graph: images (N, 3, H, W) to logits."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # onnx2torch indexes slices with a list; torch reads it as the tuple it means, and says so each time.
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            return self.graph(x)


def twin(path: str | Path) -> nn.Module:
    """The graph of an ONNX file as a torch module in evaluation mode, weights frozen.

    Raises:
        OnnxFileError: the file is no ONNX model, or uses an operator without a counterpart.
    """
    import onnx
    from onnx import version_converter

    try:
        import onnx2torch
    except ImportError as error:
        raise OnnxFileError(f"attacking {path} needs onnx2torch ({error}): pip install onnx2torch") from error
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise OnnxFileError(f"{path} is not a valid ONNX model: {str(error).splitlines()[0][:120]}") from error
    try:
        # onnx2torch reads ReduceMean's axes as an attribute (opset 17) and no `allowzero`: the graph stays the same.
        if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) > TWIN_OPSET:
            model = version_converter.convert_version(model, TWIN_OPSET)
        for node in model.graph.node:
            for index in reversed(range(len(node.attribute))):
                if node.attribute[index].name == "allowzero":
                    del node.attribute[index]
        module = onnx2torch.convert(model)
    except Exception as error:
        raise OnnxFileError(f"{path}: no differentiable twin can be built ({type(error).__name__}: {error})") from error
    return Twin(module).eval().float().requires_grad_(False)
