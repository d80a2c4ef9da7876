"""Time budgets. A budget stops work resumably; it never bends a schedule."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from ..errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in `90`, `90s`, `10m`, `1.5h` or `1h30m`.

    Raises:
        UsageError: anything else, and durations that are not positive.
    """
    parts = re.fullmatch(r"((?:\d+(?:\.\d+)?[smh])+)|(\d+(?:\.\d+)?)", text.strip())
    if not parts:
        raise UsageError(f"cannot read the duration {text!r}; write 90s, 10m or 1h30m")
    seconds = (
        float(parts[2])
        if parts[2]
        else sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([smh])", parts[1]))
    )
    if seconds <= 0:
        raise UsageError(f"the duration {text!r} must be positive")
    return seconds


@dataclass(frozen=True)
class TimeBudget:
    """Wall-clock seconds from `start` (now, unless given), in the units of `time.monotonic`."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left; negative once it is used up."""
        return self.start + self.seconds - time.monotonic()


def seconds_per_step(step: Callable[[int], object], probes: int = 4) -> float:
    """Median duration of `probes` calls `step(0..)` after one warm-up call."""
    step(0)
    durations = []
    for index in range(probes):
        begin = time.perf_counter()
        step(index)
        durations.append(time.perf_counter() - begin)
    return median(durations)


def fitting_steps(per_step: float, seconds: float, *, at_least: int = 10, use: float = 0.9) -> int:
    """Steps that fit into `use` of the given seconds, and never fewer than `at_least`."""
    return max(at_least, int(seconds * use / max(per_step, 1e-9)))
