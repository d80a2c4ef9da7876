"""Export to ONNX: one file, symbolic batch, the same model, or no file at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import data
from ..errors import CheckFailedError, OutputExistsError, RnasZooError, UsageError
from ..files import atomic_path, sha256_file
from ..models.pixels import declared_image_size
from ..reference import Reference, load, local_folder
from .form import Form, dress, halve
from .graph import EXPORTERS, to_onnx
from .metadata import describe, known_facts
from .runtime import Session

BATCHES = (1, 2, 7)
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}  # of logits, in units of the largest if that is above one
AGREEMENT_IMAGES = 512
RESIZED = 3  # images of another size that a graph which resizes is compared on


def export(
    model: Reference,
    out: str | Path,
    *,
    form: Form | None = None,
    checkpoint: str | Path | None = None,
    labels: list[str] | None = None,
    images: np.ndarray | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model as one .onnx file, by default float32 `image` (batch, 3, H, W) in [0, 1] to `logits`.

    The file appears only after onnx's checker, parity with torch on real images at batches 1, 2 and 7, and the same
    class on 512 of them. Where torch's exporter fails or writes another function, its older one is tried.

    Args:
        model: a torch module or any reference of `reference.load`; a name without weights is exported untrained.
        out: the .onnx file.
        form: what the file takes and answers.
        checkpoint: weights for a timm name, a .safetensors file.
        labels: class names for the metadata; those of a release folder are known.
        images: uint8 (N, H, W, 3) to compare on, completed by scaled handwritten digits.
        metadata: further texts for the metadata.
        overwrite: `out` may be there already.

    Returns:
        Report: file, sha256, bytes, form, exporter, parity (largest difference of outputs per batch size), tolerance,
        images compared and how many of them have the same class.

    Raises:
        CheckFailedError: the ONNX model is not the same function; nothing is written.
        OutputExistsError: `out` exists and `overwrite` is false.
    """
    out, form, model = checked_output(out, overwrite), form or Form(), local_folder(model) or model
    network, size = network_and_size(model, checkpoint, images)
    pixels = comparison_images(images, size)
    facts, failures = known_facts(model, checkpoint, labels, metadata), []
    for exporter in EXPORTERS:
        try:
            proto = to_onnx(network, data.to_pixels(pixels[:2]), form.opset, exporter)
            if form.precision == "float16":
                proto = halve(proto)
            dress(proto, form, size)
            describe(proto, network, size, form, facts)
            payload = proto.SerializeToString(deterministic=True)
            report = compare(network, payload, pixels, form)
            break
        except (torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever an exporter, the checker or the session may raise
            text = str(error) if isinstance(error, RnasZooError) else f"{type(error).__name__}: {error}"
            failures.append(f"{exporter}: {' '.join(text.split())[:300]}")
    else:
        raise CheckFailedError(f"no exporter wrote the same model; nothing was written. {'. '.join(failures)}")
    write_model(payload, out)
    described = {"input": form.input, "output": form.output, "precision": form.precision, "resize": form.resize}
    about = {"file": out.name, "sha256": sha256_file(out), "bytes": len(payload), "opset": form.opset, **described}
    return {**about, "exporter": exporter, **report, **({"failures": failures} if failures else {})}


def network_and_size(
    model: Reference, checkpoint: str | Path | None, images: np.ndarray | None
) -> tuple[nn.Module, tuple[int, int]]:
    """The network of a reference on the CPU, and the height and width of its images.

    Args:
        images: (N, H, W, 3); their size counts where the network declares none, else 32x32 does.

    Raises:
        UsageError: the reference is an ONNX file already.
    """
    if not isinstance(model, nn.Module) and str(model).endswith(".onnx"):
        raise UsageError(f"{model} is an ONNX file already: export the model that it was made of")
    network = load(model, checkpoint=checkpoint, untrained=True).cpu().to(memory_format=torch.contiguous_format)
    given = (32, 32) if images is None else (int(images.shape[1]), int(images.shape[2]))
    return network, declared_image_size(network) or given


def checked_output(out: str | Path, overwrite: bool) -> Path:
    """The path of an ONNX file to be written.

    Raises:
        UsageError: no .onnx file. OutputExistsError: see `export`.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"an ONNX model is written to an .onnx file, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out} exists already and was left as it is. Choose another -o, or remove it first.")
    return out


def write_model(payload: bytes, out: Path) -> None:
    """The bytes of an ONNX model as a whole file, or none."""
    with atomic_path(out) as temporary:
        temporary.write_bytes(payload)


def compare(network: nn.Module, payload: bytes, pixels: np.ndarray, form: Form) -> dict[str, Any]:
    """Parity of an ONNX model's bytes with a torch network on images uint8 (N, H, W, 3).

    Raises:
        CheckFailedError: outputs differ by more than the tolerance. So a class can differ only where torch's two
            largest outputs are closer than twice that.
    """
    session = Session(payload, "cpu", torch.get_num_threads())
    with torch.no_grad():
        wanted = torch.cat([network(part) for part in data.to_pixels(pixels).split(64)])
    if form.output == "probabilities":
        wanted = wanted.softmax(1)
    expected = wanted.numpy()
    allowed = TOLERANCE[form.precision] * max(1.0, float(np.abs(expected).max()))
    parity = {}
    for batch in (*BATCHES, len(pixels)):
        found = session.logits(form.images(pixels[:batch]), batch_size=max(batch, 1) if batch in BATCHES else 64)
        parity[str(batch)] = _largest_difference(found, expected[:batch], allowed, f"at batch {batch}")
    if form.resize:
        parity["resized"] = _resized_parity(network, session, pixels, form, allowed)
    whole = parity.pop(str(len(pixels)))
    return {
        "parity": {**parity, "all": whole},
        "tolerance": TOLERANCE[form.precision],
        "images": len(pixels),
        "same_class": int((found.argmax(1) == expected.argmax(1)).sum()),
    }


def _largest_difference(found: np.ndarray, wanted: np.ndarray, allowed: float, where: str) -> float:
    if found.shape != wanted.shape:
        raise CheckFailedError(f"the ONNX model is not the torch model: {where} it gives {found.shape} outputs")
    difference = np.abs(found - wanted)
    error = float(difference.max())
    if not error <= allowed:
        image, output = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), difference.shape)
        raise CheckFailedError(
            f"the ONNX model is not the torch model: {where} outputs differ by {error:.3g} (allowed {allowed:.3g}): "
            f"image {image}, class {output}: torch {wanted[image, output]:.6g}, ONNX {found[image, output]:.6g}"
        )
    return error


def _resized_parity(network: nn.Module, session: Session, pixels: np.ndarray, form: Form, allowed: float) -> float:
    """Largest difference on images of half and of twice the size, which torch scales itself."""
    height, width = pixels.shape[1:3]
    worst = 0.0
    for factor in (0.5, 2.0):
        size = round(height * factor), round(width * factor) + 1
        scaled = nn.functional.interpolate(data.to_pixels(pixels[:RESIZED]), size, mode="bilinear", antialias=True)
        given = (scaled * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        with torch.no_grad():
            back = nn.functional.interpolate(data.to_pixels(given), (height, width), mode="bilinear", antialias=True)
            wanted = network(back)
        wanted = wanted.softmax(1) if form.output == "probabilities" else wanted
        where = f"on images of {size[0]}x{size[1]}"
        worst = max(worst, _largest_difference(session.logits(given), wanted.numpy(), allowed, where))
    return worst


def comparison_images(images: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Images uint8 (512, H, W, 3) of a height and width: the first of those given, then handwritten digits.

    Raises:
        UsageError: images that are not uint8 (N, H, W, 3).
    """
    if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3):
        raise UsageError(f"images to compare on are uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
    parts = [_scaled(images[:AGREEMENT_IMAGES], size)] if images is not None and len(images) else []
    missing = AGREEMENT_IMAGES - sum(map(len, parts))
    if missing:
        digits = data.load("digits")
        parts.append(_scaled(np.concatenate([digits.test.images, digits.train.images])[:missing], size))
    return np.concatenate(parts)


def _scaled(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if images.shape[1:3] == size:
        return images
    pixels = nn.functional.interpolate(data.to_pixels(images), size, mode="bilinear", antialias=True)
    return (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
