"""Torch networks as ONNX graphs: for files, and for asking a network faster on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from .runtime import Session

OPSET = 20
AGREEMENT = 1e-4


def to_onnx(network: nn.Module, example: Tensor) -> Any:
    """A network as an onnx.ModelProto with a symbolic batch, free of local paths and stack traces.

    Args:
        example: at least two images (N, 3, H, W).
    """
    import onnx

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (example.contiguous(),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    finally:
        logging.disable(before)
    proto = program.model_proto
    proto.producer_name, proto.producer_version, proto.doc_string = "rnas-zoo", __version__, ""
    del proto.metadata_props[:]
    for graph in (proto.graph, *proto.functions):
        _scrub(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _scrub(graph: Any) -> None:
    """Remove stack traces, class names and documentation from a graph or function, subgraphs included."""
    values = (getattr(graph, kind, ()) for kind in ("input", "output", "value_info", "initializer"))
    described = [value for group in values for value in group if not isinstance(value, str)]
    for item in (graph, *described, *graph.node):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _scrub(inner)


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
