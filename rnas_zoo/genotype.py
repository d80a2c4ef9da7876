"""What an architecture is: a small immutable value with one JSON form, one validation and one canonical hash.

Four kinds of structure cover the published robust searches:

* `cells`: a normal and a reduction cell, two edges per node (the DARTS space);
* `accurate_robust_cells`: ARNAS's accurate, reduction and robust cells (Ou et al., CVPR 2024);
* `dense_cells`: RobNet's two-bit code on every edge (Guo et al., CVPR 2020);
* `channels`: RNAS-CL's compact students, a width per inverted residual block (Nath et al., UAI 2024).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import resources
from .errors import GenotypeError, UnknownNameError, closest

OWN_DATA = "_cifar10"  # the data set our own searches are named without
SCHEMA = 1
PRIMITIVES = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
DENSE_OPERATIONS = {"00": "none", "01": "sep_conv_3x3", "10": "skip_connect", "11": "sep_conv_3x3 + skip_connect"}
CELL_ROLES = {"cells": ("normal", "reduce"), "accurate_robust_cells": ("accurate", "reduce", "robust")}
STRUCTURE_FIELDS = {
    "cells": ("cells",),
    "accurate_robust_cells": ("cells",),
    "dense_cells": ("share", "codes"),
    "channels": ("stem", "stages", "expansion", "tutors"),
}
KINDS = tuple(STRUCTURE_FIELDS)
STATUSES = ("published", "inferred", "reconstructed", "ours")
DENSE_NODES = 4
DENSE_EDGES = sum(2 + node for node in range(DENSE_NODES))
LARGEST_NUMBER = 2**53  # every JSON reader keeps integers up to here
LARGEST_WIDTH, LARGEST_DEPTH = 4096, 1000  # channels and cells; beyond, a file describes what nobody can build

MOST = {"channels": LARGEST_WIDTH, "layers": LARGEST_DEPTH}


@dataclass(frozen=True)
class Edge:
    """One operation applied to one earlier state of the cell.

    Attributes:
        op: one of PRIMITIVES.
        source: number of the state; 0 and 1 are the cell's inputs.
    """

    op: str
    source: int


@dataclass(frozen=True)
class Cell:
    """A cell of nodes with two incoming edges each.

    Attributes:
        edges: edges 2i and 2i+1 end in node i + 2.
        concat: numbers of the states whose concatenation is the output.
    """

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]

    @property
    def nodes(self) -> int:
        """Number of intermediate nodes."""
        return len(self.edges) // 2

    def to_json(self) -> dict[str, Any]:
        """`edges` as [operation, input] and `concat`."""
        return {"edges": [[edge.op, edge.source] for edge in self.edges], "concat": list(self.concat)}


@dataclass(frozen=True)
class Cells:
    """Named cells; `cells["normal"]` is one of them.

    Attributes:
        kind: `cells` (normal, reduce) or `accurate_robust_cells` (accurate, reduce, robust).
        cells: in that order.
    """

    kind: str
    cells: tuple[Cell, ...]

    def __getitem__(self, role: str) -> Cell:
        return self.cells[CELL_ROLES[self.kind].index(role)]

    def to_json(self) -> dict[str, Any]:
        """The cells by name."""
        return {"cells": {role: self[role].to_json() for role in CELL_ROLES[self.kind]}}


@dataclass(frozen=True)
class DenseCells:
    """A two-bit code for each of a cell's 14 edges.

    Attributes:
        share: one code for all cells; else one per cell.
        codes: for each code, 14 texts of DENSE_OPERATIONS.
    """

    share: bool
    codes: tuple[tuple[str, ...], ...]
    kind: str = field(default="dense_cells", init=False)

    def to_json(self) -> dict[str, Any]:
        """`share`, and `codes` with spaces between edges."""
        return {"share": self.share, "codes": [" ".join(code) for code in self.codes]}


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks of the given output widths; the first has the given stride."""

    widths: tuple[int, ...]
    stride: int


@dataclass(frozen=True)
class Channels:
    """A compact student.

    Attributes:
        stem_width, stem_stride: output channels and stride of the first convolution.
        stages: one after the other.
        expansion: factor on a block's input channels inside of it.
        tutors: number of the teacher's layer chosen for each convolution; None if none was.
    """

    stem_width: int
    stem_stride: int
    stages: tuple[Stage, ...]
    expansion: int
    tutors: tuple[int, ...] | None = None
    kind: str = field(default="channels", init=False)

    def to_json(self) -> dict[str, Any]:
        """`stem`, `stages`, `expansion` and `tutors`."""
        return {
            "stem": {"width": self.stem_width, "stride": self.stem_stride},
            "stages": [{"widths": list(stage.widths), "stride": stage.stride} for stage in self.stages],
            "expansion": self.expansion,
            "tutors": None if self.tutors is None else list(self.tutors),
        }


Structure = Cells | DenseCells | Channels


