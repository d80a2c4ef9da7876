"""Collapse of the supernet is seen, undone and answered by a multi-step attack, for a tenth of the passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import data
from rnas_zoo.attacks import Keys
from rnas_zoo.errors import CheckFailedError
from rnas_zoo.searching import watch as watch_module
from rnas_zoo.searching.task import SearchTask
from rnas_zoo.searching.watch import Watch

from .small import CPU, config, differences, everything, left_behind, same, search_in_parts, task_of

GOOD, BAD = (0.9, 0.9, 0.9), (0.1, 0.9, 0.9)  # PGD-10, clean, single step


@pytest.fixture
def looks(monkeypatch):
    """A search that looks every second step and then sees what the test says."""

    def script(accuracies: dict[int, tuple[float, float, float]]) -> None:
        plain = Watch.look

        def look(self: Any, done: int) -> None:
            self.script = list(accuracies.get(done, GOOD))
            plain(self, done)

        monkeypatch.setattr(watch_module, "SHARE", 1.0)
        monkeypatch.setattr(watch_module, "MOST_IMAGES", 2)
        monkeypatch.setattr(watch_module, "FEWEST_IMAGES", 2)
        monkeypatch.setattr(Watch, "look", look)
        monkeypatch.setattr(Watch, "_accuracy", lambda self, perturb: self.script.pop(0))

    return script


def fast(path: Any, **changes: Any) -> Any:
    return config(path, **{"total_steps": 6, "attack": "nfgsm", **changes})


def passes_of_an_attack(task: SearchTask) -> tuple[int, int]:
    before = task.passes.forward, task.passes.backward
    x, y = task.train(0)
    task.attack(x, y, Keys(0, torch.arange(len(x))))
    return (task.passes.forward - before[0]) // len(x), (task.passes.backward - before[1]) // len(x)


def test_after_a_collapse_everything_learned_returns_to_the_last_good_state(small_data, looks):
    looks({4: BAD})
    task = task_of(fast(small_data))
    assert task.watch.period == 2
    for index in range(2):
        task.step(index)
    good = [everything(task), task.weight_optimizer.state_dict()["state"], task.arch_optimizer.state_dict()["state"]]
    good = torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, good)
    assert passes_of_an_attack(task) == (1, 1)
    task.step(2)
    assert not same(everything(task), good[0])
    passes = task.passes.total
    task.step(3)
    found = [everything(task), task.weight_optimizer.state_dict()["state"], task.arch_optimizer.state_dict()["state"]]
    assert differences(found, good) == []
    assert task.passes.total > passes, "passes that were spent stay spent"
    assert passes_of_an_attack(task) == (2, 2)
    row = task.observe()
    assert row["rollbacks"] == 1
    assert (row["held_out_pgd10"], row["held_out_clean"], row["held_out_single_step"]) == BAD


def test_a_relapse_returns_to_the_same_state_and_takes_another_step(small_data, looks):
    looks({4: BAD, 6: BAD, 8: BAD, 10: BAD})
    task = task_of(fast(small_data, total_steps=12))
    task.watch.period = 2
    for index in range(2):
        task.step(index)
    good = task.watch.good
    wanted = [everything(task), *(v.clone() for s in good["weight_optimizer"]["state"].values() for v in s.values())]
    for index in range(2, 6):
        task.step(index)
    momenta = [v for s in task.weight_optimizer.state_dict()["state"].values() for v in s.values()]
    assert same([*everything(task), *momenta], [*wanted[0], *wanted[1:]])
    assert task.watch.guard.rollbacks == 2
    assert passes_of_an_attack(task) == (3, 3)
    for index in range(6, 9):
        task.step(index)
    with pytest.raises(CheckFailedError, match="after 3 rollbacks"):
        task.step(9)


def test_single_step_attacks_are_not_told_apart_from_bad_training(small_data, looks):
    looks({4: (0.1, 0.2, 0.2)})
    task = task_of(fast(small_data))
    for index in range(4):
        task.step(index)
    assert task.watch.seen["rollbacks"] == 0


@pytest.mark.parametrize("attack", ["pgd", "clean"])
def test_other_attacks_are_looked_at_but_not_guarded(small_data, looks, attack):
    looks({4: BAD})
    task = task_of(fast(small_data, attack=attack))
    for index in range(4):
        task.step(index)
    assert task.watch.seen == {"held_out_clean": 0.9, "held_out_pgd10": 0.1}
    assert task.watch.good == {}


@pytest.mark.parametrize("stops", [(3,), (4, 5)])
def test_a_search_that_went_back_resumes_bit_for_bit(small_data, tmp_path, monkeypatch, looks, stops):
    """Interrupted before the rollback, whose snapshot is then that of the checkpoint, and between two of them."""
    from rnas_zoo.searching.run import search

    looks({4: BAD, 6: BAD})
    settings = fast(small_data)
    search(settings, tmp_path / "whole.json", device="cpu")
    found = search_in_parts(monkeypatch, settings, tmp_path / "parts.json", *stops)
    whole, parts = left_behind(tmp_path / "whole.json"), left_behind(tmp_path / "parts.json")
    assert differences(whole, parts) == []
    assert found.provenance["found"]["rollbacks"] == 2
    assert "catastrophic overfitting was undone 2 times" in found.provenance["warnings"][-1]


def test_looking_leaves_the_network_as_it_is(small_data):
    task = task_of(fast(small_data, total_steps=3))
    before, random = everything(task), torch.get_rng_state()
    task.watch.look(1)
    assert same(everything(task), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert task.net.training
    assert all(0 <= task.watch.seen[f"held_out_{name}"] <= 1 for name in ("clean", "pgd10", "single_step"))


@given(steps=st.integers(1, 100_000), batch=st.integers(1, 512), held=st.integers(1, 300))
def test_looks_take_about_a_tenth_of_the_passes(steps, batch, held):
    task = SimpleNamespace(
        total_steps=steps, device=CPU, config=SimpleNamespace(batch_size=batch, attack="nfgsm", total_steps=steps)
    )
    images = data.ImageSet(np.zeros((held, 1, 1, 3), np.uint8), np.zeros(held, np.int64))
    watch = Watch(task, images, 10)
    due = sum(watch.due(done) for done in range(watch.period, steps + 1, watch.period))
    assert 1 <= due <= watch.looks <= 20
    assert len(watch.y) <= min(128, held)
    assert due == 1 or due * len(watch.y) * 25 <= 0.1 * 5 * steps * batch
    if steps * batch >= 128_000 and held >= 128:
        assert len(watch.y) == 128
        assert due >= 10
