"""Durations, budgets, and how many steps fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.engine import budget
from rnas_zoo.engine.budget import TimeBudget, fitting_steps, parse_duration, seconds_per_step
from rnas_zoo.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("0.5", 0.5),
        ("10m", 600),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("2h0m5s", 7205),
        ("1m1m", 120),
        ("  3m ", 180),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_parts_of_a_duration_add_up(hours, minutes, seconds):
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-5", "-5m", "5 m", "5d", "10m30", "1e3", "five", "nan", "inf", ".5h", "1.h"]
)
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(UsageError, match="write 90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "0s", "0h0m", "0.0m"])
def test_a_duration_of_nothing_is_refused(text):
    with pytest.raises(UsageError, match="must be positive"):
        parse_duration(text)


def test_a_budget_runs_out_by_the_monotonic_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    given_start = TimeBudget(30.0, start=95.0)
    assert given_start.left == 25.0
    now[0] = 125.0
    assert given_start.left == 0.0
    now[0] = 126.0
    assert given_start.left == -1.0


def test_a_budget_starts_when_it_is_made():
    assert 59.0 < TimeBudget(60.0).left <= 60.0


def test_speed_is_the_median_of_the_probes_after_a_warm_up(monkeypatch):
    now, calls = [0.0], []
    durations = iter([50.0, 2.0, 1.0, 9.0, 3.0])  # the first is the warm-up

    def step(index: int) -> None:
        calls.append(index)
        now[0] += next(durations)

    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
    assert seconds_per_step(step) == 2.5
    assert calls == [0, 0, 1, 2, 3]


@given(
    per_step=st.floats(1e-4, 100),
    seconds=st.floats(0, 1e5),
    at_least=st.integers(1, 50),
    use=st.floats(0.1, 1),
)
def test_as_many_steps_as_fit_and_no_more(per_step, seconds, at_least, use):
    steps = fitting_steps(per_step, seconds, at_least=at_least, use=use)
    assert steps >= at_least
    assert (steps + 1) * per_step > seconds * use * (1 - 1e-9)
    if steps > at_least:
        assert steps * per_step <= seconds * use * (1 + 1e-9)


def test_steps_that_take_no_time_are_finite_in_number():
    assert fitting_steps(0.0, 1.0) == 900_000_000
    assert fitting_steps(1.0, -5.0) == 10
