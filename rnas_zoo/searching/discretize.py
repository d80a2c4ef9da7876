"""From architecture parameters to a cell (Liu, Simonyan, Yang, ICLR 2019, section 2.4)."""

from __future__ import annotations

import numpy as np

from ..genotype import PRIMITIVES, Cell, Edge


def softmax(alpha: np.ndarray) -> np.ndarray:
    """Row-wise softmax of α (edges, operations)."""
    powers = np.exp(alpha - alpha.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def discretize(alpha: np.ndarray, operations: tuple[str, ...] = PRIMITIVES, shares: np.ndarray | None = None) -> Cell:
    """Keep the two strongest incoming edges of each node and the strongest operation other than `none` on each.

    Args:
        alpha: (14, operations); edges in the order of nodes and, within a node, of sources.
        shares: weights (14,) of the edges that multiply softmax(α) (PC-DARTS); None: all equal.

    Returns:
        A cell whose first edge of each pair is the stronger one; equal strengths keep the lower source.
    """
    strength = softmax(np.asarray(alpha, np.float64))
    if shares is not None:
        strength *= np.asarray(shares, np.float64)[:, None]
    if "none" in operations:
        strength[:, operations.index("none")] = -1.0
    edges: list[Edge] = []
    first = node = 0
    while first < len(strength):
        rows = strength[first : first + 2 + node]
        strongest = np.argsort(-rows.max(axis=1), kind="stable")[:2]
        edges.extend(Edge(operations[int(rows[source].argmax())], int(source)) for source in strongest)
        first += 2 + node
        node += 1
    return Cell(tuple(edges), tuple(range(2, 2 + node)))


def entropy(alpha: np.ndarray) -> float:
    """Mean entropy of the edges' operation weights, in nats."""
    p = softmax(np.asarray(alpha, np.float64))
    return float(-(p * np.log(p)).sum(axis=1).mean())
