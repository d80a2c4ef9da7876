"""Budgets of time and of passes. A time budget stops work resumably; it never bends a schedule."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from statistics import median

from ..errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_THOUSANDS = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9}


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


def parse_count(text: str) -> int:
    """The whole number in `1000000`, `1_000_000`, `1e6`, `2.5M`, `800k` or `1.5G`.

    Raises:
        UsageError: anything else, and numbers that are not whole or not positive.
    """
    parts = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?)(?:[eE]\+?(\d{1,2})|([kKMG]))?", text.strip(), re.ASCII)
    if not parts:
        raise UsageError(f"cannot read the count {text!r}; write 1000000, 1e6, 2.5M or 800k")
    count = Decimal(parts[1]).scaleb(int(parts[2] or 0) + _THOUSANDS[parts[3] or ""])
    if count != int(count):
        raise UsageError(f"the count {text!r} must be a whole number")
    if count <= 0:
        raise UsageError(f"the count {text!r} must be positive")
    return int(count)


@dataclass
class PassCounter:
    """Passes of images through a network: a batch of n images is n passes, forward and backward counted apart."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward

    def add(self, forward: int = 0, backward: int = 0) -> None:
        self.forward += forward
        self.backward += backward

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.forward, self.backward = state["forward"], state["backward"]


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
    """Steps that fit into `use` of the given seconds, and never fewer than `at_least`.

    Under torchrun as many as fit on the slowest process, so that all plan the same.
    """
    from . import distribution  # which needs torch; reading a duration does not

    return -distribution.largest(-max(at_least, int(seconds * use / max(per_step, 1e-9))))
