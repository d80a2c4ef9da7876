"""Intervals: what scipy says, and the laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rnas_zoo import intervals
from rnas_zoo.errors import UsageError

samples = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda values: np.std(values) > 1e-3)


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95, 0.99])
)
def test_the_interval_of_a_proportion_is_scipys_exact_one(counts, confidence):
    k, n = counts
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert intervals.clopper_pearson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_interval_of_none_and_of_all_has_a_closed_form(n):
    bound = 0.025 ** (1 / n)
    assert intervals.clopper_pearson(0, n) == (0.0, pytest.approx(1 - bound))
    assert intervals.clopper_pearson(n, n) == (pytest.approx(bound), 1.0)


@given(samples)
def test_the_interval_of_a_mean_is_students(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert intervals.of_mean(values) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


@given(samples, samples)
def test_the_interval_of_a_difference_of_means_is_welchs(first, second):
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert intervals.welch(first, second) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


def test_equal_values_leave_no_doubt():
    assert intervals.welch([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [0.3]])
def test_one_value_has_no_interval(values):
    with pytest.raises(UsageError, match="at least two"):
        intervals.of_mean(values)
    with pytest.raises(UsageError, match="at least two"):
        intervals.welch([0.1, 0.2], values)


def test_differences_of_proportions_are_newcombes_when_the_parts_are_wilsons():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 has the interval 0.0524 to 0.3339."""
    parts = [stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((56, 70), (48, 80))]
    found = intervals.difference(56 / 70, tuple(parts[0]), 48 / 80, tuple(parts[1]))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    swapped = intervals.difference(48 / 80, tuple(parts[1]), 56 / 70, tuple(parts[0]))
    assert swapped == pytest.approx((-found[1], -found[0]))
