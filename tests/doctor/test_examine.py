"""The whole examination: of a healthy machine, of one whose checks fail themselves, and of this one."""

from __future__ import annotations

import time

from rnas_zoo import resources
from rnas_zoo.doctor import examine, render

from .machine import CPU, HEALTHY, Machine, bad, ended, findings, the


def test_a_healthy_machine():
    found = findings()
    assert bad(found) == []
    assert [finding.name for finding in found] == [
        "rnas-zoo", "python", "dependencies", "torch", "device", "torchvision", "onnxruntime", "providers",
        "huggingface_hub",
    ]  # fmt: skip
    assert all(name.lower().replace("_", "-") in the("dependencies", found).detail for name in HEALTHY)
    assert "no CUDA device" in the("device", found).detail


def test_failing_checks_are_findings(monkeypatch):
    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(resources, "folder", fail)
    machine = Machine(torch=OSError("no such interpreter"), torchvision=ended("{"), onnxruntime=ended("{}"))
    found = findings(machine)
    assert bad(found) == ["rnas-zoo", "torch", "onnxruntime"]
    assert "OSError: the disk is gone" in the("rnas-zoo", found).detail
    assert "no such interpreter" in the("torch", found).detail
    assert the("torch", findings(Machine(torch=ended("no JSON")))).status == "problem"


def test_this_machine(monkeypatch, capfd):
    monkeypatch.undo()
    start = time.monotonic()
    found = examine()
    assert time.monotonic() - start < 60
    assert [finding for finding in found if finding.status == "problem"] == []
    assert the("providers", found).detail.startswith(f"usable: {CPU}")
    assert render(found).endswith("warnings") or render(found).endswith("warning")
    assert capfd.readouterr() == ("", "")
