"""Catastrophic overfitting is noticed at once, and nothing else is taken for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.engine.guard import Guard, GuardConfig
from rnas_zoo.errors import CheckFailedError, UsageError

SHARES = st.floats(0, 1)
FOREVER = GuardConfig(rollbacks_max=10**6)


def verdicts(trace, config: GuardConfig = FOREVER) -> list[str]:
    guard = Guard(config)
    return [guard.check(step, weak, strong) for step, (weak, strong) in enumerate(trace)]


def by_hand(trace, config: GuardConfig) -> list[str]:
    """Each verdict from the whole trace up to it."""
    found = []
    for step, (weak, strong) in enumerate(trace):
        weak_best, best = max(trace[: step + 1], key=lambda pair: pair[1])
        collapsed = strong < config.fall * best and best >= config.learned
        collapsed = collapsed and (weak - strong) - (weak_best - best) >= config.widening
        found.append("rollback" if collapsed else "keep")
    return found


@given(
    st.lists(st.tuples(SHARES, st.floats(0.01, 1)), max_size=30),
    st.builds(GuardConfig, st.floats(0.1, 0.9), st.floats(0.05, 0.6), st.floats(0.01, 0.5), st.just(10**6)),
)
def test_verdicts_depend_on_the_best_so_far(trace, config):
    assert verdicts(trace, config) == by_hand(trace, config)


@st.composite
def healthy(draw) -> list[tuple[float, float]]:
    """Both accuracies rise from chance, with the noise of a small batch; the gap between them stays below 0.24."""
    checks = draw(st.integers(2, 40))
    last = draw(st.floats(0.15, 0.7))
    trace = []
    for step in range(checks):
        strong = 0.1 + (last - 0.1) * step / (checks - 1) + draw(st.floats(-0.1, 0.1))
        trace.append((min(1.0, max(0.0, strong) + draw(st.floats(0, 0.24))), min(1.0, max(0.0, strong))))
    return trace


@given(healthy())
def test_a_healthy_noisy_run_goes_on(trace):
    assert set(verdicts(trace)) == {"keep"}


@given(healthy(), st.floats(0.3, 0.6), st.floats(0.8, 1.0), st.floats(0, 0.05))
def test_a_collapse_is_noticed_by_the_first_check_after_it(trace, best, weak, strong):
    gap_at_most = 0.24
    before = [*trace, (min(1.0, best + gap_at_most), best)]
    top = max(strong for _, strong in before)
    assert verdicts([*before, (weak, strong), (top, top)])[-2:] == ["rollback", "keep"]


@given(healthy(), st.integers(3, 40))
def test_a_slow_decline_of_both_is_not_a_collapse(trace, checks):
    weak, strong = trace[-1]
    decline = [(weak * (1 - i / checks), strong * (1 - i / checks)) for i in range(checks + 1)]
    assert set(verdicts([*trace, *decline])) == {"keep"}


def test_a_network_that_has_learned_nothing_cannot_collapse():
    assert verdicts([(0.2, 0.14), (0.9, 0.0)]) == ["keep", "keep"]
    assert verdicts([(0.2, 0.15), (0.9, 0.0)]) == ["keep", "rollback"]


def test_after_the_last_rollback_a_collapse_is_an_error():
    guard = Guard(GuardConfig(rollbacks_max=2))
    guard.check(0, 0.5, 0.4)
    for step in (10, 20):
        assert guard.check(step, 0.9, 0.0) == "rollback"
        assert guard.check(step + 5, 0.5, 0.4) == "keep"
    with pytest.raises(CheckFailedError, match=r"step 30, after 2 rollbacks: PGD accuracy fell from 40\.0% to 0\.0%"):
        guard.check(30, 0.9, 0.0)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=20), st.data())
def test_a_restored_guard_judges_alike(trace, data):
    cut = data.draw(st.integers(0, len(trace)))
    first, second = Guard(FOREVER), Guard(FOREVER)
    for step, (weak, strong) in enumerate(trace[:cut]):
        first.check(step, weak, strong)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step, (weak, strong) in enumerate(trace[cut:]):
        assert first.check(step, weak, strong) == second.check(step, weak, strong)
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize("accuracies", [(50.0, 0.4), (0.5, 40.0), (-0.1, 0.1), (float("nan"), 0.1)])
def test_percentages_are_refused(accuracies):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Guard().check(0, *accuracies)


@pytest.mark.parametrize("change", [{"fall": 0.0}, {"widening": 1.0}, {"learned": 15.0}, {"rollbacks_max": -1}])
def test_a_senseless_configuration_is_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        GuardConfig(**change)
