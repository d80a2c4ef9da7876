"""The JSON form of an architecture, read with every field checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import GenotypeError, closest
from .architecture import SCHEMA, STATUSES, Genotype
from .structures import (
    CELL_ROLES,
    DENSE_EDGES,
    DENSE_OPERATIONS,
    KINDS,
    LARGEST_DEPTH,
    LARGEST_WIDTH,
    PRIMITIVES,
    STRUCTURE_FIELDS,
    Cell,
    Cells,
    Channels,
    DenseCells,
    Edge,
    Stage,
    Structure,
)

LARGEST_NUMBER = 2**53  # every JSON reader keeps integers up to here
MOST = {"channels": LARGEST_WIDTH, "layers": LARGEST_DEPTH}


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
