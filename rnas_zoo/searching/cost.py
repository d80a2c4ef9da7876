"""Expected size of the network that α describes: operations' costs, weighted as α weighs the operations.

    n(α) = sum over cells, edges e and operations o of w_e · softmax(α_e)_o · u_o(cell, e)

is the resource term of E2RNAS (Yue et al., arXiv 2011.09820). It counts what lies on the edges of the cells, with scale
and shift of batch norms, as in the derived network; stem, preprocessing and classifier do not depend on α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ImageSizeError, UsageError, closest
from ..genotype import PRIMITIVES

NODES = 4
SOURCES = tuple((node, source) for node in range(NODES) for source in range(2 + node))
MEASURES = ("parameters", "macs")
EDGE_WEIGHTS = ("kept", "all")


@dataclass(frozen=True)
class CellPlan:
    """What the cost of a cell depends on besides α.

    Attributes:
        role: the key of its α.
        channels: of each of its nodes.
        reduction: whether its edges from the sources 0 and 1 have stride 2.
        height, width: of its preprocessed inputs, in pixels.

    Raises:
        UsageError: a number below 1.
        ImageSizeError: a reduction of an odd height or width.
    """

    role: str
    channels: int
    reduction: bool
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise UsageError(f"a cell needs at least one channel and one pixel, got {self}")
        if self.reduction and (self.height % 2 or self.width % 2):
            raise ImageSizeError(f"a reduction cell halves even sizes only, got {self.height}x{self.width}")


def _layers(op: str, stride: int) -> tuple[int, int]:
    """Pairs of a depthwise and a 1x1 convolution in an operation, and the side of the depthwise kernel."""
    if op not in PRIMITIVES or stride not in (1, 2):
        hint = closest(op, list(PRIMITIVES)) if op not in PRIMITIVES else ""
        raise UsageError(f"no cost is known for {op!r} with stride {stride}.{hint}")
    family, _, size = op.rpartition("_")
    return {"sep_conv": 2, "dil_conv": 1}.get(family, 0), int(size[0]) if "conv" in family else 0


def op_parameters(op: str, channels: int, stride: int) -> int:
    """Parameters of a primitive from `channels` to as many channels, batch norms with scale and shift.

    Raises:
        UsageError: no primitive, or a stride other than 1 and 2.
    """
    pairs, kernel = _layers(op, stride)
    if op == "skip_connect" and stride == 2:
        return channels * (channels + 2)
    return pairs * channels * (kernel**2 + channels + 2)


def op_macs(op: str, channels: int, stride: int, height_in: int, width_in: int) -> int:
    """Multiply-accumulates of a primitive's convolutions on one image of `height_in` x `width_in` pixels.

    Raises:
        UsageError: no primitive, or a stride other than 1 and 2.
    """
    pairs, kernel = _layers(op, stride)
    positions = -(-height_in // stride) * -(-width_in // stride)
    if op == "skip_connect" and stride == 2:
        return positions * channels**2
    return positions * pairs * channels * (kernel**2 + channels)


def _edge_cost(op: str, cell: CellPlan, source: int, measure: str) -> int:
    stride = 2 if cell.reduction and source < 2 else 1
    if measure == "parameters":
        return op_parameters(op, cell.channels, stride)
    shrink = 2 if cell.reduction and source >= 2 else 1
    return op_macs(op, cell.channels, stride, cell.height // shrink, cell.width // shrink)


def cell_costs(
    plan: Sequence[CellPlan],
    operations: Sequence[str] = PRIMITIVES,
    measure: str = "parameters",
    edge_weight: str = "all",
) -> dict[str, Tensor]:
    """Costs of every operation on every edge, summed over the cells of a role.

    Args:
        operations: columns, in α's order.
        measure: `parameters`, or `macs` for one image.
        edge_weight: `all` counts every edge as it is, `kept` times the probability 2 / inputs of its node that
            discretisation keeps it, were all edges equal.

    Returns:
        By role (14, operations), float64; rows in the order of nodes and, within a node, of sources.

    Raises:
        UsageError: an unknown operation, measure or edge weight.
    """
    if measure not in MEASURES or edge_weight not in EDGE_WEIGHTS:
        raise UsageError(
            f"a cost measures {' or '.join(MEASURES)} of the edges {' or '.join(EDGE_WEIGHTS)}, "
            f"got {measure!r} and {edge_weight!r}"
        )
    costs: dict[str, Tensor] = {}
    for cell in plan:
        rows = [[_edge_cost(op, cell, source, measure) for op in operations] for _, source in SOURCES]
        table = torch.tensor(rows, dtype=torch.float64)
        costs[cell.role] = costs[cell.role] + table if cell.role in costs else table
    if edge_weight == "kept":
        kept = torch.tensor([[2 / (2 + node)] for node, _ in SOURCES], dtype=torch.float64)
        costs = {role: table * kept for role, table in costs.items()}
    return costs


def expectation(alphas: Mapping[str, Tensor], costs: Mapping[str, Tensor]) -> Tensor:
    """Σ softmax(α) · costs over roles, edges and operations; differentiable in α, without waiting for the device.

    Args:
        alphas: α (edges, operations) by role.
        costs: tables of `cell_costs`; on α's device if a step is to be captured.

    Raises:
        UsageError: a role without α, or an α of another shape than its table.
    """
    terms = []
    for role, table in costs.items():
        alpha = alphas.get(role)
        if alpha is None or alpha.shape != table.shape:
            found = "none" if alpha is None else str(tuple(alpha.shape))
            raise UsageError(f"the cells {role!r} need architecture parameters {tuple(table.shape)}, found {found}")
        terms.append(torch.tensordot(alpha.softmax(1), table.to(alpha.device, alpha.dtype)))
    return torch.stack(terms).sum()


def expected(
    alphas: Mapping[str, Tensor],
    plan: Sequence[CellPlan],
    operations: Sequence[str] = PRIMITIVES,
    measure: str = "parameters",
    edge_weight: str = "kept",
) -> Tensor:
    """n(α) of the cells of `plan`, in parameters or in multiply-accumulates per image, in α's dtype.

    It builds the tables anew; a search keeps those of `cell_costs` and calls `expectation`.

    Raises:
        UsageError: unknown names, no cells, or architecture parameters that do not fit the plan.
    """
    if not plan:
        raise UsageError("the expected cost of a network needs at least one cell")
    return expectation(alphas, cell_costs(plan, operations, measure, edge_weight))