@dataclass(frozen=True)
class Genotype:
    """A named architecture.

    Attributes:
        name: what files and messages call it.
        structure: what is built; the canonical hash covers it and nothing else.
        default: channels and layers its paper evaluates it with (empty for `channels`).
        check: published or recomputed `params` (with 10 classes) and `macs` (one 32x32 image) of the default network.
        provenance: status, method, source and paper, plus config, seed, data set, cost and commit of our own searches.
    """

    name: str
    structure: Structure
    default: Mapping[str, int] = field(default_factory=dict)
    check: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.structure.kind

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of kind and structure."""
        value = {"kind": self.kind, **self.structure.to_json()}
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads back to an equal genotype."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "kind": self.kind,
            **self.structure.to_json(),
            "default": dict(self.default),
            "check": dict(self.check),
            "provenance": dict(self.provenance),
        }

    def dumps(self) -> str:
        """Readable JSON text: one line per cell, stage list or code."""
        lines = []
        for key, value in self.to_json().items():
            if key == "cells":
                inner = ",\n".join(f"    {json.dumps(role)}: {json.dumps(cell)}" for role, cell in value.items())
                lines.append(f'  "cells": {{\n{inner}\n  }}')
            elif key in ("codes", "stages", "provenance") and len(value) > 1:
                opened, closed = ("{", "}") if isinstance(value, dict) else ("[", "]")
                items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
                inner = ",\n".join(
                    "    " + (f"{json.dumps(k)}: " if k is not None else "") + json.dumps(v, ensure_ascii=False)
                    for k, v in items
                )
                lines.append(f"  {json.dumps(key)}: {opened}\n{inner}\n  {closed}")
            else:
                lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _shown(value: Any) -> str:
    """A value as an error message quotes it: short, whatever it is."""
    try:
        return json.dumps(value, default=str)[:60]
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"


class _Reader:
    """Checked access to a JSON object; every refusal names file and field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, path: str, problem: str) -> GenotypeError:
        return GenotypeError(f"{self.where}: {path or 'file'}: {problem}")

    def get(self, value: Any, path: str, key: str, kind: type | tuple[type, ...]) -> Any:
        if not isinstance(value, Mapping):
            raise self.refuse(path, f"expected an object, found {type(value).__name__}")
        at = f"{path}.{key}" if path else key
        if key not in value:
            raise self.refuse(at, "is missing")
        return self.check(value[key], at, kind)

    def check(self, value: Any, at: str, kind: type | tuple[type, ...]) -> Any:
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            names = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
            raise self.refuse(at, f"expected {names}, found {_shown(value)}")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise self.refuse(at, "is too large a number")
        return value

    def positive(self, value: Any, at: str, most: int = LARGEST_NUMBER) -> int:
        if self.check(value, at, int) < 1:
            raise self.refuse(at, f"must be at least 1, found {value}")
        if value > most:
            raise self.refuse(at, f"must be at most {most}, found {value}")
        return value

    def cell(self, value: Any, at: str) -> Cell:
        edges = self.get(value, at, "edges", (list, tuple))
        if not edges or len(edges) % 2:
            raise self.refuse(f"{at}.edges", f"needs two edges per node, found {len(edges)} edges")
        read = []
        for i, edge in enumerate(edges):
            here = f"{at}.edges[{i}]"
            if not isinstance(edge, (list, tuple)) or len(edge) != 2:
                raise self.refuse(here, f"expected [operation, input], found {_shown(edge)}")
            op, source = self.check(edge[0], here, str), self.check(edge[1], here, int)
            if op not in PRIMITIVES:
                raise self.refuse(here, f"unknown operation {_shown(op)}.{closest(op, list(PRIMITIVES))}")
            node = 2 + i // 2
            if not 0 <= source < node:
                raise self.refuse(here, f"node {node} can only read the states 0 to {node - 1}, found input {source}")
            read.append(Edge(op, source))
        concat = self.get(value, at, "concat", (list, tuple))
        last = 1 + len(read) // 2
        for state in concat:
            if not 2 <= self.check(state, f"{at}.concat", int) <= last:
                raise self.refuse(f"{at}.concat", f"names state {state}, but the nodes are 2 to {last}")
        if not concat or len(set(concat)) != len(concat):
            raise self.refuse(f"{at}.concat", "must name at least one node, and none twice")
        return Cell(tuple(read), tuple(concat))

    def cells(self, value: Any, kind: str) -> Cells:
        cells = self.get(value, "", "cells", Mapping)
        roles = CELL_ROLES[kind]
        if set(cells) != set(roles):
            raise self.refuse("cells", f"kind {kind!r} needs {', '.join(roles)}, found {_shown(list(cells))}")
        return Cells(kind, tuple(self.cell(cells[role], f"cells.{role}") for role in roles))

    def dense(self, value: Any) -> DenseCells:
        share = self.get(value, "", "share", bool)
        codes = self.get(value, "", "codes", (list, tuple))
        if not codes or (share and len(codes) != 1):
            raise self.refuse(
                "codes", f"needs {'exactly one code' if share else 'a code per cell'}, found {len(codes)}"
            )
        read = []
        for i, code in enumerate(codes):
            parts = tuple(self.check(code, f"codes[{i}]", str).split())
            if len(parts) != DENSE_EDGES or set(parts) - set(DENSE_OPERATIONS):
                raise self.refuse(
                    f"codes[{i}]", f"needs {DENSE_EDGES} of {', '.join(DENSE_OPERATIONS)}, found {_shown(code)}"
                )
            read.append(parts)
        return DenseCells(share, tuple(read))

    def channels(self, value: Any) -> Channels:
        stem = self.get(value, "", "stem", Mapping)
        stages = []
        for i, stage in enumerate(self.get(value, "", "stages", (list, tuple))):
            at = f"stages[{i}]"
            widths = self.get(stage, at, "widths", (list, tuple))
            stride = self.positive(self.get(stage, at, "stride", int), f"{at}.stride")
            if not widths or stride > 2:
                raise self.refuse(at, "needs at least one width and a stride of 1 or 2")
            stages.append(Stage(tuple(self.positive(w, f"{at}.widths", LARGEST_WIDTH) for w in widths), stride))
        if not stages:
            raise self.refuse("stages", "needs at least one stage")
        tutors = value.get("tutors")
        if tutors is not None:
            tutors = tuple(self.check(t, "tutors", int) for t in self.check(tutors, "tutors", (list, tuple)))
            convolutions = 1 + 3 * sum(len(stage.widths) for stage in stages)
            if len(tutors) != convolutions or min(tutors) < 0:
                raise self.refuse(
                    "tutors", f"needs {convolutions} teacher layers >= 0 (one per convolution), found {len(tutors)}"
                )
        return Channels(
            self.positive(self.get(stem, "stem", "width", int), "stem.width", LARGEST_WIDTH),
            self.positive(self.get(stem, "stem", "stride", int), "stem.stride", LARGEST_WIDTH),
            tuple(stages),
            self.positive(self.get(value, "", "expansion", int), "expansion", LARGEST_WIDTH),
            tutors,
        )


