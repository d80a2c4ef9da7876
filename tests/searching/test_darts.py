"""The controls: DARTS's own step, with and without an adversary of the weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .small import config, everything, same, task_of


def test_darts_is_its_two_updates_by_hand(small_data):
    """Three steps of plain PyTorch on the same batches, from the same start."""
    task, twin = (task_of(config(small_data, "darts_clean", attack="clean", learning_rate=0.1)) for _ in range(2))
    alphas, weights = twin.alphas, twin.weights
    upper = torch.optim.Adam(alphas, lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    lower = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=3e-4)
    for index in range(3):
        task.step(index)
        lower.param_groups[0]["lr"] = task.weight_optimizer.param_groups[0]["lr"]
        for optimizer, parameters, (x, y) in (
            (upper, alphas, twin.validation(index)),
            (lower, weights, twin.train(index)),
        ):
            gradients = torch.autograd.grad(F.cross_entropy(twin.net(x), y), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            if optimizer is lower:
                torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
    for found, wanted in zip(everything(task), everything(twin), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_without_an_adversary_darts_is_darts_clean(small_data):
    task, twin = task_of(config(small_data, attack="clean")), task_of(config(small_data, "darts_clean", attack="clean"))
    attacked = task_of(config(small_data, attack="pgd"))
    for index in range(2):
        for each in (task, twin, attacked):
            each.step(index)
    assert same(everything(task), everything(twin))
    assert not same(everything(attacked), everything(twin))
