"""Every made-up machine is a Linux one."""

from __future__ import annotations

import platform
import sys

import pytest


@pytest.fixture(autouse=True)
def linux_x86(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
