"""Targeted FAB: the smallest perturbation that crosses a class boundary (Croce & Hein, ICML 2020).

Each step linearises the decision boundary and projects both the iterate and the clean image onto it inside [0, 1].
All targets of an image approach side by side; an image is done when a misclassified point lies inside the ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses
from .apgd import first_broken
from .result import AttackResult, Keys, Logits, frozen, input_gradient, like
from .threat import Threat

TINY, FAR = 1e-30, 1e30
ROUNDS = 40
RESIDUAL = 1e-6


@dataclass(frozen=True)
class FABT:
    """Targeted FAB: classes of rank 2 to `targets` + 1, no random start.

    Attributes:
        targets: number of classes to aim at.
        steps: steps towards each of them.
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
    weight, gap = normal.abs(), torch.linalg.vecdot(normal, points) - offset
    return _project(points - 0.5, weight, weight.sum(1), torch.sign(normal), gap, norm)[0]


def _project(
    centred: Tensor, weight: Tensor, total: Tensor, sign: Tensor, gap: Tensor, norm: str
) -> tuple[Tensor, Tensor]:
    """`project` of points centred + 0.5 onto planes with normals weight · sign from which they are gap away.

    Args:
        total: sums of the weights, (N,).

    Returns:
        Displacements (N, D) and their sizes (N,).
    """
    rising = sign * torch.where(gap >= 0, -1.0, 1.0).to(sign.dtype)[:, None]
    room = torch.addcmul(centred.new_tensor(0.5), rising, centred, value=-1)
    need, rows = gap.abs(), torch.arange(len(gap), device=gap.device)
    level = need / (total if norm == "linf" else torch.linalg.vecdot(weight, weight)).clamp_min(TINY)
    w, free, at = weight, room, level
    for _ in range(ROUNDS):
        speed = w * at[:, None] if norm == "l2" else at[:, None]
        moved = torch.minimum(free, speed)
        missing = need[rows] - torch.linalg.vecdot(w, moved)
        short = (missing > RESIDUAL * need[rows]) & (at < FAR)
        count = int(short.sum())
        if not count:
            break
        if 2 * count < len(rows):
            rows, w, free, missing, at = rows[short], w[short], free[short], missing[short], at[short]
            speed = w * at[:, None] if norm == "l2" else at[:, None]
        loose = torch.gt(free, speed, out=torch.empty_like(free))
        slope = torch.linalg.vecdot(w * w if norm == "l2" else w, loose)
        # Without slope every coordinate has gone as far as it can.
        at = torch.where(slope > 0, at + missing.clamp_min(0) / slope.clamp_min(TINY), FAR)
        level = level.index_copy(0, rows, at)
    if len(rows) < len(room):
        moved = torch.minimum(room, weight * level[:, None] if norm == "l2" else level[:, None])
    moved = moved.mul_(rising)
    return moved, sizes(moved, norm)


def sizes(delta: Tensor, norm: str) -> Tensor:
    """Norms of displacements (N, D), (N,)."""
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, D) in the order of memory, without a copy."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return (x.permute(0, 2, 3, 1) if channels_last else x).reshape(len(x), -1)


def _images(flat: Tensor, x: Tensor) -> Tensor:
    """The inverse of `_flat` for rows of images like x."""
    _, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return flat.view(-1, height, width, channels).permute(0, 3, 1, 2)
    return flat.view(-1, channels, height, width)


def approach(
    model: Logits, x: Tensor, y: Tensor, target: Tensor, threat: Threat, config: FABT, image: Tensor
) -> tuple[Tensor, Tensor, int, int]:
    """R runs of FAB towards classes `target` from clean images x (R, C, H, W), image by image (see `apgd.ascend`).

    Returns:
        The misclassified image inside the ball (the clean one if none) and its step, -1 if none; forward and backward
        passes.
    """
    found, step = x.clone(), torch.full_like(y, -1)
    left, clean = torch.arange(len(x), device=x.device), _flat(x)
    centred, delta = clean - 0.5, torch.zeros_like(clean)
    z, forwards, backwards = clean, 0, 0
    for index in range(config.steps):
        if not len(left):
            break
        own, other = y[left], target[left]

        def gap(images: Tensor, own: Tensor = own, other: Tensor = other) -> Tensor:
            return losses.targeted_margin(model(images), own, other)

        gradient, value = input_gradient(gap, _images(z, x))
        normal, value = losses.finite(_flat(gradient)), losses.finite(value)
        weight, sign = normal.abs(), torch.sign(normal)
        total, beyond = weight.sum(1), value - torch.linalg.vecdot(normal, delta)
        from_z, near = _project(z - 0.5, weight, total, sign, value, threat.norm)
        from_clean, far = _project(centred, weight, total, sign, beyond, threat.norm)
        near, far = near.clamp_min(1e-8), far.clamp_min(1e-8)
        alpha = (near / (near + far)).clamp(0, config.alpha_max)[:, None]
        from_z, from_clean = torch.add(z, from_z, alpha=config.eta), torch.add(clean, from_clean, alpha=config.eta)
        z = torch.lerp(from_z, from_clean, alpha).clamp_(0, 1)
        with torch.no_grad():
            wrong = model(_images(z, x)).argmax(1) != own
        forwards, backwards = forwards + 2 * len(left), backwards + len(left)
        delta = z - clean
        inside = wrong & (sizes(delta, threat.norm) <= (threat.eps[left] if threat.per_image else threat.eps))
        kept = torch.where(wrong, config.beta, 1.0).to(z.dtype)[:, None]
        if bool(inside.any()):
            found[left[inside]], step[left[inside]] = _images(z[inside], x), index + 1
            going = ~torch.isin(image[left], image[left[inside]])
            left, clean, centred, delta, kept = (part[going] for part in (left, clean, centred, delta, kept))
        z = delta.mul_(kept) + clean
    return found, step, forwards, backwards


def fab_t(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: FABT, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); broken only where the distance is at most ε."""
    with frozen(model):
        with torch.no_grad():
            logits = model(x)
        targets = losses.ranked_targets(logits, y, config.targets)
        wrong, ranks = logits.argmax(1) != y, targets.shape[1]
        right = torch.nonzero(~wrong)[:, 0]
        image = right.repeat_interleave(ranks)
        rows = like(x[image], x)
        found, steps, forwards, backwards = approach(
            model, rows, y[image], targets[right].reshape(-1), threat.take(image), config, image
        )
    x_adv, step = x.clone(), torch.where(wrong, 0, -1)
    if len(right):
        chosen, at = first_broken(steps, ranks)
        x_adv[right], step[right] = found[chosen], at
    return AttackResult(x_adv, step >= 0, step, len(x) + forwards, backwards)
