"""Schedules in closed form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.errors import UsageError
from rnas_zoo.training.schedule import cosine, factor_of, one_cycle, ramp, steps

FRACTION = st.floats(0, 1)


@pytest.mark.parametrize(
    ("fraction", "value"),
    [
        (0.0, 0.0),
        (0.1, 0.25),
        (0.2, 0.5),
        (0.4, 1.0),
        (0.55, 0.5 + math.sqrt(2) / 4),
        (0.7, 0.5),
        (0.8, 0.25),
        (1.0, 0.0),
    ],
)
def test_one_cycle_rises_in_a_line_and_falls_in_a_cosine(fraction, value):
    assert one_cycle(fraction, 0.4) == pytest.approx(value, abs=1e-12)


@given(FRACTION, st.floats(0, 0.99))
def test_one_cycle_lies_between_0_and_1_and_peaks_once(fraction, peak_at):
    value = one_cycle(fraction, peak_at)
    assert 0 <= value <= 1
    assert one_cycle(peak_at, peak_at) == 1
    nearer = (fraction + peak_at) / 2
    assert one_cycle(nearer, peak_at) >= value - 1e-12


@pytest.mark.parametrize(
    ("fraction", "floor", "value"),
    [(0.0, 0.04, 1.0), (0.5, 0.04, 0.52), (1.0, 0.04, 0.04), (1 / 3, 0.0, 0.75), (1 / 2, 0.0, 0.5), (1.0, 0.0, 0.0)],
)
def test_cosine_falls_from_1_to_its_floor(fraction, floor, value):
    assert cosine(fraction, floor) == pytest.approx(value, abs=1e-12)


@given(FRACTION, FRACTION, FRACTION)
def test_cosine_never_rises(a, b, floor):
    assert cosine(max(a, b), floor) <= cosine(min(a, b), floor) + 1e-12
    assert floor - 1e-12 <= cosine(a, floor) <= 1


@pytest.mark.parametrize(
    ("fraction", "over", "value"),
    [(0.0, 0.5, 0.0), (0.25, 0.5, 0.5), (0.5, 0.5, 1.0), (0.9, 0.5, 1.0), (0.0, 0.0, 1.0)],
)
def test_ramp_rises_in_a_line_and_stays(fraction, over, value):
    assert ramp(fraction, over) == value


@pytest.mark.parametrize(
    ("fraction", "milestones", "value"),
    [
        (0.0, (0.5, 0.75), 1.0),
        (0.499, (0.5, 0.75), 1.0),
        (0.5, (0.5, 0.75), 0.1),
        (0.8, (0.75, 0.5), 0.01),
        (0.9, (), 1.0),
        (0.0, (0.0,), 0.1),
    ],
)
def test_steps_fall_to_a_tenth_at_each_milestone(fraction, milestones, value):
    assert steps(fraction, milestones) == pytest.approx(value)
    assert steps(fraction, milestones, 0.5) == pytest.approx(0.5 ** round(-math.log10(value)))


def test_a_schedule_is_known_by_its_name():
    assert factor_of("one_cycle", 0.1, 0.4, ()) == one_cycle(0.1, 0.4)
    assert factor_of("cosine", 0.1, 0.4, ()) == cosine(0.1)
    assert factor_of("steps", 0.6, 0.4, (0.5,)) == steps(0.6, (0.5,))
    with pytest.raises(UsageError, match="unknown schedule 'linear'; use one_cycle, cosine or steps"):
        factor_of("linear", 0.1, 0.4, ())
