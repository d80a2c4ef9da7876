"""How far a verification is, how robust the model looks so far, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..intervals import clopper_pearson


class Pace:
    """Counts images entering each stage and the seconds they take there.

    Args:
        stages: names in the protocol's order.
        n: images of the whole verification.
    """

    def __init__(self, stages: Sequence[str], n: int) -> None:
        self.n, self.settled, self.before = n, 0, 0
        self._entered = dict.fromkeys(stages, 0)
        self._done = dict.fromkeys(stages, 0)
        self._seconds = dict.fromkeys(stages, 0.0)

    def enter(self, stage: str, images: int) -> None:
        """So many images of a new block have reached a stage."""
        self._entered[stage] += images

    @contextmanager
    def timing(self, stage: str, images: int) -> Iterator[None]:
        """The block of code attacks so many images."""
        begin = time.monotonic()
        yield
        self._seconds[stage] += time.monotonic() - begin
        self._done[stage] += images

    def seconds_left(self, seen: int) -> float | None:
        """Estimate from the stages timed so far, None before all have been; `seen` images have been looked at, `before`
        of them in an earlier session.
        """
        seen, n = seen - self.before, self.n - self.before
        if seen <= 0 or any(done == 0 for name, done in self._done.items() if self._entered[name]):
            return None
        if any(count == 0 for count in self._entered.values()) and seen < n:
            return None
        left = 0.0
        for name, entered in self._entered.items():
            if self._done[name]:
                expected = entered / seen * n - self._done[name]
                left += max(0.0, expected) * self._seconds[name] / self._done[name]
        return left

    def note(self, seen: int, standing: int) -> str:
        """`robust ≤ 41.0 % (36–46), 3 min left`: of the images looked at, those no attack has broken so far."""
        if not seen:
            return ""
        low, high = clopper_pearson(standing, seen)
        text = f"robust ≤ {100 * standing / seen:.1f} % ({100 * low:.0f}–{100 * high:.0f})"
        left = self.seconds_left(seen)
        if left is not None and left >= 1:
            text += f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
        return text
