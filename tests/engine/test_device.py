"""Devices, precision and threads."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.engine.device import autocast, full_precision, resolve_device, threads
from rnas_zoo.errors import UsageError


def test_auto_is_cuda_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_devices_are_resolved_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    for index in range(torch.cuda.device_count()):
        assert resolve_device(f"cuda:{index}") == torch.device("cuda", index)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:-2"])
def test_unknown_devices_are_refused_with_the_known_ones(name):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:0"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["meta", "mps"])
def test_other_kinds_of_device_are_refused(name):
    with pytest.raises(UsageError, match="is not supported"):
        resolve_device(name)


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="is not there"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="torch sees 0 CUDA devices"):
        resolve_device("cuda")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_compute_in_the_precision_asked_for(precision, dtype):
    layer = torch.nn.Linear(3, 2)
    with autocast(torch.device("cpu"), precision):
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer(torch.ones(1, 3)).dtype == torch.float32


def test_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="use fp32 or bf16"):
        autocast(torch.device("cpu"), "fp16")


def test_threads_are_set_inside_the_block_only():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_full_precision_switches_tf32_off_and_leaves_what_it_found():
    units = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [unit.allow_tf32 for unit in units]
    with full_precision():
        assert [unit.allow_tf32 for unit in units] == [False] * 2
    assert [unit.allow_tf32 for unit in units] == before
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert [unit.allow_tf32 for unit in units] == before


def test_exporting_in_full_precision_leaves_fast_convolutions_on():
    with full_precision():
        torch.export.export(torch.nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),))
        assert torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled
