"""What a training is watched by, and what follows: looks, a return after a collapse, the weights that are shipped."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rnas_zoo import data
from rnas_zoo.attacks import PGD, Keys, n_fgsm_images, pgd
from rnas_zoo.attacks.n_fgsm import NFGSM
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import CheckFailedError
from rnas_zoo.training.watch import FEWEST_IMAGES, MOST_IMAGES, MOST_LOOKS, POSITIONS, Watch

from .small import CPU, configured, copied, equal, run, tasked

GOOD, GONE = (0.9, 0.8), (0.95, 0.05)  # under the single step, under PGD-10


@pytest.fixture(scope="module")
def images(npz_file):
    return npz_file(n=90)


class Scripted(Watch):
    """Looks where it is told to, and sees what it is told to: (single step, PGD-10, PGD-10 of the average)."""

    def script(self, seen: dict[int, tuple[float, ...]]) -> None:
        self.told, self.now = seen, (0.0, 0.0)

    def due(self, done: int) -> bool:
        self.now = self.told.get(done, self.now)
        return done in self.told

    def _accuracy(self, network, steps):
        return self.now[1 if network is self.task.network else -1] if steps else 1.0

    def _single_step(self, network, images):
        return self.now[0]


def scripted(config, seen):
    task = tasked(config)
    task.watch.__class__ = Scripted
    task.watch.script(seen)
    return task


# --- when and at what -------------------------------------------------------------------------------------------------


def planned(total_steps: int, batch_size: int, held_out: int) -> Watch:
    task = SimpleNamespace(
        total_steps=total_steps, config=SimpleNamespace(batch_size=batch_size), device=CPU, seed=0,
        held_out=data.ImageSet(np.zeros((held_out, 2, 2, 3), np.uint8), np.arange(held_out)),
    )  # fmt: skip
    return Watch(task, 10)


@pytest.mark.parametrize(
    ("total_steps", "batch_size", "held_out", "looks", "images"),
    [
        (10_000, 128, 5000, 20, 512),
        (1_000, 128, 5000, 16, 64),
        (400, 64, 180, 3, 64),
        (100, 64, 5000, 0, 64),
        (1_000, 128, 30, 20, 30),
        (6_000, 128, 5000, 20, 307),
    ],
)
def test_looks_take_a_twentieth_of_the_passes(total_steps, batch_size, held_out, looks, images):
    watch = planned(total_steps, batch_size, held_out)
    assert (watch.looks, len(watch.x)) == (looks, images)
    assert looks <= MOST_LOOKS
    assert min(FEWEST_IMAGES, held_out) <= images <= MOST_IMAGES
    assert looks * images * 25 <= 0.05 * 4 * total_steps * batch_size


@pytest.mark.parametrize(("total_steps", "looks"), [(1000, 20), (997, 20), (100, 7), (20, 20), (5, 1), (50, 0)])
def test_looks_are_due_evenly_and_at_the_end(total_steps, looks):
    watch = planned(total_steps, 1, 10)
    watch.looks = looks
    due = [done for done in range(1, total_steps + 1) if watch.due(done)]
    assert due == [-(-k * total_steps // looks) for k in range(1, looks + 1)]
    assert not due or due[-1] == total_steps


def test_the_images_looked_at_are_spread_over_all_that_are_held_out():
    """Images of a folder are held out class by class."""
    assert planned(400, 64, 180).y.tolist() == [i * 180 // 64 for i in range(64)]
    assert planned(10_000, 128, 5000).y[[0, 256, 511]].tolist() == [0, 2500, 4990]


def test_a_look_measures_the_network_and_leaves_it_as_it_is(images):
    task = tasked(configured(images, objective="nfgsm"))
    run(task, last=2)
    before = copied(task.model)
    task.network.train()
    task.watch.look(3)
    assert equal(copied(task.model), before)
    assert all(module.training for module in task.network.modules())
    x, y, net = task.watch.x, task.watch.y, copy.deepcopy(task.model).eval()
    keys, threat = Keys(3, torch.arange(len(y)) + POSITIONS), task.config.threat
    attacked = pgd(net, x, y, threat, PGD(steps=10), keys)
    weak = n_fgsm_images(net, x, y, threat, NFGSM(), keys)
    with torch.no_grad():
        right, held = net(x).argmax(1) == y, net(weak).argmax(1) == y
    expected = {
        "held_out_clean": right, "held_out_pgd10": right & ~attacked.broken, "held_out_single_step": held,
    }  # fmt: skip
    seen = {key: float(value.float().mean()) for key, value in expected.items()}
    assert task.watch.seen == {**seen, "rollbacks": 0.0}
    assert task.observe() == {"passes": float(task.passes.total), **task.watch.seen}


# --- collapse ---------------------------------------------------------------------------------------------------------


def test_after_a_collapse_training_goes_back_to_the_last_look_and_on_with_two_steps(images):
    config = configured(images, objective="nfgsm", average=0.9, average_from=0.0, auxiliary_weight=0.0)
    task = scripted(config, {2: GOOD, 4: GONE})
    run(task, last=2)
    good = copy.deepcopy(task.snapshot())
    run(task, 2, 3)
    assert task.phase(3 / 6) == "single"
    assert not equal(copied(task.model), good["model"])
    before = task.passes.total
    run(task, 3, 4)
    assert task.passes.total - before == 4 * 8, "one step of the attack and one pass of learning, forward and backward"
    assert equal(copied(task.model), good["model"])
    assert equal(task.average.state_dict()["network"], good["average"]["network"])
    momenta = [state["state"][0]["momentum_buffer"] for state in (task.optimizer.state_dict(), good["optimizer"])]
    assert torch.equal(*momenta)
    assert task.watch.seen["rollbacks"] == 1
    assert task.phase(4 / 6) == "double"
    before = task.passes.total
    run(task, 4, 5)
    assert task.passes.total - before == 6 * 8, "two steps of the attack"
    twin = scripted(config, {})  # the same from the state of the last look, with the same steps
    twin.restore(good)
    twin.watch.guard.rollbacks = 1
    run(twin, 4, 5)
    assert equal(copied(twin.model), copied(task.model))


def test_multi_step_training_is_not_taken_for_collapsed(images):
    for changes in ({"objective": "pgd"}, {"objective": "nfgsm", "multi_step_from": 0.0}, {"objective": "clean"}):
        task = scripted(configured(images, **changes), {2: GOOD, 4: GONE, 6: GONE})
        run(task)
        assert task.watch.guard.rollbacks == 0
        assert task.watch.good == {}
        assert "held_out_single_step" not in task.watch.seen
    task = scripted(configured(images, objective="nfgsm", total_steps=8), {2: GOOD, 4: GONE, 6: GONE, 8: GONE})
    run(task)
    assert task.watch.guard.rollbacks == 1, "after it, training attacks with two steps and is judged no more"
    assert task.watch.good == {}


def test_the_last_look_of_single_steps_still_goes_back(images):
    """Whatever comes next: nothing, or several steps."""
    for changes in ({}, {"total_steps": 12, "multi_step_from": 0.5}):
        task = scripted(configured(images, objective="nfgsm", **changes), {3: GOOD, 6: GONE})
        run(task, last=3)
        good = copied(task.model)
        run(task, 3, 6)
        assert equal(copied(task.model), good)
        assert task.phase(6 / task.total_steps) == ("multi")
    assert len(task.objectives) == 3


def test_collapses_without_end_stop_the_run(images):
    task = scripted(configured(images, objective="nfgsm"), {2: GOOD, 4: GONE})
    task.watch.guard.rollbacks = task.watch.guard.config.rollbacks_max
    task.objectives["double"] = task.objectives["single"]
    with pytest.raises(CheckFailedError, match="catastrophic overfitting at step 4"):
        run(task)


# --- selection --------------------------------------------------------------------------------------------------------

SCRIPT = {1: (0, 0.99), 3: (0, 0.4), 4: (0, 0.7), 5: (0, 0.7), 6: (0, 0.6)}


def test_the_weights_of_the_best_look_in_the_second_half_are_shipped(images):
    task = scripted(configured(images, select=True), SCRIPT)
    run(task, last=4)
    fourth = copied(task.model)
    run(task, 4)
    assert not equal(copied(task.model), fourth)
    task.finish()
    assert equal(copied(task.model), fourth), "the first of two equals; none of the first half"
    assert not task.network.training


def test_with_an_average_its_accuracy_decides_and_it_is_shipped_with_fitting_statistics(images):
    seen = {3: (0, 0.9, 0.3), 5: (0, 0.1, 0.8), 6: (0, 0.9, 0.5)}
    task = scripted(configured(images, select=True, average=0.5, average_from=0.0), seen)
    run(task, last=5)
    fifth = copied(task.average.network)
    run(task, 5)
    assert task.watch.seen["held_out_average_pgd10"] == 0.5
    task.finish()
    shipped = copied(task.model)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in shipped.items():
        assert torch.equal(value, fifth[name]) == (not name.endswith(statistics)), name
    assert task.total_steps < 50
    assert all(int(value) == task.total_steps for name, value in shipped.items() if name.endswith("tracked"))


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_without_selection_the_last_weights_are_shipped(images, average):
    task = scripted(configured(images, average=average, average_from=0.0), SCRIPT)
    run(task)
    last = copied(task.average.network if average else task.model)
    assert task.watch.best == {}
    task.finish()
    weights = {name for name, _ in task.model.named_parameters()}
    shipped = copied(task.model)
    assert all(torch.equal(shipped[name], last[name]) for name in weights)


def test_a_collapsed_network_is_never_selected(images):
    task = scripted(configured(images, objective="nfgsm", select=True), {2: GOOD, 4: GONE})
    run(task, last=4)
    assert (task.watch.best, task.watch.best_accuracy) == ({}, -1.0)


def test_a_run_goes_on_bit_for_bit_through_return_average_and_selection(images, tmp_path):
    config = configured(
        images, objective="nfgsm", total_steps=10, select=True, average=0.8, average_from=0.2, multi_step_from=0.8,
        optimizer="adam", learning_rate=0.01,
    )  # fmt: skip
    script = {2: (*GOOD, 0.5), 4: (*GONE, 0.5), 6: (*GOOD, 0.7), 8: (*GOOD, 0.6), 10: (*GOOD, 0.65)}
    whole = run(scripted(config, script))
    for stop in (3, 5, 7):
        first = run(scripted(config, script), last=stop)
        checkpoint.save(tmp_path / "c.safetensors", {"task": first.state_dict()})
        second = scripted(config, script)
        second.load_state_dict(checkpoint.load(tmp_path / "c.safetensors")["task"])
        run(second, stop)
        assert equal(copied(second.model), copied(whole.model)), stop
        assert equal(second.watch.best, whole.watch.best)
        assert second.observe() == whole.observe()
    whole.finish()
    second.finish()
    assert equal(copied(second.model), copied(whole.model))
    assert whole.watch.best_accuracy == 0.7
