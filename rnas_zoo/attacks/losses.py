"""What attacks maximise, one value per image; logits (N, K), labels and targets (N,).

Sources: cross-entropy; margin (Carlini & Wagner, S&P 2017); DLR and targeted DLR (Croce & Hein, ICML 2020);
KL divergence (TRADES, Zhang et al., ICML 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GUARD = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j - z_y: positive exactly where the image is misclassified."""
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], float("-inf")).amax(1) - own


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_target - z_y."""
    return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]


def kl(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(p ‖ q) of the softmax p of the clean logits, through which no gradient flows, and q of `logits`."""
    q, p = logits.log_softmax(1), clean.detach().log_softmax(1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over z_(1) - z_(3), which no scale or shift of the logits changes.

    With two classes there is no third logit; the margin itself is returned.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    ordered = logits.sort(dim=1).values
    return margin(logits, y) / (ordered[:, -1] - ordered[:, -3] + GUARD)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(z_target - z_y) over z_(1) - (z_(3) + z_(4)) / 2; with three classes over z_(1) - z_(3), with two as it is."""
    gap = targeted_margin(logits, y, target)
    classes = logits.shape[1]
    if classes < 3:
        return gap
    ordered = logits.sort(dim=1).values
    third = ordered[:, -3] if classes == 3 else 0.5 * (ordered[:, -3] + ordered[:, -4])
    return gap / (ordered[:, -1] - third + GUARD)


def ranked_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The `count` strongest classes other than y, strongest first: (N, min(count, K - 1))."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def finite(values: Tensor) -> Tensor:
    """Gradients or losses with non-finite entries set to 0, so that one image cannot stop an attack."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
