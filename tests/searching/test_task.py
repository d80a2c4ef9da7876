"""Steps of a search: who learns from what and how fast, and what a step costs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.engine.capture import Captured
from rnas_zoo.errors import ImageSizeError
from rnas_zoo.searching import task as task_module
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.task import SearchTask, epoch_steps

from .small import CPU, config, differences, everything, same, task_of, teacher_in

# --- who learns from what ---------------------------------------------------------------------------------------------


def test_the_architecture_is_frozen_while_the_weights_warm_up(small_data):
    task = task_of(config(small_data, total_steps=5, warmup=0.4))
    before = [alpha.detach().clone() for alpha in task.alphas]
    weights = [weight.detach().clone() for weight in task.weights]
    for index in range(4):
        metrics = task.step(index)
        assert same(task.alphas, before) == (index < 2)
        assert ("validation_loss" in metrics) == (index >= 2)
        assert task.phase(index) == ("warmup" if index < 2 else "search")
    assert all(not torch.equal(a, b) for a, b in zip(task.weights, weights, strict=True))


def test_architecture_steps_are_adam_on_the_clean_validation_loss(small_data):
    """The first one, written out: Adam's first step is the sign of gradient plus decay."""
    search = config(small_data, arch_learning_rate=1e-3, arch_weight_decay=0.0)
    task, twin = task_of(search), task_of(search)
    x, y = twin.validation(0)
    loss = F.cross_entropy(twin.net(x), y)
    gradients = torch.autograd.grad(loss, twin.alphas)
    metrics = task.step(0)
    assert float(metrics["validation_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for new, old, slope in zip(task.alphas, twin.alphas, gradients, strict=True):
        clear = slope.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close((new - old)[clear], -1e-3 * slope.sign()[clear], rtol=1e-2, atol=1e-6)


def test_weight_steps_are_clipped_sgd_on_the_attacked_images(small_data):
    search = config(small_data, warmup=1.0, clip=0.01, learning_rate=0.5, weight_decay=0.1)
    task, twin = task_of(search), task_of(search)
    metrics = task.step(0)
    (x, y), positions = twin.train(0), twin.train.positions(0)
    x_adv = twin.attack(x, y, task_module.Keys(2, positions))
    assert 0 < float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6
    loss = F.cross_entropy(twin.net(x_adv), y)
    gradients = torch.autograd.grad(loss, twin.weights)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    assert norm > 0.01
    assert float(metrics["train_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for new, old, gradient in zip(task.weights, twin.weights, gradients, strict=True):
        torch.testing.assert_close(new, old - 0.5 * (gradient * 0.01 / norm + 0.1 * old), rtol=1e-4, atol=1e-6)


def test_observations_describe_the_cell_that_would_be_derived(small_data):
    task = task_of(config(small_data, channels=4))
    with torch.no_grad():
        task.net.alphas["normal"].fill_(-50.0)[:, 3] = 50.0
        task.net.alphas["reduce"].fill_(-50.0)[:, 3] = 50.0
    row = task.observe()
    assert row["entropy"] == pytest.approx(0.0, abs=1e-6)
    assert row["skips"] == 8
    assert row["passes"] == 0
    assert {edge.op for edge in task.derive()["normal"].edges} == {"skip_connect"}
    # Skip connections cost something only where they halve: C (C + 2) parameters on each of 8 edges of two cells of 8
    # and 16 channels, of which 2, 4/3, 1 and 4/5 are kept.
    kept = 2 * sum(2 / n for n in (2, 3, 4, 5))
    assert row["expected_parameters"] == pytest.approx(kept * (8 * 10 + 16 * 18))
    pixels = 4 * 4, 2 * 2
    assert row["expected_macs"] == pytest.approx(kept * (8 * 8 * pixels[0] + 16 * 16 * pixels[1]))
    np.testing.assert_allclose(task.probabilities()["normal"][0], [0, 0, 0, 1, 0, 0, 0, 0], atol=1e-30)


# --- schedules --------------------------------------------------------------------------------------------------------


@given(
    steps=st.integers(1, 3000),
    per_pass=st.integers(1, 300),
    tail=st.sampled_from([0.0, 0.05, 0.2, 0.25, 0.5, 0.9, 1.0]),
)
def test_an_epoch_is_a_pass_or_a_twentieth_of_the_search(steps, per_pass, tail):
    found = epoch_steps(SearchConfig("x", total_steps=steps, tail=tail), per_pass)
    assert found >= 1
    assert found <= max(per_pass, round(1 / tail) if tail else 1)
    if found > (round(1 / tail) if tail else 1):
        assert found == min(per_pass, steps // 20)
    if tail:
        assert round(tail * found) >= 1


def test_phases_of_each_epoch(small_data):
    task = task_of(config(small_data, "rnas_vuln", 240, warmup=0.025, tail=0.25, batch_size=6))
    assert task.epoch_steps == 4  # a pass over 27 images
    assert [task.phase(index) for index in range(12)] == ["warmup"] * 6 + ["search", "tail"] + ["search"] * 3 + ["tail"]
    assert {task.phase(index) for index in range(240) if index % 4 == 3 and index > 6} == {"tail"}
    assert "tail" not in {task_of(config(small_data)).phase(index) for index in range(6)}


@pytest.mark.parametrize(
    ("total", "warmup", "rate"), [(20, 0.0, 2e-2), (1000, 0.5, 4e-3), (800, 0.0, 2.5e-3), (9000, 0.2, 6e-4)]
)
def test_the_automatic_rate_lets_alpha_decide_in_the_steps_there_are(small_data, total, warmup, rate):
    task = task_of(config(small_data, total_steps=total, warmup=warmup, arch_learning_rate=0.0))
    task.step(0)
    assert float(task.arch_learning_rate) == pytest.approx(rate, rel=1e-3)


def test_learning_rates_fall_along_cosines(small_data):
    rates = {"learning_rate": 0.4, "learning_rate_floor": 0.25, "arch_learning_rate": 0.02}
    task = task_of(
        config(small_data, "darts_clean", 100, attack="clean", arch_learning_rate_floor=0.5, batch_size=2, **rates)
    )
    for index, fraction in ((0, 0.0), (50, 0.5), (98, 0.98)):
        task.step(index)
        wave = (1 + math.cos(math.pi * fraction)) / 2
        assert task.weight_optimizer.param_groups[0]["lr"] == pytest.approx(0.1 + 0.3 * wave)
        assert task.arch_optimizer.param_groups[0]["lr"] == pytest.approx(0.01 + 0.01 * wave)
        assert float(task.learning_rate) == pytest.approx(0.1 + 0.3 * wave)
        assert float(task.fraction) == pytest.approx(fraction)
    constant = task_of(config(small_data, "darts_clean", 100, attack="clean", batch_size=2))
    constant.step(98)
    assert constant.arch_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert constant.weight_optimizer.param_groups[0]["lr"] == pytest.approx(0.001, rel=0.03)  # DARTS's 0.025 to 0.001


# --- what steps cost --------------------------------------------------------------------------------------------------

PGD3 = {"attack": "pgd", "attack_steps": 3}
# Passes forward per image, as many as backward. An architecture step on a loss: 1. A weight step: 1 and the attack.
COSTS = [
    ("darts", {"attack": "clean"}, 0, 1 + 1),
    ("darts", {"attack": "nfgsm"}, 0, 1 + 1 + 1),
    ("darts", {"attack": "fgsm_rs"}, 0, 1 + 1 + 1),
    ("darts", PGD3, 0, 1 + 3 + 1),
    ("darts", {**PGD3, "warmup": 0.5}, 0, 3 + 1),
    ("rnas_noise", {"attack": "clean"}, 0, 2 + 1),
    ("rnas_noise", {"attack": "clean", "settings": {"balance": 0.0}}, 0, 1 + 1),
    # Two attacks, one virtual step, two outer losses, two differences for each; the weights share one attack.
    ("arnas", {**PGD3, "none": False}, 0, 2 * 3 + 1 + 2 + 4 + 1),
    ("e2rnas", {"attack": "fgsm_rs"}, 0, 1 + 1 + 2 + 1 + 1),
    ("e2rnas", {"attack": "nfgsm", "settings": {"adversarial_objective": True}}, 0, 1 + 1 + 2 + 4 + 1 + 1),
    ("rnas_vuln", {**PGD3, "tail": 0.25}, 0, 3 + 2 + 3 + 1),
    ("rnas_vuln", {**PGD3, "tail": 0.25}, 3, 3 + 2),  # features of both twins; the weights rest
    ("rnas_vuln", {**PGD3, "settings": {"adversarial_only": True}}, 0, 3 + 1 + 3 + 1),
    ("rnas_cl", {"attack": "clean", "tail": 0.5, "shared": True}, 0, 1),
    ("rnas_cl", {"attack": "clean", "tail": 0.5, "shared": True}, 1, 1),
]


@pytest.mark.parametrize(("method", "changes", "index", "passes"), COSTS)
def test_a_step_costs_exactly_so_many_passes(small_data, tmp_path, method, changes, index, passes):
    if method == "rnas_cl":
        changes = {**changes, "teacher": teacher_in(tmp_path), "settings": {"depth": 1}}
    task = task_of(config(small_data, method, 20, **changes))
    task.step(index)
    assert (task.passes.forward, task.passes.backward) == (8 * passes, 8 * passes)


@pytest.mark.parametrize(("attack", "forward", "backward"), [("clean", 12, 10), ("nfgsm", 14, 11)])
def test_looks_are_counted(small_data, attack, forward, backward):
    """Clean 1, PGD-10 11 with the judgement, and what a single step finds 2."""
    task = task_of(config(small_data, total_steps=3, attack=attack))
    images = len(task.watch.y)
    assert images == 6  # all that are held out
    assert [task.watch.due(done) for done in (1, 2, 3)] == [False, False, True]
    task.step(2)
    step = 2 if attack == "clean" else 3
    assert (task.passes.forward, task.passes.backward) == (8 * step + 6 * forward, 8 * step + 6 * backward)
    assert set(task.watch.seen) >= {"held_out_clean", "held_out_pgd10"}


class Silent:
    """Graphs whose repetitions call no Python, and so no hooks."""

    def eagerly(self, function):
        return function()

    def capture(self, function):
        return lambda: None, function()


def test_replayed_steps_are_counted_as_well(small_data, monkeypatch):
    monkeypatch.setattr(
        task_module, "Captured", lambda function, device, enabled: Captured(function, device, warmup=1, graphs=Silent())
    )
    task = task_of(config(small_data, total_steps=20, warmup=0.2, attack="nfgsm"))
    passes = []
    for index in range(9):
        task.step(index)
        passes.append((task.passes.forward, task.passes.backward))
    steps = [2 * 8] * 4 + [3 * 8] * 5
    assert passes == [(total, total) for total in np.cumsum(steps).tolist()]


class Repeated:
    """Graphs that repeat the function itself, on the inputs it was captured with; the capture changes nothing."""

    def __init__(self, task: SearchTask) -> None:
        self.task, self.replays = task, 0

    def eagerly(self, function):
        return function()

    def capture(self, function):
        before = copy.deepcopy(self.task.snapshot())
        outputs = dict(function())
        self.task.net.load_state_dict(before["net"])
        self.task.weight_optimizer.load_state_dict(before["weight_optimizer"])
        self.task.arch_optimizer.load_state_dict(before["arch_optimizer"])

        def replay() -> None:
            self.replays += 1
            for name, value in function().items():
                outputs[name].copy_(value)

        return replay, outputs


@pytest.mark.usefixtures("short_looks")
@pytest.mark.parametrize(("method", "changes"), [("arnas", {"none": False}), ("rnas_vuln", {"tail": 0.5})])
def test_captured_steps_are_those_steps(small_data, method, changes):
    """A captured step sees new images only in the tensors it was captured with."""
    search = config(small_data, method, 12, warmup=0.08, **changes)
    task, twin = task_of(search), task_of(search)
    graphs = Repeated(task)
    task._steps = {
        phase: Captured(task._step_of(phase), CPU, warmup=1, graphs=graphs) for phase in ("warmup", "search", "tail")
    }
    for index in range(5):
        found, wanted = task.step(index), twin.step(index)
        assert differences(dict(found), dict(wanted)) == []
    assert graphs.replays >= 2
    assert same(everything(task), everything(twin))


# --- kinds of images and numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["darts", "e2rnas", "rnas_vuln"])
def test_steps_in_half_precision(small_data, method):
    task = task_of(config(small_data, method, precision="bf16", channels=4))
    seen = []
    task.net.cells[0].preprocess1.register_forward_hook(lambda m, i, o: seen.append(i[0].dtype))
    found = task.step(0)
    assert torch.bfloat16 in seen
    assert all(math.isfinite(float(value)) for value in found.values())
    assert all(p.dtype == torch.float32 for p in task.net.parameters())
    whole = task_of(config(small_data, method, channels=4)).step(0)
    for name, value in whole.items():
        assert float(found[name]) == pytest.approx(float(value), rel=0.15), name


@pytest.mark.parametrize(("size", "behind_stem"), [(28, 16), (32, 16), (64, 32), (96, 48)])
def test_image_sizes(npz_file, size, behind_stem):
    """28 pixels are brought to 32 by the data set, since with this stem they would not halve three times."""
    search = config(npz_file(size=size, n=20), "darts_clean", attack="clean", batch_size=2)
    if size == 28:
        with pytest.raises(ImageSizeError):
            task_of(search)
        search = replace(search, image_size=(32, 32))
    task = task_of(search)
    seen = []
    task.net.cells[0].register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[2:])))
    assert math.isfinite(float(task.step(0)["train_loss"]))
    assert set(seen) == {(behind_stem, behind_stem)}
    assert len(task.derive()["normal"].edges) == 8
