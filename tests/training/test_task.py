"""One training as steps: what each of them is made of, against the same step written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo.engine import checkpoint
from rnas_zoo.engine.capture import Captured
from rnas_zoo.errors import UsageError
from rnas_zoo.training import task as task_module
from rnas_zoo.training.objectives import Objective

from ..engine.test_capture import Repeated
from .small import CELLS, CPU, PLAIN, configured, copied, equal, run, tasked, taught


@pytest.fixture
def images(monkeypatch):
    """The perturbed images of every step."""
    found, plain = [], Objective.perturbed

    def perturbed(self, *arguments):
        found.append(plain(self, *arguments))
        return found[-1]

    monkeypatch.setattr(Objective, "perturbed", perturbed)
    return found


def slopes(task, loss):
    return dict(zip(dict(task.model.named_parameters()), torch.autograd.grad(
        loss, list(task.model.parameters()), allow_unused=True), strict=True))  # fmt: skip


# --- phases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "phases"),
    [
        ({"objective": "pgd"}, ["single"] * 4),
        ({"objective": "pgd", "multi_step_from": 0.5}, ["single"] * 4),
        ({"objective": "nfgsm"}, ["single"] * 4),
        ({"objective": "nfgsm", "multi_step_from": 0.5}, ["single", "single", "multi", "multi"]),
        ({"objective": "trades", "attack": "fgsm_rs", "multi_step_from": 0.25}, ["single", "multi", "multi", "multi"]),
        ({"objective": "fgsm_rs", "multi_step_from": 0.0}, ["multi"] * 4),
    ],
)
def test_phases_follow_the_fraction_done(small_data, changes, phases):
    task = tasked(configured(small_data, attack_steps=5, **changes))
    assert [task.phase(fraction) for fraction in (0, 0.25, 0.5, 0.99)] == phases
    if len(task.objectives) > 1:
        several = [task.objectives[name] for name in ("double", "multi")]
        assert [(each.attack_steps, each.images) for each in several] == [(2, "pgd"), (5, "pgd")]
        task.watch.guard.rollbacks = 1
        after = [task.phase(fraction) for fraction in (0, 0.25, 0.5, 0.99)]
        assert after == [phase.replace("single", "double") for phase in phases]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_stay_in_the_ball_as_it_grows(small_data, images, norm):
    config = configured(small_data, total_steps=8, eps_ramp=0.5, eps="0.2", norm=norm)
    task = tasked(config)
    reached = []
    for index in range(8):
        task.step(index)
        reached.append(float(config.threat.distance(images[-1], task.batches(index)[0]).max()))
    wanted = [0.2 * min(1, index / 4) for index in range(8)]
    assert reached == pytest.approx(wanted, rel=2e-3, abs=1e-6)  # black and white pixels move one way only


# --- cost -------------------------------------------------------------------------------------------------------------

ONE = (1, 1)  # forward and backward passes of each image


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"objective": "clean"}, ONE),
        ({"objective": "nfgsm"}, (2, 2)),
        ({"objective": "fgsm_rs", "attack_mode": "train"}, (2, 2)),
        ({"objective": "pgd", "attack_steps": 3}, (4, 4)),
        ({"objective": "nfgsm", "attack_steps": 3, "multi_step_from": 0.0}, (4, 4)),
        ({"objective": "trades", "attack_steps": 3}, (3 + 1 + 2, 3 + 2)),
        ({"objective": "trades", "attack": "nfgsm"}, (1 + 1 + 2, 1 + 2)),
        ({"objective": "rslad", "attack_steps": 3}, (3 + 2, 3 + 2)),
        ({"objective": "rnas_cl"}, ONE),
    ],
)
def test_image_passes_are_those_of_the_definition(small_data, changes, passes):
    config = configured(small_data, **changes)
    teacher = taught(3).float() if changes["objective"] in ("rslad", "rnas_cl") else None
    task = run(tasked(config, teacher=teacher), last=2)
    assert (task.passes.forward, task.passes.backward) == (2 * 8 * passes[0], 2 * 8 * passes[1])
    assert task.observe()["passes"] == 2 * 8 * sum(passes)


def test_passes_of_networks_behind_a_normalisation_count_once(small_data):
    task = run(tasked(configured(small_data, architecture="test_resnet", model_args={})), last=1)
    assert task.network is not task.model
    assert (task.passes.forward, task.passes.backward) == (2 * 8, 2 * 8)


def test_copies_of_the_network_do_not_copy_the_task(small_data):
    task = tasked(configured(small_data))
    twin = copy.deepcopy(task.model)
    twin(torch.zeros(2, 3, 16, 16))
    assert task.passes.forward == 2, "its passes cost as much"


# --- the optimiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]),
        ({"schedule": "steps", "milestones": (0.5, 5 / 6)}, [1, 1, 1, 0.1, 0.1, 0.01]),
        ({"schedule": "steps", "milestones": ()}, [1] * 6),
        ({"peak_at": 1 / 3}, [0, 0.5, 1, *(0.5 + 0.5 * math.cos(i * math.pi / 4) for i in (1, 2, 3))]),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule(small_data, changes, factors):
    task, rates = tasked(configured(small_data, objective="clean", **changes)), []
    for index in range(6):
        task.step(index)
        rates.append([group["lr"] for group in task.optimizer.param_groups])
    assert [rate for rate, _ in rates] == [rate for _, rate in rates] == pytest.approx([0.05 * f for f in factors])


def test_where_steps_are_captured_rates_are_tensors_that_stay(small_data):
    """A captured step reads the very tensor it was captured with, through whatever replaces the optimiser's state."""
    task = tasked(configured(small_data, objective="clean", **PLAIN))
    task.device = torch.device("cuda")  # as if: the step itself runs where the tensors are
    seen = []
    for index in range(4):
        if index == 2:
            task.restore(copy.deepcopy(task.snapshot()))
        task.step(index)
        seen.append([group["lr"] for group in task.optimizer.param_groups])
    assert len({id(rate) for rates in seen for rate in rates}) == 2
    assert float(seen[0][0]) == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi * 3 / 6)))
    whole = run(tasked(task.config), last=4)
    for a, b in zip(whole.model.parameters(), task.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_adam_takes_its_first_step_by_the_sign(small_data):
    config = configured(small_data, objective="clean", optimizer="adam", learning_rate=0.01, schedule="cosine")
    config = replace(config, weight_decay=0.1, decay_all=True)
    task, twin = tasked(config), tasked(config)
    x, y = twin.batches(0)
    slope = slopes(twin, F.cross_entropy(twin.model(x), y))
    before = copied(task.model)
    task.step(0)
    for name, weight in task.model.named_parameters():
        whole = (slope[name] if slope[name] is not None else 0) + 0.1 * before[name]
        expected = before[name] - 0.01 * whole / (whole.abs() + 1e-8)
        settled = whole.abs() > 1e-5  # around 0 the sign is that of rounding
        torch.testing.assert_close(weight.detach()[settled], expected[settled], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip", [0.01, 0.5, 0.0])
def test_gradients_longer_than_the_limit_are_shortened(small_data, clip):
    task = tasked(configured(small_data, objective="clean", clip=clip, **PLAIN))
    twin = tasked(task.config)
    x, y = twin.batches(0)
    slope = slopes(twin, F.cross_entropy(twin.model(x), y))
    norm = math.sqrt(sum(float(s.square().sum()) for s in slope.values() if s is not None))
    before = copied(task.model)
    task.step(0)
    moved = math.sqrt(
        sum(float((p.detach() - before[name]).square().sum()) for name, p in task.model.named_parameters())
    )
    assert norm > 0.5
    assert moved == pytest.approx(0.05 * (min(norm, clip) if clip else norm), rel=1e-3)


@pytest.mark.parametrize(("holdout", "count"), [(0.1, 6), (0.25, 15), (0.001, 1)])
def test_the_holdout_is_a_fraction_of_the_training_images(small_data, holdout, count):
    task = tasked(configured(small_data, holdout=holdout))
    assert (len(task.held_out), len(task.batches.labels)) == (count, 60 - count)


# --- auxiliary head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["adversarial", "clean"])
@pytest.mark.parametrize("objective", ["clean", "pgd", "trades"])
def test_the_auxiliary_loss_joins_that_of_the_objective(npz_file, images, objective, on):
    config = configured(
        npz_file(size=20), objective=objective, eps="16/255", auxiliary_weight=0.4, auxiliary_on=on, beta=2.0,
        architecture="rnas_cells", model_args=CELLS, **PLAIN,
    )  # fmt: skip
    task, twin = tasked(config), tasked(config)
    before = {**copied(task.model), **{f"a.{k}": v for k, v in copied(task.auxiliary).items()}}
    task.step(0)
    x, y = twin.batches(0)
    x_adv = images[-1]
    net = twin.model.train()
    if objective == "trades":
        natural = net(x)
    logits, tap = net.forward_with_auxiliary(x_adv)
    if on == "clean":
        _, tap = net.forward_with_auxiliary(x)
    loss = F.cross_entropy(logits, y)
    if objective == "trades":
        p, q = natural.softmax(1), logits.softmax(1)
        loss = F.cross_entropy(natural, y) + 2 * (p * (p / q).log()).sum(1).mean()
    loss = loss + 0.4 * F.cross_entropy(twin.auxiliary(tap), y)
    loss.backward()
    named = [*net.named_parameters(), *((f"a.{k}", p) for k, p in twin.auxiliary.named_parameters())]
    found = {**dict(task.model.named_parameters()), **{f"a.{k}": p for k, p in task.auxiliary.named_parameters()}}
    for name, weight in named:
        slope = 0 if weight.grad is None else weight.grad
        torch.testing.assert_close(found[name].detach(), before[name] - 0.05 * slope, rtol=1e-3, atol=2e-5)
    if objective != "clean":
        assert not torch.equal(x, x_adv)
    extra = 2 * 8 * (on == "clean" and objective != "clean")
    passes = {"clean": 2, "pgd": 4, "trades": 3 * 2 + 1}[objective]
    assert task.passes.total == 8 * passes + extra


# --- the same again ---------------------------------------------------------------------------------------------------


def whole(small_data, **changes):
    return configured(
        small_data, **{
            "objective": "nfgsm", "augmentation": "crop_flip", "total_steps": 8, "multi_step_from": 0.75,
            "average": 0.9, "average_from": 0.25, "select": True, **changes,
        },
    )  # fmt: skip


@pytest.fixture
def few_statistics(monkeypatch):
    monkeypatch.setattr(task_module, "STATISTICS_BATCHES", 3)


def looking(task, every: int = 2):
    task.watch.looks = task.total_steps // every
    return task


def test_the_seed_decides_every_bit(small_data, few_statistics):
    one, same, other = (run(looking(tasked(whole(small_data, seed=seed)))) for seed in (3, 3, 4))
    for task in (one, same, other):
        task.finish()
    assert equal(copied(one.model), copied(same.model))
    assert one.observe() == same.observe()
    assert not equal(copied(one.model), copied(other.model))


def test_a_training_in_parts_is_the_whole_one(small_data, tmp_path, few_statistics):
    config = whole(small_data, optimizer="adam", learning_rate=0.01)
    entire = run(looking(tasked(config)))
    for stop in (2, 7):
        first = run(looking(tasked(config)), last=stop)
        checkpoint.save(tmp_path / "c.safetensors", {"task": first.state_dict()})
        second = looking(tasked(config))
        second.load_state_dict(checkpoint.load(tmp_path / "c.safetensors")["task"])
        run(second, stop)
        assert equal(copied(second.model), copied(entire.model))
        assert equal(copied(second.average.network), copied(entire.average.network))
        assert second.observe() == entire.observe()
    second.finish()
    entire.finish()
    assert equal(copied(second.model), copied(entire.model))


class Recorder(Repeated):
    """As `Repeated`; replays call no hooks."""

    def __init__(self, task):
        def state():
            momenta = [v["momentum_buffer"] for v in task.optimizer.state.values() if "momentum_buffer" in v]
            return [*task.model.state_dict().values(), *momenta]

        super().__init__(state)
        self.task = task

    def capture(self, function):
        replay, outputs = super().capture(function)

        def silent() -> None:
            before = self.task.passes.state_dict()
            replay()
            self.task.passes.load_state_dict(before)

        return silent, outputs


def test_captured_steps_are_the_plain_ones(small_data):
    config = whole(small_data, total_steps=12, select=False)
    plain, captured = looking(tasked(config)), looking(tasked(config))
    recorders = {}
    for name in captured.objectives:
        recorders[name] = Recorder(captured)
        captured._steps[name].step = Captured(captured._step_of(name), CPU, warmup=2, graphs=recorders[name])
    for index in range(12):
        rows = [{key: float(value) for key, value in task.step(index).items()} for task in (plain, captured)]
        assert rows[0] == rows[1], index
        assert plain.passes == captured.passes
    assert equal(copied(plain.model), copied(captured.model))
    assert recorders["single"].news == ["eager"] * 2 + ["capture"] + ["replay"] * 7
    assert recorders["multi"].news == ["eager"] * 2 + ["capture", "replay"]
    assert recorders["double"].news == []
    captured.restore(copy.deepcopy(captured.snapshot()))
    captured.step(0)
    assert recorders["single"].news[-1] == "eager", "new tensors of the optimiser are captured anew"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"multi_step_from": 1.5}, "multi_step_from is a fraction of training, got 1.5"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; use sgd or adam"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; use one_cycle, cosine or steps"),
        ({"attack_mode": "off"}, "unknown attack mode 'off'"),
        ({"attack": "pgd"}, "unknown single-step attack 'pgd'"),
        ({"objective": "rslad"}, "name one with --teacher"),
        ({"holdout": 0.0}, "holdout must lie between 0 and 1"),
        ({"holdout": 1.0}, "holdout must lie between 0 and 1"),
        ({"average": 1.0}, "average must be 0 or a decay below 1"),
        ({"average": -0.1}, "average must be a number from 0"),
        ({"auxiliary_on": "both"}, "auxiliary_on must be adversarial or clean"),
    ],
)
def test_what_is_out_of_range_is_refused(small_data, changes, text):
    with pytest.raises(UsageError, match=text):
        tasked(configured(small_data, **changes))
