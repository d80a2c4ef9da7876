"""Schedules: functions of the fraction of training that is done, so that a budget never bends them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import UsageError


def one_cycle(fraction: float, peak_at: float) -> float:
    """Factor on the peak learning rate: linear from 0 to 1 at `peak_at`, then a cosine to 0."""
    if fraction < peak_at:
        return fraction / peak_at
    return 0.5 * (1 + math.cos(math.pi * (fraction - peak_at) / (1 - peak_at)))


def cosine(fraction: float, floor: float = 0.0) -> float:
    """Factor on the learning rate: a cosine from 1 to `floor`."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))


def steps(fraction: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """Factor on the learning rate: `factor` to the power of the milestones passed."""
    return factor ** sum(fraction >= milestone for milestone in milestones)


def ramp(fraction: float, over: float) -> float:
    """Linear from 0 to 1 over the first part `over`, then 1."""
    return 1.0 if over <= 0 else min(1.0, fraction / over)


def factor_of(schedule: str, fraction: float, peak_at: float, milestones: Sequence[float]) -> float:
    """Factor on the learning rate by the schedule's name.

    Raises:
        UsageError: neither `one_cycle`, `cosine` nor `steps`.
    """
    if schedule == "one_cycle":
        return one_cycle(fraction, peak_at)
    if schedule == "cosine":
        return cosine(fraction)
    if schedule == "steps":
        return steps(fraction, milestones)
    raise UsageError(f"unknown schedule {schedule!r}; use one_cycle, cosine or steps")
