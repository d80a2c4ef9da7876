"""Export to ONNX: one file, symbolic batch, the same model, or no file at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import __version__, data
from ..errors import CheckFailedError, OutputExistsError, UsageError
from ..files import atomic_path, sha256_file
from ..genotype import Genotype
from ..models.pixels import declared_image_size
from ..models.weights import tensor_digest
from ..reference import Reference, load
from .graph import OPSET, to_onnx
from .runtime import Session

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4
AGREEMENT_IMAGES = 128


def export(
    model: Reference,
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    labels: list[str] | None = None,
    images: np.ndarray | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model as one .onnx file that takes float32 `image` (batch, 3, H, W) in [0, 1] and returns `logits`.

    The file appears only after onnx's checker and parity with torch on real images at batches 1, 2 and 7.

    Args:
        model: a torch module or any reference of `reference.load`; a name without weights is exported untrained.
        labels: class names for the metadata.
        images: uint8 (N, H, W, 3) to compare on; scaled test digits if None.
        metadata: further texts for the metadata.

    Returns:
        Report: file, sha256, bytes, opset, parity (largest logit difference per batch size) and agreement.

    Raises:
        CheckFailedError: the ONNX model is not the same function; nothing is written.
        OutputExistsError: `out` exists and `overwrite` is false.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"an ONNX model is written to an .onnx file, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out} exists already and was left as it is. Choose another -o, or remove it first.")
    network = load(model, checkpoint=checkpoint, untrained=True).cpu().to(memory_format=torch.contiguous_format)
    height, width = declared_image_size(network) or (32, 32)
    pixels = _comparison_images(images, height, width)
    proto = to_onnx(network, pixels[:2])
    _describe(proto, network, (height, width), labels, metadata or {})
    payload = proto.SerializeToString(deterministic=True)
    report = {"opset": OPSET, **compare(network, payload, pixels), "tolerance": TOLERANCE}
    with atomic_path(out) as temporary:
        temporary.write_bytes(payload)
    return {"file": out.name, "sha256": sha256_file(out), "bytes": len(payload), **report}


def compare(network: nn.Module, payload: bytes, pixels: torch.Tensor) -> dict[str, Any]:
    """Parity of an ONNX model's bytes with a torch network on images (N, 3, H, W).

    Raises:
        CheckFailedError: logits differ by more than the tolerance, or a predicted class differs.
    """
    session = Session(payload, provider="cpu")
    parity = {}
    for batch in BATCHES:
        with torch.no_grad():
            wanted = network(pixels[:batch]).numpy()
        found = session.logits(pixels[:batch].numpy())
        error = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
        parity[str(batch)] = error
        if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise CheckFailedError(
                f"the ONNX model is not the torch model: at batch {batch} logits differ by {error:.3g} "
                f"(allowed {TOLERANCE:g}); nothing was written"
            )
    with torch.no_grad():
        classes = torch.cat([network(part) for part in pixels.split(64)]).argmax(1).numpy()
    differ = int((session.logits(pixels.numpy()).argmax(1) != classes).sum())
    if differ:
        raise CheckFailedError(
            f"the ONNX model predicts another class on {differ} of {len(pixels)} images; nothing was written"
        )
    return {"parity": parity, "same_class": len(pixels)}


def _comparison_images(images: np.ndarray | None, height: int, width: int) -> torch.Tensor:
    chosen = data.load("digits").test.images if images is None else images
    pixels = data.to_pixels(chosen[:AGREEMENT_IMAGES])
    if tuple(pixels.shape[2:]) != (height, width):
        pixels = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    if len(pixels) < max(BATCHES):
        raise UsageError(f"parity needs at least {max(BATCHES)} images, got {len(pixels)}")
    return pixels


def _describe(
    proto: Any, network: nn.Module, size: tuple[int, int], labels: list[str] | None, extra: Mapping[str, str]
) -> None:
    """Write into the metadata what a stranger needs to use and rebuild the model."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    arguments = dict(getattr(network, "_model_args", {}))
    name = cfg.get("architecture", type(network).__name__)
    found = getattr(network, "genotype", None)
    if isinstance(found, Genotype):
        arguments["genotype"] = found.to_json()
        extra = {"genotype": json.dumps(found.to_json()), "genotype_sha256": found.hash, **extra}
    texts = {
        "architecture": name,
        "model_args": json.dumps(arguments, default=str),
        "weights_sha256": tensor_digest(network.state_dict()),
        "input": "float32 RGB in [0, 1], NCHW; normalisation, if any, is inside the graph",
        "input_size": json.dumps([3, *size]),
        "labels": json.dumps(labels) if labels else None,
        "versions": json.dumps({"rnas_zoo": __version__, "torch": torch.__version__.split("+")[0]}),
        **extra,
    }
    for key, text in texts.items():
        if text is not None:
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, text
