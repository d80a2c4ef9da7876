"""A differentiable torch twin of an ONNX graph, so that white-box attacks reach models that are only ONNX files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..errors import OnnxFileError

TWIN_OPSET = 17


def twin(path: str | Path) -> nn.Module:
    """The graph of an ONNX file as a torch module in evaluation mode, weights frozen.

    Raises:
        OnnxFileError: the file is no ONNX model, or uses an operator without a counterpart.
    """
    import onnx
    import onnx2torch
    from onnx import version_converter

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise OnnxFileError(f"{path} is not a valid ONNX model: {str(error).splitlines()[0][:120]}") from error
    try:
        # onnx2torch reads ReduceMean's axes as an attribute (opset 17) and no `allowzero`; both only rephrase the graph.
        if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) > TWIN_OPSET:
            model = version_converter.convert_version(model, TWIN_OPSET)
        for node in model.graph.node:
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        module = onnx2torch.convert(model)
    except Exception as error:
        raise OnnxFileError(f"{path}: no differentiable twin can be built ({type(error).__name__}: {error})") from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.to(torch.float32)
