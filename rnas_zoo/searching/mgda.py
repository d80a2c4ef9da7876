"""Weights of several objectives whose combined gradient descends on all of them (multiple gradient descent).

    min over c of |sum_t c_t g_t|^2,   c_t >= 0,   sum_t c_t = 1

The minimiser d satisfies d·g_t >= |d|^2 for every t, and d = 0 exactly where the objectives are Pareto-stationary
(Désidéri, Comptes Rendus 2012; Sener and Koltun, NeurIPS 2018). Nothing here waits for the device: a step of a search
can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError

NORMALIZATIONS = ("none", "l2", "loss", "loss+")


def two_tasks(g1: Tensor, g2: Tensor) -> Tensor:
    """The weight of g1; that of g2 is the rest (Sener and Koltun, algorithm 1).

    Args:
        g1, g2: two gradients of one shape.

    Returns:
        A tensor without dimensions in [0, 1]; 1/2 where the gradients are equal (|g1 - g2|^2 < 1e-12).
    """
    difference = g2 - g1
    square = difference.square().sum()
    weight = (difference * g2).sum() / square.clamp_min(1e-12)
    return torch.where(square < 1e-12, torch.full_like(square, 0.5), weight.clamp(0, 1))


def _between(v11: Tensor, v12: Tensor, v22: Tensor) -> Tensor:
    """As `two_tasks`, from the three products of the vectors; 1/2 where they are equal within rounding."""
    square = v11 + v22 - 2 * v12
    equal = square <= 1e-12 * (v11 + v22)
    return torch.where(equal, 0.5, ((v22 - v12) / torch.where(equal, 1.0, square)).clamp(0, 1))


def frank_wolfe(gram: Tensor, iterations: int = 250, tolerance: float = 1e-5) -> Tensor:
    """Weights of the minimum-norm point for any number of tasks (Sener and Koltun, algorithm 2).

    The error of the norm falls as 1 / iterations; it starts from the best of all pairs and is exact for two tasks.

    Args:
        gram: products g_s·g_t of all gradients, (T, T).
        tolerance: weights whose absolute changes sum to less are left as they are.

    Returns:
        The weights (T,), also when the limit of iterations ended the search.
    """
    tasks = gram.shape[0]
    if tasks == 1:
        return torch.ones_like(gram[0])
    norms = gram.diagonal()
    pair = _between(norms[:, None], gram, norms[None, :])
    value = pair.square() * norms[:, None] + 2 * pair * (1 - pair) * gram + (1 - pair).square() * norms[None, :]
    value = value.where(torch.ones_like(value, dtype=torch.bool).triu(1), torch.inf)
    best = (torch.arange(tasks * tasks, device=gram.device) == value.argmin()).to(gram).reshape(tasks, tasks)
    weights = (best * pair).sum(1) + (best * (1 - pair)).sum(0)
    index = torch.arange(tasks, device=gram.device)
    done = torch.zeros((), dtype=torch.bool, device=gram.device)
    for _ in range(iterations if tasks > 2 else 0):
        products = gram @ weights
        toward = (index == products.argmin()).to(gram)
        keep = _between(weights @ products, toward @ products, toward @ norms)
        moved = keep * weights + (1 - keep) * toward
        change = (moved - weights).abs().sum()
        weights = torch.where(done, weights, moved)
        done = done | (change < tolerance)
    return weights


def weights(
    gradients: Sequence[Sequence[Tensor]], normalize: str = "none", losses: Sequence[Tensor] | None = None
) -> Tensor:
    """Minimum-norm weights of tasks whose gradients are given per parameter.

    Args:
        gradients: for each task its gradients, in one order of the parameters.
        normalize: what the gradient of a task is divided by before solving (1e-7 is added): `none` nothing, `l2` its
            norm, `loss` its loss, `loss+` both. The weights belong to the gradients as they were given.
        losses: of the tasks, without dimensions; needed by `loss` and `loss+`.

    Returns:
        (T,), not negative, of sum 1, in float32 or, for such gradients, float64.

    Raises:
        UsageError: no task, tasks with different parameters, an unknown normalisation, or missing losses.
    """
    if normalize not in NORMALIZATIONS:
        raise UsageError(f"unknown gradient normalisation {normalize!r}; known are {', '.join(NORMALIZATIONS)}")
    shapes = {tuple(g.shape for g in task) for task in gradients}
    if len(shapes) != 1 or shapes == {()}:
        raise UsageError("every task needs a gradient for each of the same parameters")
    if normalize.startswith("loss") and (losses is None or len(losses) != len(gradients)):
        raise UsageError(f"the normalisation {normalize!r} needs the loss of each task")
    dtype = torch.promote_types(gradients[0][0].dtype, torch.float32)
    flat = torch.stack([torch.cat([g.detach().flatten().to(dtype) for g in task]) for task in gradients])
    if normalize != "none":
        size = torch.ones_like(flat[:, 0])
        if normalize in ("l2", "loss+"):
            size = flat.norm(dim=1)
        if losses is not None and normalize.startswith("loss"):
            size = size * torch.stack([loss.detach().to(flat) for loss in losses])
        flat = flat / (size + 1e-7)[:, None]
    if len(flat) == 2:
        first = two_tasks(flat[0], flat[1])
        return torch.stack([first, 1 - first])
    return frank_wolfe(flat @ flat.T)


def combine(gradients: Sequence[Sequence[Tensor]], weights: Tensor) -> list[Tensor]:
    """The weighted sum of the tasks' gradients, per parameter."""
    return [
        sum((w.to(g) * g for w, g in zip(weights.unbind(), parameter, strict=True)), torch.zeros_like(parameter[0]))
        for parameter in zip(*gradients, strict=True)
    ]
