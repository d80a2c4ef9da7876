"""The size at which an architecture is built: as large as limits on parameters and MACs allow, or at given MACs.

A genotype with a size carries the channels and layers of its cell network in `default`; a student carries its widths in
its structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import timm
import torch
from torch import nn

from .. import models  # noqa: F401  (registers the architectures)
from ..errors import UsageError
from ..genotype import Channels, DenseCells, Genotype, Stage
from ..models.size import count_macs, count_parameters

DEPTHS = (20, 14, 8)
FEWEST_CELLS, MOST_CELLS = 3, 24
WIDE_ENOUGH, WIDEST = 16, 1024
NARROWEST, NARROWING = 8, 4  # widths of students
GRAIN = 64  # widths of students are scaled by multiples of 1/64


def network(found: Genotype, stem: str = "cifar") -> tuple[str, dict[str, Any]]:
    """Registered name and further arguments, without the genotype, of the network of a genotype with a size."""
    if isinstance(found.structure, Channels):
        return "rnas_students", {}
    return "rnas_cells", {**found.default, "stem": stem}


def size(
    found: Genotype, num_classes: int, image_size: tuple[int, int], stem: str = "cifar", **changes: Any
) -> tuple[int, int]:
    """Parameters, and MACs of one image (height, width), of the network of a genotype; nothing is allocated."""
    model = _built(found, num_classes, stem, changes)
    return count_parameters(model), count_macs(model, (3, *image_size))


def _built(found: Genotype, num_classes: int, stem: str, changes: Mapping[str, Any]) -> nn.Module:
    """The network of a genotype without memory."""
    name, arguments = network(found, stem)
    with torch.device("meta"):
        return timm.create_model(name, genotype=found, num_classes=num_classes, **{**arguments, **changes})


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
    """The genotype with the size of the largest network within the limits; as it is without limits.

    Cell networks take the most of 20, 14 or 8 cells (or `layers`) that leaves 16 channels, else the depth that leaves
    most channels, and as many channels as fit. Students are narrowed block by block, the widest first.

    Raises:
        UsageError: no network of it is that small.
    """
    limits = [(max_params, "parameters"), (max_macs, "MACs")]
    if max_params is None and max_macs is None:
        return found

    def fits(candidate: Genotype, **changes: Any) -> bool:
        model = _built(candidate, num_classes, stem, changes)
        if max_params is not None and count_parameters(model) > max_params:
            return False
        return max_macs is None or count_macs(model, (3, *image_size)) <= max_macs

    best = (0, 0)
    if isinstance(found.structure, Channels):
        narrow: Genotype | None = found
        while narrow is not None and not fits(narrow):
            narrow = _narrowed(narrow)
        if narrow is not None:
            return narrow
    else:
        for depth in _depths(found, (layers,) if layers else DEPTHS):
            channels = _most(partial(lambda depth, c: fits(found, channels=c, layers=depth), depth), 2, WIDEST)
            best = max(best, (channels, depth))
            if channels >= WIDE_ENOUGH:
                break
    if not best[0]:
        text = " and ".join(f"{limit:,} {unit}" for limit, unit in limits if limit is not None)
        raise UsageError(f"no network of {found.name!r} stays within {text}; raise the limit")
    return sized(found, *best)


def matched(
    found: Genotype,
    macs: int,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    layers: int = 8,
    stem: str = "cifar",
    tolerance: float = 0.05,
) -> Genotype:
    """The genotype with a size of about `macs` multiply-accumulates per image.

    Cell networks take the depth nearest to `layers` at which some number of channels comes within the tolerance. All
    widths of a student are scaled by one factor. What never comes within the tolerance gets its nearest size, which
    `size` tells.

    Raises:
        UsageError: even the smallest network of it has more than twice the MACs.
    """
    builds: Iterable[tuple[int, Callable[[int], Genotype]]]
    if isinstance(found.structure, Channels):
        builds, low, high = [(0, lambda k: _scaled(found, k / GRAIN))], 4, 32 * GRAIN
    else:
        near = sorted(range(FEWEST_CELLS, MOST_CELLS + 1), key=lambda depth: (abs(depth - layers), -depth))
        builds, low, high = ((d, _of_depth(found, d)) for d in _depths(found, near)), 2, WIDEST
    best: tuple[float, Genotype] | None = None
    too_deep = MOST_CELLS + 1
    for depth, build in builds:
        if depth > too_deep:
            continue
        spent = cache(partial(lambda build, k: size(build(k), num_classes, image_size, stem)[1], build))
        below = _most(partial(lambda spent, k: spent(k) <= macs, spent), low, high)
        too_deep = too_deep if below else min(too_deep, depth)
        off, k = min((abs(spent(k) / macs - 1), k) for k in ((below, below + 1) if below else (low,)))
        if best is None or off < best[0]:
            best = off, build(k)
        if off <= tolerance:
            break
    if best is None or best[0] > 1:
        raise UsageError(f"no network of {found.name!r} is as small as {macs:,} MACs; raise the number")
    return best[1]


def _depths(found: Genotype, wanted: Iterable[int]) -> Iterable[int]:
    """The wanted depths, or the only one that cells of their own allow."""
    structure = found.structure
    return (len(structure.codes),) if isinstance(structure, DenseCells) and not structure.share else wanted


def sized(found: Genotype, channels: int, layers: int) -> Genotype:
    """The genotype of a cell network with a size."""
    return replace(found, default={"channels": channels, "layers": layers})


def _of_depth(found: Genotype, layers: int) -> Callable[[int], Genotype]:
    return lambda channels: sized(found, channels, layers)


def _most(fits: Callable[[int], bool], low: int, top: int) -> int:
    """The largest number from `low` to below `top` that fits, 0 if none does; what fits is downward closed."""
    if not fits(low):
        return 0
    high = 2 * low
    while high < top and fits(high):
        low, high = high, 2 * high
    high = min(high, top)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _narrowed(found: Genotype) -> Genotype | None:
    """A student whose widest block is four channels narrower, None if that is too narrow already."""
    structure: Any = found.structure
    width, at, block = max((w, i, j) for i, stage in enumerate(structure.stages) for j, w in enumerate(stage.widths))
    if width <= NARROWEST:
        return None
    widths = list(structure.stages[at].widths)
    widths[block] = width - NARROWING
    stages = list(structure.stages)
    stages[at] = replace(stages[at], widths=tuple(widths))
    return replace(found, structure=replace(structure, stages=tuple(stages)))


def _scaled(found: Genotype, factor: float) -> Genotype:
    """A student with all widths times a factor, at least one channel each."""

    def width(value: int) -> int:
        return max(1, int(value * factor + 0.5))

    structure: Any = found.structure
    stages = tuple(Stage(tuple(width(w) for w in stage.widths), stage.stride) for stage in structure.stages)
    return replace(found, structure=replace(structure, stem_width=width(structure.stem_width), stages=stages))


def model_args(found: Genotype, stem: str = "cifar") -> Mapping[str, Any]:
    """Arguments of the network of a genotype with a size, as run configurations state them: without provenance."""
    return {"genotype": replace(found, provenance={}).to_json(), **network(found, stem)[1]}
