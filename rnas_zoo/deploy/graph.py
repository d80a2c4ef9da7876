"""Torch networks as ONNX graphs: for files, and for asking a network faster on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..errors import OnnxFileError
from .form import OPSET
from .runtime import Session
from .surgery import forget_origins, shorten_names

EXPORTERS = ("dynamo", "torchscript")
INPUT, OUTPUT = "image", "logits"
AGREEMENT = 1e-4


def to_onnx(network: nn.Module, example: Tensor, opset: int = OPSET, exporter: str = EXPORTERS[0]) -> Any:
    """A network as an onnx.ModelProto with a symbolic batch, free of local paths and stack traces.

    Args:
        example: at least two images (N, 3, H, W).
        opset: version of the ONNX operators.
        exporter: `dynamo` (torch.export) or `torchscript` (tracing).

    Raises:
        OnnxFileError: the exporter cannot write this opset. Besides, whatever the exporters raise.
    """
    import onnx

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            proto = (_traced if exporter == "torchscript" else _exported)(network, example.contiguous(), opset)
    finally:
        logging.disable(before)
    found = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if found != opset:
        raise OnnxFileError(f"the {exporter} exporter wrote opset {found} instead of {opset}")
    forget_origins(proto)
    proto.producer_name, proto.producer_version = "rnas-zoo", __version__
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _exported(network: nn.Module, example: Tensor, opset: int) -> Any:
    program: Any = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    return program.model_proto


def _traced(network: nn.Module, example: Tensor, opset: int) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(
            network,
            (example,),
            f"{folder}/traced.onnx",
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
        proto = onnx.load(f"{folder}/traced.onnx")
    shorten_names(proto)
    return proto


def scorer(network: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor] | None:
    """onnxruntime's answer to the same question, on as many threads as torch; None where it would be another one.

    Args:
        example: at least two images (N, 3, H, W) on the CPU.
    """
    try:
        contiguous = example.contiguous()
        with torch.no_grad():
            wanted = network(contiguous).numpy()
        session = Session(to_onnx(network, contiguous).SerializeToString(), "cpu", torch.get_num_threads())
        found = session.logits(contiguous.numpy())
    except Exception:  # not every network can be exported; it is asked as it is
        return None
    if found.shape != wanted.shape or not np.abs(found - wanted).max() <= AGREEMENT * max(np.abs(wanted).max(), 1e-30):
        return None
    return lambda x: torch.from_numpy(session.logits(x.detach().numpy(), batch_size=max(1, len(x))))
