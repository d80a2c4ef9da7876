"""ARNAS: MGDA on two second-order gradients, adversarial images shared by both levels, three kinds of cells."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from rnas_zoo import genotype
from rnas_zoo.attacks import Keys
from rnas_zoo.errors import UsageError
from rnas_zoo.searching.methods.arnas import ArnasSettings
from rnas_zoo.searching.run import search
from rnas_zoo.searching.task import ARCHITECTURE_DRAWS

from .small import config, task_of


def flat(tensors) -> np.ndarray:
    return torch.cat([t.detach().flatten() for t in tensors]).double().numpy()


def test_the_step_follows_the_shortest_combination_of_both_gradients(small_data):
    settings = config(small_data, "arnas", none=False, attack_steps=2, settings={"adversarial_weight": 0.4})
    task, twin = task_of(settings), task_of(settings)
    for each in (task, twin):
        each.learning_rate.fill_(settings.learning_rate)
    (x, y), (u, v) = twin.train(0), twin.validation(0)
    keys = Keys(twin.seed, twin.train.positions(0) + ARCHITECTURE_DRAWS)
    x_adv, u_adv = twin.attack(x, y, keys), twin.attack(u, v, keys)
    inner = lambda: F.cross_entropy(twin.net(x_adv), y)  # noqa: E731
    (natural,) = twin.unrolled(inner, [lambda: F.cross_entropy(twin.net(u), v)])
    (adversarial,) = twin.unrolled(inner, [lambda: 0.4 * F.cross_entropy(twin.net(u_adv), v)])
    g1, g2 = flat(natural.full), flat(adversarial.full)
    shares = np.linspace(0, 1, 20_001)
    lengths = shares**2 * (g1 @ g1) + 2 * shares * (1 - shares) * (g1 @ g2) + (1 - shares) ** 2 * (g2 @ g2)
    share = shares[lengths.argmin()]
    metrics = task.step(0)
    assert float(metrics["mgda_natural"]) == pytest.approx(share, abs=1e-3)
    np.testing.assert_allclose(flat(a.grad for a in task.alphas), share * g1 + (1 - share) * g2, rtol=0.02, atol=1e-4)
    assert float(metrics["validation_loss"]) == pytest.approx(natural.loss.item(), rel=1e-4)
    assert float(metrics["adversarial_validation_loss"]) == pytest.approx(adversarial.loss.item() / 0.4, rel=1e-4)


def test_both_levels_learn_from_the_same_adversarial_images(small_data):
    task = task_of(config(small_data, "arnas", none=False))
    attacked, seen = [], []

    def perturb(net, x, y, threat, keys):
        attacked.append(x)
        return 1 - x

    task.perturb = perturb
    task.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task.step(0)
    x, u = task.train(0)[0], task.validation(0)[0]
    assert [torch.equal(*pair) for pair in zip(attacked, (x, u), strict=True)] == [True, True]
    # The virtual step, two outer losses, four differences, the weights' step.
    wanted = [1 - x, u, 1 - u, *[1 - x] * 4, 1 - x]
    assert [torch.equal(*pair) for pair in zip(seen, wanted, strict=True)] == [True] * 8
    task.step(1)
    assert torch.equal(attacked[2], task.train(1)[0])
    assert len(attacked) == 4


def test_it_finds_three_kinds_of_cells_that_build(small_data, tmp_path):
    out = tmp_path / "found.json"
    found = search(config(small_data, "arnas", 1, none=False), out, device="cpu")
    assert found.kind == genotype.load(out).kind == "accurate_robust_cells"
    for role in ("accurate", "reduce", "robust"):
        assert len(found.structure[role].edges) == 8
        assert all(edge.op in genotype.PRIMITIVES[1:] for edge in found.structure[role].edges)
    model = timm.create_model("rnas_cells", genotype=str(out), channels=4, layers=4, num_classes=3).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_the_weight_of_the_adversarial_loss_is_positive(weight):
    with pytest.raises(UsageError, match="adversarial_weight must be positive"):
        ArnasSettings(weight)
