"""Remaining time against its closed form, on a clock that the test turns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.verification import pace as module
from rnas_zoo.verification.evidence import clopper_pearson
from rnas_zoo.verification.pace import Pace


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(pace: Pace, clock: Clock, stage: str, images: int, seconds: float) -> None:
    with pace.timing(stage, images):
        clock.now += seconds


def test_nothing_is_estimated_before_every_stage_was_timed(clock):
    pace = Pace(["a", "b"], 100)
    assert pace.seconds_left(0) is None
    assert pace.seconds_left(10) is None
    pace.enter("a", 10)
    assert pace.seconds_left(10) is None
    work(pace, clock, "a", 10, 5)
    assert pace.seconds_left(10) is None, "nothing is known of b"
    pace.enter("b", 4)
    assert pace.seconds_left(10) is None, "b was reached and not timed"
    work(pace, clock, "b", 4, 8)
    assert pace.seconds_left(10) == pytest.approx(90 * 0.5 + 36 * 2)


def test_a_stage_no_image_reaches_costs_nothing_once_all_were_seen(clock):
    pace = Pace(["a", "b"], 10)
    pace.enter("a", 10)
    work(pace, clock, "a", 10, 3)
    assert pace.seconds_left(10) == 0.0


@given(
    total=st.integers(1, 40).map(lambda tens: tens * 10),
    blocks=st.integers(1, 8),
    passing=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    seconds=st.lists(st.floats(0.01, 50), min_size=4, max_size=4),
)
def test_with_constant_seconds_and_shares_the_estimate_is_what_is_left(total, blocks, passing, seconds):
    clock, n = Clock(), total * 10
    stages = [f"s{i}" for i in range(len(passing))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        pace, seen = Pace(stages, n), 0
        for _ in range(min(blocks, n // 10)):  # blocks of ten images, of which passing[i] reach stage i
            seen += 10
            for stage, count, each in zip(stages, passing, seconds, strict=False):
                pace.enter(stage, count)
                work(pace, clock, stage, count, count * each)
        left = (n - seen) / 10 * sum(count * each for count, each in zip(passing, seconds, strict=False))
        assert pace.seconds_left(seen) == pytest.approx(left, rel=1e-9, abs=1e-6)


def test_an_estimate_is_never_negative(clock):
    pace = Pace(["a"], 10)
    pace.enter("a", 10)
    work(pace, clock, "a", 10, 1)
    work(pace, clock, "a", 5, 1)  # more than entered
    assert pace.seconds_left(10) == 0.0


def test_work_that_fails_is_not_counted(clock):
    pace = Pace(["a"], 10)
    pace.enter("a", 5)
    with pytest.raises(ZeroDivisionError), pace.timing("a", 5):
        clock.now /= 0
    assert pace.seconds_left(5) is None


@pytest.mark.parametrize(
    ("each", "text"),
    [(0.005, ""), (0.5, ", 45 s left"), (0.98, ", 88 s left"), (1.0, ", 2 min left"), (60, ", 90 min left")],
)
def test_notes_state_a_bound_its_interval_and_the_time(clock, each, text):
    pace = Pace(["a"], 100)
    assert pace.note(0, 0) == ""
    pace.enter("a", 10)
    work(pace, clock, "a", 10, 10 * each)
    low, high = clopper_pearson(4, 10)
    assert pace.note(10, 4) == f"robust ≤ 40.0 % ({100 * low:.0f}–{100 * high:.0f}){text}"
    assert re.fullmatch(r"robust ≤ 40\.0 % \(12–74\).*", pace.note(10, 4)), "the textbook interval of 4 in 10"
