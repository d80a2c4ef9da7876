"""RNAS-CL's hooks: the loss by its formula, who steps when, and the temperature's law."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.attacks import Keys
from rnas_zoo.errors import UsageError
from rnas_zoo.models.teachers import WideResNet
from rnas_zoo.searching.channel_supernet import ChannelSupernet
from rnas_zoo.searching.config import PRESETS, SearchConfig
from rnas_zoo.searching.methods.rnas_cl import RnasCl, RnasClSettings


def search_of(in_tail: bool = False, fraction: float | Tensor = 0.0, classes: int = 4, tutors: int = 7) -> Any:
    """What the engine gives a hook, small; `updates` collects the architecture's gradients instead of a step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = WideResNet(10, 1, 3, num_classes=4).eval().requires_grad_(False)
        net = ChannelSupernet(
            classes, (1, 2), stem=4, widths=((4, 3), (6, 5, 4)), strides=(1, 2), tutors=tutors
        ).train()
        with torch.no_grad():
            for theta in net.arch_parameters():
                theta.normal_()
            for block in (block for stage in net.student.stages for block in stage):
                block.project[1].weight.uniform_(0.5, 1.5)  # blocks with a residual start at 0
    updates: list[list[Tensor]] = []
    return SimpleNamespace(
        net=net,
        teacher=teacher,
        weights=list(net.weight_parameters()),
        alphas=net.arch_parameters(),
        in_tail=in_tail,
        fraction=fraction,
        attack=lambda x, y, keys: x,
        gradients=lambda loss, parameters: list(torch.autograd.grad(loss, parameters)),
        update=updates.append,
        updates=updates,
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 3, 16, 16, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def keys(first: int = 0) -> Keys:
    return Keys(3, torch.arange(first, first + 8))


def teacher_layers(teacher: WideResNet, x: Tensor) -> list[Tensor]:
    """Raw outputs of the first convolution and of both in each block, by hand."""
    x = teacher.conv1(x)
    found = [x]
    for stage in teacher.stages:
        block = stage[0]
        active = block.bn1(x).relu()
        first = block.conv1(active)
        second = block.conv2(block.bn2(first).relu())
        found += [first, second]
        x = second + (x if block.shortcut is None else block.shortcut(active))
    return found


@pytest.mark.parametrize("reading", ["paper", "repo"])
def test_the_loss_is_the_formula(reading):
    settings = RnasClSettings(alpha_cost=0.3, beta_cost=0.7, gamma=2.0, attention=reading, grid=5, temperature=2.0)
    search, (x, y) = search_of(fraction=0.5), batch()
    found = RnasCl(settings).weight_loss(search, x, y, keys())
    net, n = search.net, len(x)
    assert net.temperature.item() == pytest.approx(2 * math.exp(-2.25))

    logits, maps = net.features(x)  # the same draw, which stands until the next
    p, q = logits.softmax(1), search.teacher(x).softmax(1)

    def attention(a: Tensor) -> Tensor:
        flat = F.interpolate((a**2).sum(1, keepdim=True), size=(5, 5), mode="bilinear").reshape(n, 25)
        return flat / (flat.norm(dim=1, keepdim=True) if reading == "paper" else flat.norm())

    g, total = net.tutor_weights(), 0.0
    taught = [attention(a) for a in teacher_layers(search.teacher, x)]
    assert g.shape == (len(maps), len(taught)) == (10, 7)
    for i, a in enumerate(maps):
        differences = [attention(a) - t for t in taught]
        if reading == "paper":
            total += sum(g[i, j] * (d**2).sum() / n for j, d in enumerate(differences)) / len(maps)
        else:
            total += torch.cat([g[i, j] * d for j, d in enumerate(differences)]).norm()
    entropy = -torch.log(p[torch.arange(n), y]).mean()
    divergence = (q * (q / p).log()).sum(1).mean()
    expected = 0.3 * (entropy + 2.0 * total + divergence) * 0.7 * torch.log(net.expected_macs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_outside_the_tail_the_weights_learn_and_inside_it_the_architecture():
    method, (x, y) = RnasCl(), batch()
    search = search_of(in_tail=False)
    assert method.arch_step(search, (x, y), batch(1), keys()) == {}
    assert search.updates == []
    loss = method.weight_loss(search, x, y, keys())
    assert all(g is not None for g in torch.autograd.grad(loss, search.weights))

    search = search_of(in_tail=True)
    assert method.weight_loss(search, x, y, keys()) is None
    metrics = method.arch_step(search, (x, y), batch(1), keys())
    # both levels have one loss, on the same images
    torch.testing.assert_close(metrics["loss"], loss.detach())
    assert set(metrics) == {"loss", "cross_entropy", "attention", "distillation", "macs"}
    assert not any(value.requires_grad for value in metrics.values())
    (gradients,) = search.updates
    assert [g.shape for g in gradients] == [theta.shape for theta in search.alphas]
    assert all(g.abs().max() > 0 for g in gradients)
    assert all(p.grad is None for p in search.net.parameters())


def test_every_step_draws_anew_and_the_draw_belongs_to_its_keys():
    method, search, (x, y) = RnasCl(), search_of(), batch()
    losses = [method.weight_loss(search, x, y, keys(first)).item() for first in (0, 8, 0)]
    assert losses[0] == pytest.approx(losses[2])
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_images_are_those_of_the_configured_attack():
    method, search, (x, y) = RnasCl(), search_of(), batch()
    other = RnasCl().weight_loss(search, 1 - x, y, keys())
    search.attack = lambda x, y, keys: 1 - x
    torch.testing.assert_close(method.weight_loss(search, x, y, keys()), other)


def test_the_teacher_is_only_asked():
    method, search, (x, y) = RnasCl(), search_of(), batch()
    before = {name: tensor.clone() for name, tensor in search.teacher.state_dict().items()}
    method.weight_loss(search, x, y, keys()).backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in search.teacher.state_dict().items())
    assert all(p.grad is None for p in search.teacher.parameters())
    assert not any(module._forward_hooks for module in search.teacher.modules())
    assert not search.teacher.training


def test_the_architecture_turns_to_the_tutor_that_its_layer_resembles():
    """A student whose stem is the teacher's first convolution chooses that tutor for it."""
    method = RnasCl(RnasClSettings(gamma=100.0, grid=16, temperature_decay=0.0))
    search, (x, y) = search_of(in_tail=True), batch()
    with torch.no_grad():
        search.net.alphas["tutors"].fill_(0)
    optimizer = torch.optim.Adam(search.alphas, lr=0.1)

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return search.teacher.conv1(x)[:, [0, 1, 2, 0]] * torch.tensor([0.5**0.5, 1, 1, 0.5**0.5]).view(1, 4, 1, 1)

    search.net.student.stem = Same()

    def update(gradients: list[Tensor]) -> None:
        for theta, gradient in zip(search.alphas, gradients, strict=True):
            theta.grad = gradient
        optimizer.step()

    search.update = update
    for index in range(30):
        method.arch_step(search, (x, y), (x, y), keys(8 * index))
    assert search.net.alphas["tutors"][0].argmax() == 0
    assert search.net.alphas["tutors"][0].softmax(0)[0] > 0.5
    assert method.derive(search) == search.net.derive()


def test_weight_steps_lower_the_loss():
    method, search, (x, y) = RnasCl(), search_of(), batch()
    optimizer = torch.optim.Adam(search.weights, lr=0.004)
    losses = []
    for _ in range(15):
        loss = method.weight_loss(search, x, y, keys())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


# The temperature


@pytest.mark.parametrize(("epoch", "temperature"), [(0, 5.0), (50, 0.527), (99, 0.058), (100, 0.0555)])
def test_the_temperature_has_the_published_values(epoch, temperature):
    assert float(RnasCl().temperature(epoch / 100)) == pytest.approx(temperature, abs=5e-4)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_the_temperature_falls_in_100_levels_however_long_the_search_is(dtype):
    method = RnasCl()
    for steps in (100, 700, 1900):
        for step in range(steps + 1):
            fraction = step / steps if dtype is None else torch.tensor(step / steps, dtype=dtype)
            expected = 5 * math.exp(-0.045 * (100 * step // steps))
            assert float(method.temperature(fraction)) == pytest.approx(expected, rel=1e-6)


# Configuration


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_fields_of_the_configuration(preset):
    config = SearchConfig(data="digits", method="rnas_cl", **RnasCl.presets[preset])
    assert (config.attack, config.tail, config.shared, config.optimizer) == ("clean", 0.2, True, "adam")
    assert (config.learning_rate, config.arch_learning_rate, config.batch_size) == (0.004, 0.1, 256)
    assert (config.epochs, config.augmentation) == {"paper": (100, "pad_crop_flip"), "fast": (20, "")}[preset]


def test_default_teachers_are_bundled():
    for name in RnasCl.teachers.values():
        assert timm.is_model_pretrained(name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention": "code"}, "attention must be one of paper, repo, got 'code'"),
        ({"grid": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"temperature": 0.0}, "positive"),
        ({"beta_cost": -0.5}, "positive"),
        ({"gamma": -1.0}, "must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        RnasClSettings(**settings)


def test_teachers_that_do_not_fit_are_refused():
    (x, y), search = batch(), search_of()
    search.teacher = None
    with pytest.raises(UsageError, match="rnas_cl learns from a robust teacher"):
        RnasCl().weight_loss(search, x, y, keys())
    with pytest.raises(UsageError, match="the teacher has 7 layers, but the supernet chooses among 9"):
        RnasCl().weight_loss(search_of(tutors=9), x, y, keys())
    with pytest.raises(UsageError, match="the teacher knows 4 classes, the data set has 5"):
        RnasCl().weight_loss(search_of(classes=5), x, y, keys())
