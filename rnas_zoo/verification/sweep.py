"""Accuracy against the size of the perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import data
from ..attacks import Threat
from ..engine.device import resolve_device
from ..errors import UsageError
from ..reference import Reference, Subject, subject
from . import evidence
from .run import verify


def curve(
    model: Reference | Subject,
    images: data.ImageSet,
    norm: str,
    sizes: Sequence[float],
    *,
    protocol: str = "quick",
    places: np.ndarray | None = None,
    device: str | torch.device = "auto",
    **options: Any,
) -> list[tuple[float, float]]:
    """Accuracy at each ε of `sizes` (ascending); an image broken at a smaller ε is broken at every larger one.

    Args:
        places: positions of the images in their data set's official order; 0, 1, 2, … by default.
        options: further arguments of `verify`, such as seed and batch_size.

    Returns:
        Pairs of ε (pixels of [0, 1]) and robust accuracy; ε = 0 gives the clean accuracy.
    """
    if list(sizes) != sorted(sizes):
        raise UsageError("the sizes of a curve must ascend")
    device = resolve_device(device)
    chosen = model if isinstance(model, Subject) else subject(model, device=device, image_size=images.images.shape[1:3])
    points: list[tuple[float, float]] = []
    left = np.arange(len(images))
    for eps in sizes:
        if len(left):
            part = images.take(left)
            report = verify(
                chosen,
                part.images,
                part.labels,
                threat=Threat(norm, eps),
                protocol=protocol,
                positions=left if places is None else places[left],
                checks=False,
                device=device,
                **options,
            )
            left = left[evidence.standing(report.verdicts)]
        points.append((eps, len(left) / len(images)))
    return points
