"""What an architecture is: a small immutable value with one JSON form, one validation and one canonical hash.

Four kinds of structure cover the published robust searches:

* `cells`: a normal and a reduction cell, two edges per node (the DARTS space);
* `accurate_robust_cells`: ARNAS's accurate, reduction and robust cells (Ou et al., CVPR 2024);
* `dense_cells`: RobNet's two-bit code on every edge (Guo et al., CVPR 2020);
* `channels`: RNAS-CL's compact students, a width per inverted residual block (Nath et al., UAI 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import resources
from ..errors import UnknownNameError, closest
from .architecture import SCHEMA, STATUSES, Genotype
from .reader import LARGEST_NUMBER, from_json, load
from .structures import (
    CELL_ROLES,
    DENSE_NODES,
    DENSE_OPERATIONS,
    KINDS,
    LARGEST_DEPTH,
    LARGEST_WIDTH,
    PRIMITIVES,
    Cell,
    Cells,
    Channels,
    DenseCells,
    Edge,
    Stage,
    Structure,
)
from .text import parse, parse_file

__all__ = [
    "CELL_ROLES",
    "DENSE_NODES",
    "DENSE_OPERATIONS",
    "KINDS",
    "LARGEST_DEPTH",
    "LARGEST_NUMBER",
    "LARGEST_WIDTH",
    "PRIMITIVES",
    "SCHEMA",
    "STATUSES",
    "Cell",
    "Cells",
    "Channels",
    "DenseCells",
    "Edge",
    "Genotype",
    "Stage",
    "Structure",
    "from_json",
    "load",
    "model_name",
    "named",
    "names",
    "resolve",
]

OWN_DATA = "_cifar10"  # the data set our own searches are named without


def names() -> list[str]:
    """Names of the bundled genotypes, sorted."""
    return sorted(path.stem for path in resources.folder("genotypes").glob("*.json"))


def model_name(name: str) -> str:
    """The model of a bundled genotype: `rnas_` and its name; our own of CIFAR-10 do without the data set's."""
    return f"rnas_{name.removesuffix(OWN_DATA) if name.startswith('ours_') else name}"


def named(name: str) -> Genotype:
    """A bundled genotype by its name or its model's.

    Raises:
        UnknownNameError: no such genotype; the message names near ones.
    """
    known = names()
    stem = next((own for own in known if name in (own, model_name(own))), name.removeprefix("rnas_"))
    if stem not in known:
        raise UnknownNameError(
            f"unknown genotype {name!r}.{closest(stem, known)} Run `rnas-zoo list --genotypes` for all."
        )
    return load(resources.folder("genotypes") / f"{stem}.json")


def resolve(spec: Genotype | Mapping[str, Any] | str | Path) -> Genotype:
    """A genotype from a `spec`: itself, its JSON object, a bundled name, a path, or the field's `Genotype(...)` text.

    Raises:
        GenotypeError: invalid content.
        UnknownNameError: neither a file nor a bundled name.
    """
    if isinstance(spec, Genotype):
        return spec
    if isinstance(spec, Mapping):
        return from_json(spec)
    text = str(spec)
    if text.lstrip().startswith("Genotype("):
        return parse(text)
    if ".py:" in text:
        path, _, variable = text.rpartition(":")
        return parse_file(path, variable)
    if text.endswith(".json") or "/" in text or "\\" in text:
        return load(text)
    return named(text)
