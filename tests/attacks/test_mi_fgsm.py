"""MI-FGSM against the paper's loop, and against I-FGSM where the momentum is off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.attacks import MIFGSM, PGD, Threat, mi_fgsm, pgd

from .small import Linear, each_threat, keys


def plain_mi_fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, decay: float) -> Tensor:
    """The loop as the authors' code has it: gradients over their L1 mean, summed."""
    z, total = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(z), y), z)
        total = decay * total + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        move = total.sign() if threat.norm == "linf" else total / total.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        z = (z.detach() + threat.eps / steps * move).clamp(0, 1)
    return z


@each_threat
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_it_is_the_papers_loop(small_net, small_batch, threat, decay):
    x, y = small_batch
    found = mi_fgsm(small_net, x, y, threat, MIFGSM(steps=6, decay=decay), keys(len(x)))
    torch.testing.assert_close(found.x_adv, plain_mi_fgsm(small_net, x, y, threat, 6, decay), rtol=0, atol=1e-8)
    assert torch.equal(found.broken, small_net(found.x_adv).argmax(1) != y)
    assert found.broken.any()
    assert not found.broken.all()


@each_threat
def test_without_momentum_it_is_iterative_fgsm(small_net, small_batch, threat):
    x, y = small_batch
    found = mi_fgsm(small_net, x, y, threat, MIFGSM(steps=8, decay=0), keys(len(x)))
    plain = pgd(small_net, x, y, threat, PGD(steps=8, relative_step=1 / 8, random_start=False), keys(len(x)))
    torch.testing.assert_close(found.x_adv, plain.x_adv, rtol=0, atol=1e-12)


@each_threat
def test_on_a_linear_model_it_ends_at_the_worst_point(threat):
    x = 0.35 + 0.3 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model, y = Linear(), torch.arange(8) % 2
    found = mi_fgsm(model, x, y, threat, MIFGSM(), keys(8))
    torch.testing.assert_close(found.x_adv, model.worst_point(x, y, threat), rtol=0, atol=1e-9)


def test_no_steps_leave_the_image(small_net, small_batch):
    x, y = small_batch
    found = mi_fgsm(small_net, x, y, Threat(), MIFGSM(steps=0), keys(len(x)))
    assert torch.equal(found.x_adv, x)
    assert (found.forwards, found.backwards) == (len(x), 0)


def test_the_papers_defaults_are_the_defaults():
    assert MIFGSM() == MIFGSM(steps=10, decay=1.0)
