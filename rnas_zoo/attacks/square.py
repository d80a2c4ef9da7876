"""Square Attack under L∞ (Andriushchenko et al., ECCV 2020): random search with square patches, scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import random
from ..errors import UsageError
from . import losses
from .result import AttackResult, Keys, Logits
from .threat import Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 256


@dataclass(frozen=True)
class Square:
    """Square Attack as AutoAttack runs it: the schedule of patch sizes is not rescaled to the number of queries."""

    queries: int = 5000
    p_init: float = 0.8


def patch_side(query: int, p_init: float, height: int, width: int) -> int:
    """Side of the square at a query (0-based): its share of the image halves at fixed queries."""
    share = p_init / 2 ** sum(query > bound for bound in HALVINGS)
    return max(round(math.sqrt(share * height * width)), 1)


def square(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: Square, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); uses logits only.

    Raises:
        UsageError: a norm other than L∞.
    """
    if threat.norm != "linf":
        raise UsageError("the Square attack here works under linf only; use apgd under l2")
    n, channels, height, width = x.shape
    key: dict[str, Any] = {"seed": keys.seed, "positions": keys.positions}
    stripes = random.signs((channels, 1, width), stream="square-start", draw=0, **key).to(x.dtype)
    x_best = (x + threat.eps * stripes).clamp(0, 1)
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    with torch.no_grad():
        value = losses.margin(model(x_best), y)
        step, forwards = torch.where(value > 0, 0, -1), n
        for query in range(config.queries):
            at = query % BLOCK
            if at == 0:
                block = query // BLOCK
                places = random.uniform((BLOCK, 2), stream="square-place", draw=block, **key)
                signs = random.signs((BLOCK, channels), stream="square-sign", draw=block, **key).to(x.dtype)
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            side = min(patch_side(query, config.p_init, height, width), height, width)
            corner = (places[left, at] * torch.tensor([height - side, width - side], device=x.device)).long()
            top, start = corner[:, :1], corner[:, 1:]
            inside = ((rows >= top) & (rows < top + side))[:, None, :, None]
            inside = inside & ((columns >= start) & (columns < start + side))[:, None, None, :]
            clean, kept = x[left], x_best[left]
            moved = kept + inside * (2 * threat.eps * signs[left, at])[:, :, None, None]
            moved = threat.project(moved, clean)
            new = losses.margin(model(moved), y[left])
            forwards += len(left)
            better = (new > value[left]) | (new > 0)
            x_best[left] = torch.where(better[:, None, None, None], moved, kept)
            value[left] = torch.where(better, new, value[left])
            step[left] = torch.where(new > 0, query + 1, step[left])
    return AttackResult(x_best, step >= 0, step, forwards, 0)
