"""Random search: the control every search has to beat (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ... import random
from ...genotype import CELL_ROLES, PRIMITIVES, Cell, Cells, Edge
from .base import Method

if TYPE_CHECKING:
    from ..task import SearchTask

NODES = 4


class Random(Method):
    """For every node two different inputs and for each an operation other than `none`, all equally likely."""

    searches: ClassVar[bool] = False

    def derive(self, search: SearchTask) -> Cells:
        return random_cells(search.config.seed)


def random_cells(seed: int, draw: int = 0) -> Cells:
    """The cells of a seed; further ones under other draws."""
    operations = [name for name in PRIMITIVES if name != "none"]
    cells = []
    for role in CELL_ROLES["cells"]:
        edges = []
        for node in range(NODES):
            stream = f"random-cell-{role}-{node}"
            sources = random.permutation(2 + node, seed=seed, stream=f"{stream}-sources", draw=draw)[:2]
            chosen = random.integers(2, 0, len(operations), seed=seed, stream=f"{stream}-operations", draw=draw)
            edges += [Edge(operations[int(o)], int(s)) for o, s in zip(chosen, sources, strict=True)]
        cells.append(Cell(tuple(edges), tuple(range(2, 2 + NODES))))
    return Cells("cells", tuple(cells))
