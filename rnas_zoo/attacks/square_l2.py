"""Square Attack under L2 (Andriushchenko et al., ECCV 2020): random search that moves mass between square windows.

The schedule of sides, the windows and their budgets follow the authors' implementation; draws are keyed by image, and
images need not be square.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import random
from . import losses
from .result import WIDE, AttackResult, Keys, Logits
from .threat import Threat

if TYPE_CHECKING:
    from .square import Square


def hill(height: int, width: int) -> Tensor:
    """Sum of squares around the centre, the k-th of half-width k - 1 and height 1 / k²: (height, width) in float64."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    heights = torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** -2
    return heights.flip(0).cumsum(0).flip(0)[ring]


@cache
def profile(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """η of the paper, a hill above a valley of equal norm, and its transpose: (2, side, side), each of norm 1."""
    parts = [part / part.norm().clamp_min(1e-12) for part in (hill(side // 2, side), -hill(side - side // 2, side))]
    whole = torch.cat(parts)
    whole = whole / whole.norm()
    return torch.stack([whole, whole.T]).to(device, dtype)


def start_tiles(x: Tensor, key: dict[str, Any]) -> Tensor:
    """Perturbations tiled with η, each tile with its own orientation and, per channel, sign; five tiles a short side.

    Tiles are centred, where the authors' start, for sizes that five does not divide well, leaves a margin on one side.
    """
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    turned = random.uniform((down, across), stream="square-l2-start-turn", draw=0, **key) > 0.5
    signs = random.signs((channels, down, across), stream="square-l2-start", draw=0, **key).to(x.dtype)
    tiles = profile(side, x.dtype, x.device)[turned.long()][:, None] * signs[..., None, None]
    tiled = tiles.transpose(3, 4).reshape(n, channels, down * side, across * side)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + down * side, left : left + across * side] = tiled
    return delta


def move(delta: Tensor, eta: Tensor, windows: tuple[Tensor, Tensor], eps: Any) -> Tensor:
    """Empty the second window and refill the first with its own direction plus η, channel by channel.

    A channel's first window receives the norm that both held, and a share of what the ball still allows.

    Args:
        delta: perturbations (N, C, H, W).
        eta: signed profiles (N, C, side * side).
        windows: flat indices of the pixels of both windows, (N, side * side) each.
        eps: radius of the ball, a number or (N, 1, 1, 1).
    """
    channels = delta.shape[1]
    flat = delta.flatten(2)
    first, second = (window[:, None].expand(-1, channels, -1) for window in windows)
    held = flat.gather(2, first)
    emptied = flat.scatter(2, first, 0.0).scatter(2, second, 0.0)
    both = (flat - emptied).square().sum(2, keepdim=True)
    spare = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)[..., 0] / channels
    new = eta + held / held.norm(dim=2, keepdim=True).clamp_min(1e-12)
    new = new / new.norm(dim=2, keepdim=True).clamp_min(1e-12) * (spare + both).sqrt()
    return emptied.scatter(2, first, new.to(delta.dtype)).reshape(delta.shape)


def square_l2(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: Square, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); uses logits only, on images not yet broken."""
    from .square import BLOCK, patch_side

    x = x.detach()
    n, channels, height, width = x.shape
    key: dict[str, Any] = {"seed": keys.seed, "positions": keys.positions}
    x_best = (x + threat.radius * threat.ascent(start_tiles(x, key))).clamp(0, 1).to(x.dtype)
    with torch.no_grad():
        value = losses.margin(model(x_best), y)
        step, forwards = torch.where(value > 0, 0, -1), n
        for query in range(config.queries):
            block, at = divmod(query, BLOCK)
            if at == 0:
                places = random.uniform((BLOCK, 4), stream="square-l2-place", draw=block, **key)
                turned = random.uniform((BLOCK,), stream="square-l2-turn", draw=block, **key) > 0.5
                signs = random.signs((BLOCK, channels), stream="square-l2-sign", draw=block, **key).to(x.dtype)
            left = torch.nonzero(step < 0)[:, 0]
            if not len(left):
                break
            side = max(patch_side(query, config.p_init, height, width), 3)
            side = min(side + 1 - side % 2, height, width)
            room = torch.tensor([height - side, width - side], device=x.device)
            corners = (places[left, at].unflatten(1, (2, 2)) * room).long()
            square = torch.arange(side, device=x.device)
            inside = (square[:, None] * width + square).flatten()
            origin = corners[..., 0] * width + corners[..., 1]
            windows = (origin[:, :1] + inside, origin[:, 1:] + inside)
            eta = profile(side, x.dtype, x.device)[turned[left, at].long()].flatten(1)[:, None]
            ball, clean, kept = threat.take(left), x[left], x_best[left]
            delta = move(kept - clean, eta * signs[left, at][..., None], windows, ball.radius)
            moved = (clean + ball.radius * ball.ascent(delta)).clamp(0, 1).to(x.dtype)
            new = losses.margin(model(moved), y[left])
            forwards += len(left)
            better = (new > value[left]) | (new > 0)
            x_best[left] = torch.where(better[WIDE], moved, kept)
            value[left] = torch.where(better, new, value[left])
            step[left] = torch.where(new > 0, query + 1, step[left])
    return AttackResult(x_best, step >= 0, step, forwards, 0)
