"""Passes of steps: counted as they happen, and as often as they happen where a replay calls no hooks."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.engine.budget import PassCounter
from rnas_zoo.engine.capture import Captured
from rnas_zoo.engine.counted import Counted, note


@pytest.mark.parametrize(("learns", "backward"), [(True, 6), (False, 0)])
def test_a_batch_counts_forward_at_once_and_backward_when_gradients_pass(learns, backward):
    passes = PassCounter()
    output = torch.ones(6, 3, requires_grad=learns) * 2
    note(passes, output)
    assert passes == PassCounter(6, 0)
    if learns:
        output.sum().backward()
    assert passes == PassCounter(6, backward)


class Silent:
    """Graphs whose repetitions call no Python, and so no hooks."""

    def eagerly(self, function):
        return function()

    def capture(self, function):
        return lambda: None, function()


def test_a_replay_costs_what_the_last_ordinary_call_cost():
    passes = PassCounter()

    def step(x):
        passes.add(forward=2 * len(x), backward=len(x))
        return {"sum": x.sum()}

    counted = Counted(Captured(step, "cpu", warmup=1, graphs=Silent()), passes)
    seen = []
    for _ in range(4):
        assert float(counted(torch.ones(5))["sum"]) == 5
        seen.append((passes.forward, passes.backward))
    assert seen == [(10 * n, 5 * n) for n in (1, 2, 3, 4)]
    counted.reset()
    counted(torch.ones(3))  # an ordinary call again: another shape is welcome
    assert passes == PassCounter(46, 23)


def test_a_step_without_passes_costs_nothing():
    passes = PassCounter()
    Counted(Captured(lambda x: None, "cpu"), passes)(torch.ones(2))
    assert passes == PassCounter()
