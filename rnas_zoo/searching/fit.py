"""The size at which a found architecture is built: as large as the user's limits on parameters and MACs allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch

from ..errors import UsageError
from ..genotype import Cells, Channels, Genotype, Stage
from ..models.size import count_macs, count_parameters

DEPTHS = (20, 14, 8)
WIDE_ENOUGH = 16


def size(found: Genotype, num_classes: int, image_size: tuple[int, int], **arguments: Any) -> tuple[int, int]:
    """Parameters and MACs (one image) of the network of a genotype, without allocating it."""
    name = "rnas_students" if isinstance(found.structure, Channels) else "rnas_cells"
    with torch.device("meta"):
        model = timm.create_model(name, genotype=found, num_classes=num_classes, **arguments)
        return count_parameters(model), count_macs(model, (3, *image_size))


def fitted(
    found: Genotype,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    max_params: int | None = None,
    max_macs: int | None = None,
    layers: int | None = None,
    stem: str = "cifar",
) -> Genotype:
    """The genotype with the default channels and layers of the largest network within the limits.

    Cell networks take the most of 20, 14 or 8 cells (or `layers`) that leaves 16 channels, and then as many channels as
    fit. Students are narrowed block by block, the widest first.

    Raises:
        UsageError: no network of it is that small.
    """
    if max_params is None and max_macs is None:
        return found

    def fits(candidate: Genotype, **arguments: Any) -> bool:
        params, macs = size(candidate, num_classes, image_size, **arguments)
        return (max_params is None or params <= max_params) and (max_macs is None or macs <= max_macs)

    limits = " and ".join(
        f"{limit:,} {unit}" for limit, unit in ((max_params, "parameters"), (max_macs, "MACs")) if limit is not None
    )
    if isinstance(found.structure, Channels):
        return _narrowed(found, fits, limits)
    best = (0, 0)
    for depth in (layers,) if layers else DEPTHS:
        channels = _most(lambda c, depth=depth: fits(found, channels=c, layers=depth, stem=stem))
        if channels >= WIDE_ENOUGH or (layers and channels):
            best = (channels, depth)
            break
        best = max(best, (channels, depth))
    if not best[0]:
        raise UsageError(f"no network of this architecture stays within {limits}; raise the limit")
    return replace(found, default={"channels": best[0], "layers": best[1]})


def _most(fits: Any, top: int = 1024) -> int:
    """The largest number of at least 2 that fits, 0 if none does; what fits is downward closed."""
    if not fits(2):
        return 0
    low, high = 2, 4
    while high < top and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _narrowed(found: Genotype, fits: Any, limits: str) -> Genotype:
    structure = found.structure
    assert isinstance(structure, Channels)
    candidate = found
    while not fits(candidate):
        stages = candidate.structure.stages  # type: ignore[union-attr]
        width, at, block = max((w, i, j) for i, stage in enumerate(stages) for j, w in enumerate(stage.widths))
        if width <= 8:
            raise UsageError(f"no student of this architecture stays within {limits}; raise the limit")
        widths = list(stages[at].widths)
        widths[block] = width - 4
        narrowed = (*stages[:at], Stage(tuple(widths), stages[at].stride), *stages[at + 1 :])
        candidate = replace(found, structure=replace(structure, stages=narrowed))
    return candidate


def is_cells(found: Genotype) -> bool:
    """Whether the genotype is built from cells, so that channels and layers can be chosen."""
    return isinstance(found.structure, Cells)
