"""The two levels of a search: the images of each, and the gradient of one through a step of the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rnas_zoo import data
from rnas_zoo.searching import unrolled
from rnas_zoo.searching.task import SearchTask

from .naive import NaiveSupernet
from .small import CPU, config, everything, same, task_of


@pytest.mark.parametrize("shared", [False, True])
def test_weights_and_architecture_learn_from_different_images_of_the_training_split(small_data, shared):
    search = config(small_data, shared=shared)
    dataset = data.load(search.data)
    task = SearchTask(search, dataset, CPU)
    halves = [
        {data.pixel_hash(image.permute(1, 2, 0).numpy()) for image in part.images}
        for part in (task.train, task.validation)
    ]
    kept, held = ({data.pixel_hash(image) for image in part.images} for part in dataset.split(search.held_out_seed))
    assert halves[0] | halves[1] == kept
    assert (halves[0] | halves[1]) & held == set()
    if shared:
        assert halves[0] == halves[1]
    else:
        assert halves[0] & halves[1] == set()
        assert abs(len(halves[0]) - len(halves[1])) <= 1


def exact(task: SearchTask, rate: float, momenta: dict[str, torch.Tensor], inner: Any, outer: Any) -> torch.Tensor:
    """d/dα of the outer loss after one step of SGD, differentiated through the step, on the plain supernet."""
    net = NaiveSupernet(3, 2, 3, "cifar_stride2").double().copy_from(task.net)
    weights = {name: p for name, p in net.named_parameters() if not name.startswith(("alphas", "betas"))}
    moving = net.slices({**task.net.state_dict(), **momenta})
    alphas = [net.alphas[role] for role in ("normal", "reduce")]
    x, y = inner
    slopes = torch.autograd.grad(F.cross_entropy(net(x), y), list(weights.values()), create_graph=True)
    after = {
        name: w - rate * (0.9 * moving[name] + slope + 3e-4 * w)
        for (name, w), slope in zip(weights.items(), slopes, strict=True)
    }
    x, y = outer
    found = torch.autograd.grad(F.cross_entropy(torch.func.functional_call(net, after, (x,)), y), alphas)
    return torch.cat([g.flatten() for g in found])


def test_unrolled_gradients_are_derivatives_through_the_step_and_leave_no_trace(small_data, monkeypatch):
    # In so small a network many a ReLU changes sides between w + R v and w - R v; a small R keeps them where they are.
    monkeypatch.setattr(unrolled, "RADIUS", 1e-6)
    task = task_of(config(small_data, "e2rnas"))
    task.net.double()
    task.learning_rate.fill_(0.05)
    generator = torch.Generator().manual_seed(0)
    names = {id(weight): name for name, weight in task.net.named_parameters()}
    momenta = {}
    for weight in task.weights:
        buffer = 0.01 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        task.weight_optimizer.state[weight]["momentum_buffer"] = momenta[names[id(weight)]] = buffer
    (x, y), (u, v) = task.train(0), task.validation(0)
    x, u = x.double(), u.double()
    before = everything(task)
    first = torch.autograd.grad(F.cross_entropy(task.net(u), v), task.alphas)
    task.net.load_state_dict(dict(zip(task.net.state_dict(), before, strict=True)))
    one, two = task.unrolled(
        lambda: F.cross_entropy(task.net(x), y),
        [lambda: F.cross_entropy(task.net(u), v), lambda: 0.5 * F.cross_entropy(task.net(u), v)],
    )
    assert same(everything(task), before), "weights and running statistics, to the last bit"
    assert all(weight.requires_grad and weight.grad is None for weight in task.weights)
    found = torch.cat([g.flatten() for g in one.full])
    wanted = exact(task, float(task.learning_rate), momenta, (x, y), (u, v))
    plain = torch.cat([g.flatten() for g in first])
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
    assert (plain - wanted).norm() > 0.2 * wanted.norm(), "the step matters here"
    half = torch.cat([g.flatten() for g in two.full])
    torch.testing.assert_close(half, found / 2, rtol=1e-6, atol=1e-9)
