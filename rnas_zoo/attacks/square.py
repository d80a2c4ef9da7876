"""Square Attack (Andriushchenko et al., ECCV 2020): random search with square patches, scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import random
from . import losses
from .result import AttackResult, Keys, Logits, like
from .threat import Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 256


@dataclass(frozen=True)
class Square:
    """Square Attack as AutoAttack runs it: the schedule of patch sizes is not rescaled to the number of queries.

    Attributes:
        queries: forward passes per image after the first.
        p_init: share of the image that the first squares cover.
    """

    queries: int = 5000
    p_init: float = 0.8


def patch_side(query: int, p_init: float, height: int, width: int) -> int:
    """Side of the square at a query (0-based): its share of the image halves at fixed queries."""
    share = p_init / 2 ** sum(query > bound for bound in HALVINGS)
    return max(round(math.sqrt(share * height * width)), 1)


def square(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: Square, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); uses logits only.

    Under L∞ a square of an image lies at one end of the ball or the other, so a proposal is written into the current
    images in place and taken back where it did not help; nothing but the squares is touched.
    """
    if threat.norm == "l2":
        from .square_l2 import square_l2

        return square_l2(model, x, y, threat, config, keys)
    n, channels, height, width = x.shape
    key: dict[str, Any] = {"seed": keys.seed, "positions": keys.positions}
    stripes = random.signs((channels, 1, width), stream="square-start", draw=0, **key).to(x.dtype)
    low, high = (x - threat.radius).clamp_min(0), (x + threat.radius).clamp_max(1)
    ends = torch.stack([low.contiguous(), high.contiguous()], 1).flatten(1)
    current = (x + threat.radius * stripes).clamp(0, 1).contiguous().flatten(1)
    x_adv, step, forwards, left = current.clone(), torch.full_like(y, -1), n, torch.arange(n, device=x.device)

    def margin() -> Tensor:
        return losses.margin(model(current.view(-1, channels, height, width)), y[left])

    with torch.no_grad():
        value = margin()
        side = 0
        for query in range(config.queries + 1):
            over = value > 0
            dropped = bool(over.any())
            if dropped:
                x_adv[left[over]], step[left[over]] = current[over], query
                current, ends, value, left = (part[~over] for part in (current, ends, value, left))
            if not len(left) or query == config.queries:
                break
            block, at = divmod(query, BLOCK)
            if at == 0:
                places = random.uniform((BLOCK, 2), stream="square-place", draw=block, **key)
                signs = random.signs((BLOCK, channels), stream="square-sign", draw=block, **key)
            if at == 0 or dropped:
                corners, upper = places[left], (signs[left] > 0).long() * (channels * height * width)
            wanted = min(patch_side(query, config.p_init, height, width), height, width)
            if wanted != side:
                side, patch = wanted, _square(wanted, channels, height, width, x.device)
                room = torch.tensor([height - side, width - side], device=x.device)
            corner = (corners[:, at] * room).long()
            pixels = patch + (corner[:, :1] * width + corner[:, 1:])
            before = current.gather(1, pixels)
            after = ends.gather(1, pixels + upper[:, at].repeat_interleave(side * side, 1))
            current.scatter_(1, pixels, after)
            new = margin()
            forwards += len(left)
            better = (new > value) | (new > 0)
            current.scatter_(1, pixels, torch.where(better[:, None], after, before))
            value = torch.where(better, new, value)
    x_adv[left] = current
    return AttackResult(like(x_adv.view_as(x.contiguous()), x), step >= 0, step, forwards, 0)


def _square(side: int, channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Places of a square's pixels in a flat image, the square in the upper left corner, (1, channels · side²)."""
    rows, columns = torch.arange(side, device=device), torch.arange(side, device=device)
    plane = rows[:, None] * width + columns
    return (torch.arange(channels, device=device)[:, None] * (height * width) + plane.flatten()).view(1, -1)
