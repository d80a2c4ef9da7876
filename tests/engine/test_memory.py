"""Freed memory is kept: pages are not mapped anew, and what the user has set stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from rnas_zoo.engine import memory

from ..processes import ROOT

on_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="waits for a machine with glibc: other C libraries have nothing to set"
)
PROGRAM = """
import resource, sys, torch
from rnas_zoo.cli.common import computing
from rnas_zoo.engine.memory import keep_freed_memory
def faults():
    for _ in range(5):
        torch.ones(16_000_000)  # 64 MB: above what glibc ever keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
with computing(1):
    kept = min(faults() for _ in range(3))  # a kernel short of memory may have taken some pages back
print(keep_freed_memory(), plain, kept)
"""


def faults(**variables: str) -> tuple[str, int, int]:
    environment = {name: value for name, value in os.environ.items() if name not in memory.VARIABLES}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    said, plain, kept = done.stdout.split()
    return said, int(plain), int(kept)


@on_glibc
def test_commands_do_not_map_their_memory_anew():
    said, plain, kept = faults()
    assert said == "True"
    pages = 5 * 64_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert plain > pages / 2
    assert kept < pages / 50


@on_glibc
def test_what_the_user_has_set_stays():
    assert faults(MALLOC_MMAP_THRESHOLD_="1000000")[0] == "False"


def test_other_c_libraries_are_left_alone(monkeypatch):
    for name in memory.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()
