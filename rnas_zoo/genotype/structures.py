"""The structures an architecture can have, and the words their files are written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
DENSE_NODES = 4
DENSE_EDGES = sum(2 + node for node in range(DENSE_NODES))
LARGEST_WIDTH, LARGEST_DEPTH = 4096, 1000  # channels and cells; beyond, a file describes what nobody can build


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
