"""What a training is put together from: groups of the optimiser, batch norms, teachers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rnas_zoo.errors import UsageError

from .small import PLAIN, configured, copied, run, tasked, taught


@pytest.mark.parametrize("decay_all", [True, False])
def test_decay_acts_on_all_weights_or_on_convolutions_and_linear_layers(small_data, decay_all):
    task = tasked(configured(small_data, objective="clean", **{**PLAIN, "weight_decay": 0.5}, decay_all=decay_all))
    without = tasked(replace(task.config, weight_decay=0.0))
    before = copied(task.model)
    task.step(0)
    without.step(0)
    for (name, weight), plain in zip(task.model.named_parameters(), without.model.parameters(), strict=True):
        wide = name.endswith("weight") and weight.ndim in (2, 4)
        expected = plain.detach() - 0.05 * 0.5 * before[name] * (decay_all or wide)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_the_momentum_of_batch_norm_can_be_set(small_data):
    means = []
    for momentum in (0.0, 0.1, 0.5):
        task = run(tasked(configured(small_data, objective="clean", bn_momentum=momentum)), last=1)
        means.append(torch.cat([b for name, b in task.model.named_buffers() if name.endswith("running_mean")]))
    assert torch.equal(means[0], means[1]), "0 is the network's own, torch's 0.1"
    torch.testing.assert_close(means[2], 5 * means[1])


def test_a_teacher_by_reference_teaches(small_data, tmp_path):
    """The untouched weights of a Python file's network; the attention term joins unless it is switched off."""
    (tmp_path / "t.py").write_text(
        "import torch\nfrom tests.training.small import taught\n\ndef teacher():\n    return taught(3).float()\n"
    )
    ref = f"{tmp_path / 't.py'}:teacher"
    for changes, parts in (({}, {"distillation", "attention"}), ({"attention": 0.0}, {"distillation"})):
        task = tasked(configured(small_data, objective="rnas_cl", teacher=ref, **changes))
        assert task.step(0).keys() == {"loss", "accuracy", *parts}
    assert tasked(configured(small_data, objective="rslad", teacher=ref)).objectives["single"].cross_layer is None


@pytest.mark.parametrize("objective", ["rslad", "rnas_cl", "pgd"])
def test_a_teacher_of_other_classes_is_refused_before_the_first_step(small_data, objective):
    with pytest.raises(UsageError, match="the teacher knows 5 classes, the data set has 3"):
        tasked(configured(small_data, objective=objective), teacher=taught(5).float())
