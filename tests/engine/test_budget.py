"""Durations, counts, budgets, and how many steps fit."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.engine import budget
from rnas_zoo.engine.budget import (
    PassCounter,
    TimeBudget,
    fitting_steps,
    parse_count,
    parse_duration,
    seconds_per_step,
)
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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1000000", 10**6),
        ("1_000_000", 10**6),
        ("1e6", 10**6),
        ("1.5E+3", 1500),
        ("2.5M", 2_500_000),
        ("800k", 800_000),
        ("800K", 800_000),
        ("1.5G", 1_500_000_000),
        (" 7 ", 7),
        ("7.0", 7),
        ("0.1k", 100),
        ("1e0", 1),
    ],
)
def test_counts_are_read(text, count):
    assert parse_count(text) == count


@given(st.integers(1, 10**12), st.sampled_from(["", "k", "M", "G", "e2", "e9"]), st.integers(0, 4))
def test_counts_are_exact_or_refused(digits, unit, places):
    text = f"{digits // 10**places}.{digits % 10**places:0{places}d}{unit}" if places else f"{digits}{unit}"
    size = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "e2": 100, "e9": 10**9}[unit]
    exact = Fraction(digits, 10**places) * size
    if exact.denominator == 1:
        assert parse_count(text) == exact
    else:
        with pytest.raises(UsageError, match="whole number"):
            parse_count(text)


@pytest.mark.parametrize(
    "text",
    ["", "M", "-5", "1e-3", "1e", "1e999", "5 M", "5m", "1,000", "1k5", "five", "nan", "inf", ".5M", "1._0", "٣"],
)
def test_what_is_no_count_is_refused_with_examples(text):
    with pytest.raises(UsageError, match=r"write 1000000, 1e6, 2\.5M or 800k"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "cause"), [("0", "positive"), ("0.0k", "positive"), ("2.5", "whole"), ("1.2345k", "whole")]
)
def test_counts_are_whole_and_positive(text, cause):
    with pytest.raises(UsageError, match=f"must be .*{cause}"):
        parse_count(text)


def test_passes_are_counted_forward_and_backward():
    counter = PassCounter()
    counter.add(forward=128)
    counter.add(forward=128, backward=64)
    assert (counter.forward, counter.backward, counter.total) == (256, 64, 320)
    again = PassCounter()
    again.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    assert again == counter
    again.add(backward=1)
    assert (again.total, counter.total) == (321, 320)


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
