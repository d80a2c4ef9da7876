"""Where one choice is useful and the others are not, every search finds it, and chance does not."""

from __future__ import annotations

import pytest
import torch

from .planted import USEFUL, bright_and_dark, last_role, planted, share_of_useful
from .small import config, same, task_of, teacher_in

SEARCHES = {
    "darts": {"attack": "pgd"},
    "darts_clean": {"attack": "clean"},
    "rnas_noise": {"attack": "clean"},
    "rnas_vuln": {"attack": "nfgsm", "tail": 0.25},
    "arnas": {"attack": "pgd", "none": False},
    "e2rnas": {"attack": "nfgsm", "settings": {"limit": 9.0}},  # a floor above the largest network: R is flat
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return bright_and_dark(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("method", SEARCHES)
def test_every_search_finds_the_one_useful_operation(images, method):
    task = planted(images, method, **SEARCHES[method])
    before = [weight.detach().clone() for weight in task.weights]
    for index in range(task.total_steps):
        task.step(index)
    assert share_of_useful(task.derive()) == 1
    assert same(task.weights, before), "only α learns"
    # It stands above the operations that do nothing, and those above the pools that carry nothing the classifier reads.
    useful = task.net.operations.index(USEFUL)
    weight = task.probabilities()[last_role(task.net.kind)]
    others = torch.cat([weight[:, :useful], weight[:, useful + 1 :]], dim=1)
    assert float(weight[:, useful].min()) > float(others.max())


def test_chance_does_not_find_it(images):
    found = [share_of_useful(planted(images, "random", seed=seed).derive()) for seed in range(8)]
    assert max(found) < 1
    assert sum(found) / len(found) < 0.4  # one of seven operations


def test_rnas_cl_finds_the_one_tutor_whose_attention_is_its_own(images, tmp_path):
    """All maps of this student are constant, and so is that of one of the teacher's three layers."""
    changes = {"shared": True, "tail": 0.5, "optimizer": "adam", "learning_rate": 0.0, "arch_learning_rate": 0.3}
    teacher = teacher_in(tmp_path, classes=2)
    settings = {"depth": 1, "gamma": 100.0, "grid": 4}
    task = task_of(
        config(images, "rnas_cl", 10, attack="clean", teacher=teacher, weight_decay=0.0, settings=settings, **changes)
    )
    with torch.no_grad():
        for name, weight in task.net.student.named_parameters():
            weight.fill_(1 if name.endswith("bias") else 0)
    widths = [task.net.alphas[name].detach().clone() for name in ("stage0", "stage1", "stage2")]
    for index in range(10):
        task.step(index)
    found = task.derive()
    assert found.tutors == (1,) * 10
    # Nothing depends on the widths but the cost, so that every block becomes the narrowest.
    assert [stage.widths for stage in found.stages] == [(12,), (20,), (52,)]
    assert not same(widths, [task.net.alphas[name] for name in ("stage0", "stage1", "stage2")])
