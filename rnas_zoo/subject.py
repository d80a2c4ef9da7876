"""What is verified, exported or asked for predictions: a network to attack, and the model whose logits count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UsageError
from .files import sha256_file
from .models.pixels import applied, behind, declared_image_size
from .models.weights import tensor_digest
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class Subject:
    """What is verified, exported or asked for predictions.

    Attributes:
        name: how reports call it.
        kind: `torch`, `onnx`, or `int8` for an ONNX file that keeps weights as 8-bit integers or computes on such.
        file, sha256: the weight or model file and its checksum; for a module in memory no file, and the checksum of
            its tensors.
        network: differentiable, images (N, 3, H, W) in [0, 1] to logits (for ONNX the twin of the graph); None where
            only scores can be had.
        rounds: of kind `int8`, whether it rounds its activations to whole numbers.
        unrounded: of one that does, the network without its rounding, which attacks follow as well.
        judge: the logits that count (for ONNX the session's), of the same images.
        image_size: height and width it takes, None if any.
        num_classes: number of logits.
        preprocessing: what is done to the images before the model gets them (`Preprocessing.to_json`), None if nothing;
            part of the evidence.
        grid: the model takes 8-bit pixels, so only images whose values are multiples of 1/255 exist for it; others
            are rounded to the nearest.
        score_only: why there is no network, in one line; None if there is one.
    """

    name: str
    kind: str
    file: str | None
    sha256: str
    network: nn.Module | None
    judge: Callable[[Tensor], Tensor]
    image_size: tuple[int, int] | None
    num_classes: int
    preprocessing: dict[str, Any] | None = None
    grid: bool = False
    score_only: str | None = None
    rounds: bool = False
    unrounded: nn.Module | None = None


def torch_subject(
    network: nn.Module,
    name: str,
    *,
    file: str | None = None,
    device: str | torch.device = "cpu",
    image_size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """A torch network as a subject; it is put into evaluation mode.

    Args:
        image_size: height and width of the images at hand, to count the classes with; the network's own by default.
        preprocessing: what the network expects of its input; instead of any that it is behind already.

    Raises:
        UsageError: the network returns something other than logits (N, classes).
    """
    network = behind(network, preprocessing).to(device).eval()
    size, how = declared_image_size(network), applied(network)
    digest = sha256_file(file) if file else tensor_digest(network.state_dict())
    classes = count_classes(network, image_size or size or (32, 32), device)
    return Subject(
        name=name,
        kind="torch",
        file=Path(file).name if file else None,
        sha256=digest,
        network=network,
        judge=network,
        image_size=size,
        num_classes=classes,
        preprocessing=how.to_json() if how else None,
    )


def count_classes(logits: Callable[[Tensor], Tensor], size: tuple[int, int], device: torch.device | str) -> int:
    """Number of logits for one grey image of a height and width.

    Raises:
        UsageError: no logits (N, classes) come back.
    """
    with torch.no_grad():
        found = logits(torch.full((1, 3, *size), 0.5, device=device))
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"the model must return logits (N, classes); for one image it returned {what}")
    return int(found.shape[1])


def as_logits(subject: Subject, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of float32 images (N, 3, H, W) in [0, 1]."""
    parameters = subject.network.parameters() if subject.network is not None else iter(())
    device = next((p.device for p in parameters), torch.device("cpu"))
    with torch.no_grad():
        return subject.judge(torch.from_numpy(images).to(device)).float().cpu().numpy()


@torch.no_grad()
def twin_error(subject: Subject, x: Tensor) -> float:
    """Largest difference between the logits of network and judge on images (N, 3, H, W) in [0, 1].

    Images on which the judge has no finite logits are left out. Infinite where the network alone has none; NaN where
    there is no network.
    """
    if subject.network is None:
        return float("nan")
    if subject.network is subject.judge:
        return 0.0
    wanted = subject.judge(x).float()
    difference = (subject.network(x).float() - wanted).abs()[torch.isfinite(wanted).all(1)]
    return float(torch.nan_to_num(difference, nan=float("inf"), posinf=float("inf")).max()) if len(difference) else 0.0
