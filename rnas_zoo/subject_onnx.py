"""ONNX files as subjects: judged by onnxruntime, attacked through their twin where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .deploy.runtime import Session
from .deploy.session_errors import translated
from .deploy.twin import keeps_integers, rounds_activations, twin
from .errors import OnnxFileError, UsageError
from .files import sha256_file
from .models.pixels import Preprocessed
from .preprocessing import Preprocessing
from .subject import Subject, count_classes

Shape = tuple[int | None, ...]
LARGEST_SIDE, LARGEST_IMAGE = 1 << 14, 1 << 24  # pixels


def onnx_subject(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    provider: str = "cpu",
    image_size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """An ONNX file as a subject: judged by onnxruntime on torch's number of threads, attacked through its twin.

    A file that no differentiable twin can be built of has no network, but `score_only`, the reason.

    Args:
        image_size: as in `torch_subject`, for files that take any size.
        preprocessing: what the graph expects of its input. A graph that takes uint8 pixels needs none: its layout is
            read from the shape it declares where that is unambiguous (3 channels in second or in last place).

    Raises:
        OnnxFileError: no valid model of images. ProviderError: the provider cannot be used. UsageError: preprocessing
            that the graph cannot have, or no logits.
    """
    with translated():
        session = Session(path, provider, threads=torch.get_num_threads())
    grid = session.input_type is np.uint8
    how = graph_preprocessing(path, session.input_shape, grid, preprocessing)
    before = Preprocessed(nn.Identity(), how, grid)  # on the CPU, where the session takes its arrays from

    def judge(x: Tensor) -> Tensor:
        pixels = before(x.detach().cpu()).numpy()
        with translated():
            found = session.logits(pixels.astype(np.uint8) if grid else pixels, batch_size=max(1, len(x)))
        return torch.from_numpy(found).to(x.device)

    size = None if how.input_size else _spatial(session.input_shape, how)
    probe = size or image_size or how.input_size or (32, 32)
    classes = count_classes(judge, probe, device)
    kind, expected = onnx_kind(path), ((1, 3, *probe), classes)
    network, reason = _network_or_reason(path, how, grid, device, *expected)
    rounds, unrounded = kind == "int8" and rounds_activations(path), None
    if rounds and network is not None:
        unrounded, _ = _network_or_reason(path, how, grid, device, *expected, rounding=False)
    return Subject(
        name=Path(path).name,
        kind=kind,
        file=Path(path).name,
        sha256=sha256_file(path),
        network=network,
        judge=judge,
        image_size=size,
        num_classes=classes,
        preprocessing=None if how.changes_nothing else how.to_json(),
        grid=grid,
        score_only=reason,
        rounds=rounds,
        unrounded=unrounded,
    )


def onnx_kind(path: str | Path) -> str:
    """`int8` for an ONNX file that keeps weights as 8-bit integers or computes on such, `onnx` for any other."""
    try:
        return "int8" if keeps_integers(path) else "onnx"
    except OnnxFileError:  # whoever loads it says why
        return "onnx"


def onnx_network(path: str | Path, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The differentiable twin of an ONNX file behind its preprocessing: images (N, 3, H, W) in [0, 1] to logits.

    Raises:
        OnnxFileError: no valid model of images, or no twin can be built. UsageError: see `onnx_subject`.
    """
    double = twin(path)
    how = graph_preprocessing(path, double.shape, double.grid, preprocessing)
    return double if how.changes_nothing else Preprocessed(double, how, double.grid)


def _network_or_reason(
    path: str | Path,
    how: Preprocessing,
    grid: bool,
    device: str | torch.device,
    shape: tuple[int, ...],
    classes: int,
    rounding: bool = True,
) -> tuple[nn.Module | None, str | None]:
    """A twin that has been seen to give logits and gradients, or why there is none (evidence: no local paths)."""
    name = Path(path).name
    try:
        double = twin(path, rounding)
    except OnnxFileError as error:
        return None, str(error).replace(str(path), name)
    network = (double if how.changes_nothing else Preprocessed(double, how, grid)).to(device).eval()
    x = torch.full(shape, 0.5, device=device, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = network(x)
            torch.autograd.grad(logits.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a converted operator may raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return None, f"{name}: its differentiable twin does not run ({cause})"
    if logits.shape != (1, classes):
        return None, f"{name}: its differentiable twin gives {tuple(logits.shape)} instead of (1, {classes}) logits"
    return network, None


def graph_preprocessing(
    path: str | Path, declared: Sequence[Any], grid: bool, given: Preprocessing | None
) -> Preprocessing:
    """What happens between an image in [0, 1] and a graph's input: what was given, completed by what it declares.

    Args:
        declared: shape of the graph's input, anything but a whole number where it is open.
        grid: the graph takes uint8.

    Raises:
        OnnxFileError: the graph takes no RGB images, or its layout cannot be told and was not given.
        UsageError: what was given contradicts what the graph declares.
    """
    shape: Shape = tuple(size if isinstance(size, int) else None for size in declared)
    text = f"{path} takes {list(declared)}"
    if len(shape) != 4:
        raise OnnxFileError(f"{text}; expected images (N, 3, H, W) or (N, H, W, 3)")
    how = given or Preprocessing()
    layout = how.layout or _layout(shape, text, told=grid or given is not None, grid=grid)
    channels = shape[1 if layout == "nchw" else 3]
    if channels not in (3, None):
        wanted = "(N, 3, H, W)" if layout == "nchw" else "(N, H, W, 3)"
        raise OnnxFileError(f"{text}; expected images {wanted}")
    if grid:
        if how.mean or how.std:
            raise UsageError(
                f"{text} as uint8, pixels from 0 to 255, which cannot be normalised: leave out mean and std"
            )
        how = replace(how, range=255)
    complete = replace(how.completed(), layout=layout)
    size = _spatial(declared, complete)
    if size and not (min(size) > 0 and max(size) <= LARGEST_SIDE and size[0] * size[1] <= LARGEST_IMAGE):
        raise OnnxFileError(
            f"{text}; images have 1 to {LARGEST_SIDE:,} pixels a side, and at most {LARGEST_IMAGE:,} together"
        )
    if complete.input_size and size and complete.input_size != size:
        raise UsageError(
            f"{path} takes images of {size[0]}x{size[1]}, but input_size says "
            f"{complete.input_size[0]}x{complete.input_size[1]}: leave it out, or give {size[0]}x{size[1]}"
        )
    return complete


def _layout(shape: Shape, text: str, *, told: bool, grid: bool) -> str:
    """Where the channels are, from the declared shape; a guess is refused.

    Args:
        told: the layout may be read from a shape that ends in 3 channels; else such a graph is not ours to interpret.
    """
    first, last = shape[1] == 3, shape[3] == 3
    if last and not first:
        if told:
            return "nhwc"
        raise OnnxFileError(
            f"{text}; expected images (N, 3, H, W). If it takes RGB in [0, 1] with channels last, give the layout "
            "nhwc, and if it expects other numbers, their range, mean and std as well"
        )
    if first == last and grid:
        raise OnnxFileError(
            f"{text}, from which the place of the channels cannot be told: give the layout nchw or nhwc"
        )
    return "nchw"


def _spatial(declared: Sequence[Any], how: Preprocessing) -> tuple[int, int] | None:
    height, width = declared[1:3] if how.layout == "nhwc" else declared[2:4]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
