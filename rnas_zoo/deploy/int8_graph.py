"""ONNX graphs with int8 weights: the settings there are, and the graph that each makes of a float32 file."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .form import Form
from .surgery import forget_origins, shorten_names
from .weight_only import round_weights

if TYPE_CHECKING:
    import onnx

CALIBRATION_BATCH = 64
CALIBRATIONS = {"minmax": "MinMax", "percentile": "Percentile"}
IN_FLOAT = ("nothing", "depthwise", "hardswish", "activations")


@dataclass(frozen=True)
class Setting:
    """How a graph is quantized: weights to int8, activations to uint8.

    Attributes:
        per_channel: one scale per output channel of a weight instead of one per weight.
        calibration: range of activations, `minmax` or `percentile` (99.999 %).
        in_float: what is left as it is: `nothing`, `depthwise` (grouped convolutions), `hardswish` (what
            convolutions give: HardSwish, which onnxruntime computes in float anyway, then takes it unrounded), or
            `activations` (all of them: see `weight_only`; nothing is calibrated).

    Raises:
        UsageError: an unknown choice.
    """

    per_channel: bool = False
    calibration: str = "minmax"
    in_float: str = "nothing"

    def __post_init__(self) -> None:
        for name, known in (("calibration", CALIBRATIONS), ("in_float", IN_FLOAT)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} of an int8 file is {' or '.join(known)}, got {getattr(self, name)!r}")


# Without `hardswish`: a convolution of integers to floats has no kernel in onnxruntime, which then computes in float.
SETTINGS = (
    *itertools.starmap(Setting, itertools.product((False, True), CALIBRATIONS, ("nothing", "depthwise"))),
    Setting(False, in_float="activations"),
    Setting(True, in_float="activations"),
)


def quantized(source: Path, calibration: np.ndarray, setting: Setting) -> onnx.ModelProto:
    """The graph of a float32 file with int8 weights, and uint8 activations unless the setting leaves them in float.

    Args:
        calibration: images uint8 (N, H, W, 3).
    """
    import onnx
    from onnxruntime import quantization

    model = onnx.load(str(source))
    if setting.in_float == "activations":
        round_weights(model, setting.per_channel)
        shorten_names(model)
        return model
    shorten_names(model)
    left = [node.name for node in model.graph.node if setting.in_float == "depthwise" and _grouped(node)]
    unrounded = {"OpTypesToExcludeOutputQuantization": ["Conv"]} if setting.in_float == "hardswish" else {}
    with tempfile.TemporaryDirectory() as folder, _silence():
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, str(given))
        quantization.quantize_static(
            str(given),
            str(made),
            _Reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=setting.per_channel,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=getattr(quantization.CalibrationMethod, CALIBRATIONS[setting.calibration]),
            nodes_to_exclude=left,
            extra_options=unrounded,
        )
        found = onnx.load(str(made))
    forget_origins(found)
    shorten_names(found)
    found.producer_name, found.producer_version = model.producer_name, model.producer_version
    return found


def _grouped(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and any(option.name == "group" and option.i > 1 for option in node.attribute)


class _Reader:
    """Calibration images as onnxruntime asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches = iter([Form().images(images[i : i + CALIBRATION_BATCH]) for i in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """onnxruntime's calibration prints and logs."""
    before, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        logging.root.handlers[:] = handlers  # logging.warning() gives a program that has none one
