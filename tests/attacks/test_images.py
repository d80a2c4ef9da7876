"""Attacks for training: the images that the judged attacks find, without the passes of a judgement."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.attacks import FGSMRS, NFGSM, PGD, Threat, n_fgsm, n_fgsm_images, pgd, pgd_images

from .small import Counting, each_threat, keys

PGDS = [PGD(steps=1, relative_step=1.75), PGD(steps=7), PGD(steps=3, random_start=False), PGD(steps=0)]


@each_threat
@pytest.mark.parametrize("config", PGDS, ids=str)
def test_pgds_images_are_its_last_iterates(small_net, small_batch, threat, config):
    x, y = small_batch
    model, random = Counting(small_net), torch.get_rng_state()
    found = pgd_images(model, x, y, threat, config, keys(len(x)))
    assert torch.equal(found, pgd(small_net, x, y, threat, config, keys(len(x))).x_adv)
    assert (model.forwards, model.backwards) == (config.steps * len(x), config.steps * len(x))
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad and p.grad is None for p in small_net.parameters())


@each_threat
@pytest.mark.parametrize("config", [NFGSM(), FGSMRS()], ids=str)
def test_a_single_steps_images_are_those_it_judges(small_net, small_batch, threat, config):
    x, y = small_batch
    model = Counting(small_net)
    found = n_fgsm_images(model, x, y, threat, config, keys(len(x)))
    assert torch.equal(found, n_fgsm(small_net, x, y, threat, config, keys(len(x))).x_adv)
    assert (model.forwards, model.backwards) == (len(x), len(x))
    assert not found.requires_grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_keep_their_type_and_memory_format(small_net, small_batch, memory_format):
    x, y = small_batch
    net, x = small_net.float(), x.float().contiguous(memory_format=memory_format)
    for found in (pgd_images(net, x, y, Threat(), PGD(steps=2), keys(24)),
                  n_fgsm_images(net, x, y, Threat(), NFGSM(), keys(24))):  # fmt: skip
        assert found.dtype == torch.float32
        assert found.is_contiguous(memory_format=memory_format)
