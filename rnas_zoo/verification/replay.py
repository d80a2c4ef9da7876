"""Stored adversarial images shown to the network again: what breaks must not be called robust. Nothing is attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import data
from ..attacks.threat import parse_eps
from . import evidence

ROUNDING = 1e-6  # of a distance, in pixels of [0, 1]


def replay(
    images: np.ndarray,
    twins: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    runs: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, np.ndarray]],
) -> list[str]:
    """Runs that call images robust although their stored adversarial twins break them, in words.

    A twin counts for a run if it lies in the run's ball around its image, and is broken if another class than its label
    leads by more than 1e-4. As with a new attack, more than `evidence.limit` such images refute a run. Only the runs on
    the weights by the strongest protocol there is are asked: a weaker one may honestly have missed what broke an image.

    Args:
        images, twins: uint8 (K, H, W, 3); labels: (K,); logits: the network's for the twins, (K, classes).
        runs, verdicts: evidence records and their tables.
    """
    hashes = [data.pixel_hash(image) for image in images]
    broken = _margins(logits, labels) < -evidence.CLEAN_MARGIN
    apart = (twins.astype(np.float64) - images).reshape(len(images), -1) / 255
    problems = []
    own = [(run, table) for run, table in zip(runs, verdicts, strict=True) if _is_about_weights(run)]
    strongest = max((evidence.STRENGTH.get(run["protocol"], -1) for run, _ in own), default=-1)
    for run, table in own:
        if evidence.STRENGTH.get(run["protocol"], -1) < strongest:
            continue
        rows = {str(name): row for row, name in enumerate(table["pixels_sha256"])}
        known = np.array([rows.get(name, -1) for name in hashes])
        claimed = (known >= 0) & evidence.standing(table)[known]
        size = np.abs(apart).max(1) if run["norm"] == "linf" else np.linalg.norm(apart, axis=1)
        false = claimed & broken & (size <= parse_eps(run["eps"]) + ROUNDING)
        count, allowed = int(false.sum()), evidence.limit(len(images))
        if count > allowed:
            positions = ", ".join(str(place) for place in table["position"][known[false]])
            problems.append(
                f"{run['protocol']} {run['norm']} {run['eps']}: {count} images claimed robust are broken by their "
                f"twins in check.npz, at most {allowed} of {len(images)} may be (images {positions})"
            )
    return problems


def _is_about_weights(run: dict[str, Any]) -> bool:
    return run["subject"]["kind"] == "torch" and not run.get("preprocessing") and not run.get("source")


def _margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit of the label minus the largest other one, (K,); those that are not finite break nothing."""
    rows, others = np.arange(len(labels)), logits.astype(np.float64).copy()
    others[rows, labels] = -np.inf
    margins = logits[rows, labels] - others.max(1)
    return np.where(np.isfinite(logits).all(1), margins, np.inf)
