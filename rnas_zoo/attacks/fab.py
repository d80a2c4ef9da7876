"""Targeted FAB: the smallest perturbation that crosses a class boundary (Croce & Hein, ICML 2020).

Each step linearises the decision boundary and projects both the iterate and the clean image onto it inside [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses
from .result import AttackResult, Keys, Logits, frozen, input_gradient
from .threat import Threat

TINY = 1e-30
ROUNDS = 40
RESIDUAL = 1e-6


@dataclass(frozen=True)
class FABT:
    """Targeted FAB: classes of rank 2 to `targets` + 1, no random start.

    Attributes:
        alpha_max: largest weight of the clean image's projection.
        eta: overshoot across the boundary.
        beta: share of the perturbation kept after a success.
    """

    targets: int = 9
    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9


def project(points: Tensor, normal: Tensor, offset: Tensor, norm: str) -> Tensor:
    """Smallest displacements that bring points onto the hyperplanes <normal, z> = offset inside the box [0, 1].

    With the sign of the normal turned so that every coordinate moves against it, coordinate i moves by
    min(λ s_i, room_i), where s_i is 1 (L∞) or |normal_i| (L2). The distance covered is concave and increasing in λ, so
    Newton's method from λ = 0 climbs to the solution without overshooting. Where the box does not reach the plane,
    every coordinate moves as far as it can.

    Args:
        points, normal: (N, D). offset: (N,). norm: `linf` or `l2`.

    Returns:
        Displacements (N, D).
    """
    gap = (normal * points).sum(1) - offset
    normal = normal * torch.where(gap >= 0, 1.0, -1.0).to(normal.dtype)[:, None]
    need, weight = gap.abs(), normal.abs()
    room = torch.where(normal > 0, points, 1 - points)
    speed = torch.ones_like(weight) if norm == "linf" else weight
    reach = (weight * room).sum(1)
    level = torch.zeros_like(need)
    for _ in range(ROUNDS):
        free = room > level[:, None] * speed
        covered = (weight * torch.minimum(room, level[:, None] * speed)).sum(1)
        if bool(((need - covered <= RESIDUAL * need) | (need >= reach)).all()):
            break
        slope = (weight * speed * free).sum(1)
        level = level + torch.where(slope > 0, (need - covered).clamp_min(0) / slope.clamp_min(TINY), 0)
    full = (need >= reach)[:, None]
    distance = torch.where(full & (weight > 0), room, torch.minimum(room, level[:, None] * speed))
    return -torch.sign(normal) * distance


def sizes(delta: Tensor, norm: str) -> Tensor:
    """Norms of displacements (N, D), (N,)."""
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def approach(
    model: Logits, x: Tensor, y: Tensor, target: Tensor, norm: str, config: FABT
) -> tuple[Tensor, Tensor, Tensor]:
    """One run of FAB towards class `target` from the clean images.

    Returns:
        The nearest misclassified image found (the clean one if none), its distance (inf if none), and its step.
    """
    shape, clean = x.shape, x.flatten(1)
    nearest, distance = clean.clone(), torch.full_like(clean[:, 0], float("inf"))
    step = torch.full_like(y, -1)
    z = clean.clone()

    def gap(images: Tensor) -> Tensor:
        logits = model(images)
        return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]

    for index in range(config.steps):
        gradient, values = input_gradient(gap, z.view(shape))
        normal, value = losses.finite(gradient).flatten(1), losses.finite(values)
        offset = (normal * z).sum(1) - value
        moves = project(torch.cat([z, clean]), normal.repeat(2, 1), offset.repeat(2), norm)
        from_z, from_clean = moves.chunk(2)
        near, far = sizes(from_z, norm).clamp_min(1e-8), sizes(from_clean, norm).clamp_min(1e-8)
        alpha = (near / (near + far)).clamp(0, config.alpha_max)[:, None]
        z = ((1 - alpha) * (z + config.eta * from_z) + alpha * (clean + config.eta * from_clean)).clamp(0, 1)
        with torch.no_grad():
            wrong = model(z.view(shape)).argmax(1) != y
        size = sizes(z - clean, norm)
        closer = wrong & (size < distance)
        nearest = torch.where(closer[:, None], z, nearest)
        distance, step = torch.where(closer, size, distance), torch.where(closer, index + 1, step)
        z = torch.where(wrong[:, None], clean + config.beta * (z - clean), z)
    return nearest.view(shape), distance, step


def fab_t(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: FABT, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); broken only where the distance is at most ε."""
    x_adv, step = x.clone(), torch.full_like(y, -1)
    with frozen(model):
        with torch.no_grad():
            logits = model(x)
        targets = losses.ranked_targets(logits, y, config.targets)
        wrong = logits.argmax(1) != y
        step = torch.where(wrong, 0, step)
        forwards, backwards = len(x), 0
        for rank in range(targets.shape[1]):
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            found, distance, at = approach(model, x[left], y[left], targets[left, rank], threat.norm, config)
            forwards += 2 * config.steps * len(left)
            backwards += config.steps * len(left)
            inside = distance <= threat.eps
            x_adv[left] = torch.where(inside[:, None, None, None], found, x_adv[left])
            step[left] = torch.where(inside, at + rank * config.steps, step[left])
    return AttackResult(x_adv, step >= 0, step, forwards, backwards)
