"""Confidence intervals of proportions, of means of a few repetitions, and of differences between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from .errors import UsageError

Interval = tuple[float, float]


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact two-sided interval for a proportion."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def of_mean(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t-interval for the mean of normally distributed values.

    Raises:
        UsageError: fewer than two values.
    """
    _several(values)
    half = _quantile(len(values) - 1, confidence) * math.sqrt(variance(values) / len(values))
    return fmean(values) - half, fmean(values) + half


def welch(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval for mean(first) - mean(second) of independent normal values with variances of their own (Welch 1947).

    Raises:
        UsageError: fewer than two values on a side.
    """
    _several(first)
    _several(second)
    parts = [variance(values) / len(values) for values in (first, second)]
    spread, difference = sum(parts), fmean(first) - fmean(second)
    if not spread:
        return difference, difference
    freedom = spread**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
    half = _quantile(freedom, confidence) * math.sqrt(spread)
    return difference - half, difference + half


def difference(first: float, around_first: Interval, second: float, around_second: Interval) -> Interval:
    """Interval for first - second from the intervals of both (MOVER: Zou and Donner, Statistics in Medicine 2008)."""
    (l1, u1), (l2, u2) = around_first, around_second
    return (
        first - second - math.hypot(first - l1, u2 - second),
        first - second + math.hypot(u1 - first, second - l2),
    )


def _several(values: Sequence[float]) -> None:
    if len(values) < 2:
        raise UsageError(f"an interval of a mean needs at least two values, got {len(values)}")


def _quantile(freedom: float, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, freedom))
