"""The moving average against a loop written out, and statistics against the moments of the maps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rnas_zoo.training.average import Average, norms, reestimate

from .small import copied, equal, network


def walked(net: nn.Module, steps: int, seed: int = 0):
    """The network as it is after each of some steps at random; each batch moves its statistics."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for weight in net.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        net.train()(torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64))
        yield net


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_it_is_the_loop_written_out(decay):
    net = network()
    average, expected = Average(net, decay), {}
    for update, now in enumerate(walked(net, 30)):
        average.update(now)
        keep = 0.0 if update == 0 else min(decay, (1 + update) / (10 + update))
        for name, value in copied(now).items():
            if value.is_floating_point():
                expected[name] = keep * expected.get(name, 0.0) + (1 - keep) * value
            else:
                expected[name] = value
    found = average.network.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    assert int(found["1.num_batches_tracked"]) == int(net[1].num_batches_tracked) == 30
    assert average.updates == 30


def test_the_first_network_is_copied_and_the_next_ones_soon_outweigh_it():
    net = nn.Linear(1, 1, bias=False).double()
    average = Average(net, 0.999)
    kept = []
    for value in (5.0, 0.0, 0.0, 0.0):
        net.weight.data.fill_(value)
        average.update(net)
        kept.append(float(average.network.weight))
    assert kept == pytest.approx([5, 5 * 2 / 11, 5 * 2 / 11 * 3 / 12, 5 * 2 / 11 * 3 / 12 * 4 / 13])


def test_the_average_is_a_network_of_its_own_that_never_learns():
    net = network()
    average = Average(net, 0.5)
    average.update(net)
    before = copied(average.network)
    list(walked(net, 2))
    assert equal(copied(average.network), before)
    assert not average.network.training
    assert not any(weight.requires_grad for weight in average.network.parameters())
    assert all(weight.requires_grad for weight in net.parameters())


def test_it_goes_on_where_it_was():
    net = network()
    whole = Average(net, 0.99)
    for step, now in enumerate(walked(net, 8)):
        whole.update(now)
        if step == 3:
            state = copy.deepcopy(whole.state_dict())
            parts = Average(network(seed=9), 0.99)
            parts.load_state_dict(state)
        elif step > 3:
            parts.update(now)
    assert parts.updates == whole.updates == 8
    assert equal(copied(parts.network), copied(whole.network))


# --- statistics -------------------------------------------------------------------------------------------------------


def batches(count: int = 5, size: int = 6):
    generator = torch.Generator().manual_seed(8)
    return [torch.rand(size, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_statistics_are_the_means_of_the_batches_moments():
    net = network()
    net[1].momentum, net[4].momentum = 0.3, 0.003
    list(walked(net, 3))
    weights = {name: value.clone() for name, value in net.named_parameters()}
    reestimate(net, batches())
    first = torch.stack([net[0](x) for x in batches()])
    torch.testing.assert_close(net[1].running_mean, first.mean((0, 1, 3, 4)))
    torch.testing.assert_close(net[1].running_var, first.var((1, 3, 4)).mean(0))
    # Maps behind a norm that trains are normalised by their own batch.
    hidden = [(m - m.mean((0, 2, 3), keepdim=True)) / (m.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
              for m in first]  # fmt: skip
    scale, shift = (part[:, None, None] for part in (net[1].weight, net[1].bias))
    second = torch.stack([net[3]((scale * m + shift).relu()) for m in hidden])
    torch.testing.assert_close(net[4].running_mean, second.mean((0, 1, 3, 4)))
    torch.testing.assert_close(net[4].running_var, second.var((1, 3, 4)).mean(0))
    assert (net[1].momentum, net[4].momentum) == (0.3, 0.003)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())


def test_what_drops_at_random_in_training_does_not_drop():
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).double().train()
    before = torch.get_rng_state()
    reestimate(net, batches())
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(net[1].running_mean, torch.stack(batches()).mean((0, 1, 3, 4)))


def test_momenta_return_even_if_a_batch_fails():
    net = network()

    def failing():
        yield batches()[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reestimate(net, failing())
    assert [norm.momentum for norm in norms(net)] == [0.1, 0.1]
    assert not net.training


def test_a_network_without_batch_norm_is_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)).double().train()
    before = copied(net)
    reestimate(net, (pytest.fail("no batch is needed") for _ in range(3)))
    assert equal(copied(net), before)
    assert not net.training
    assert norms(net) == []