def from_json(value: Any, where: str = "genotype") -> Genotype:
    """Read and validate the JSON object form.

    Args:
        value: the parsed object.
        where: what error messages call its origin (a path, say).

    Raises:
        GenotypeError: naming `where` and the field.
    """
    reader = _Reader(where)
    schema = reader.get(value, "", "schema", int)
    if schema != SCHEMA:
        raise reader.refuse(
            "schema", f"version {schema} is not supported (this release reads {SCHEMA}); update rnas-zoo"
        )
    kind = reader.get(value, "", "kind", str)
    if kind not in KINDS:
        raise reader.refuse("kind", f"unknown kind {_shown(kind)}, known are {', '.join(KINDS)}")
    structure: Structure
    if kind in CELL_ROLES:
        structure = reader.cells(value, kind)
    elif kind == "dense_cells":
        structure = reader.dense(value)
    else:
        structure = reader.channels(value)
    numbers = {}
    for key, allowed in (("default", {"channels", "layers"}), ("check", {"params", "macs"})):
        table = reader.check(value.get(key, {}), key, Mapping)
        for name, number in table.items():
            if name not in allowed:
                raise reader.refuse(key, f"{_shown(name)} is not known; allowed are {', '.join(sorted(allowed))}")
            reader.positive(number, f"{key}.{name}", MOST.get(name, LARGEST_NUMBER))
        numbers[key] = dict(table)
    provenance = dict(reader.check(value.get("provenance", {}), "provenance", Mapping))
    if provenance.get("status", "ours") not in STATUSES:
        raise reader.refuse("provenance.status", f"must be one of {', '.join(STATUSES)}")
    fields = {"schema", "name", "kind", "default", "check", "provenance", *STRUCTURE_FIELDS[kind]}
    for key in value:
        if key not in fields:
            raise reader.refuse(_shown(key), f"is not a field of kind {kind!r}.{closest(str(key), sorted(fields))}")
    return Genotype(
        reader.get(value, "", "name", str), structure, numbers["default"], numbers["check"], provenance
    )  # fmt: skip


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def load(path: str | Path) -> Genotype:
    """Read a genotype file.

    Raises:
        GenotypeError: the file is missing, is no JSON, or is invalid; the message names path and field.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise GenotypeError(f"{path}: no such genotype file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise GenotypeError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"{path}: not valid JSON ({error}); the file may be damaged or cut off") from error
    return from_json(value, str(path))


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
        from .genotype_text import parse

        return parse(text)
    if ".py:" in text:
        from .genotype_text import parse_file

        path, _, variable = text.rpartition(":")
        return parse_file(path, variable)
    if text.endswith(".json") or "/" in text or "\\" in text:
        return load(text)
    return named(text)
