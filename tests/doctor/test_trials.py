"""The real trials in processes of their own: noise, crashes, time and place."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rnas_zoo.doctor import run_python
from rnas_zoo.doctor.trials import ONNXRUNTIME

from .machine import CPU, CUDA, Machine, findings, the


def fake_module(folder: Path, monkeypatch, source: str) -> Machine:
    """Every program but onnxruntime's is canned; that one really runs and imports this module."""
    (folder / "onnxruntime").mkdir()
    (folder / "onnxruntime" / "__init__.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    return Machine(onnxruntime=run_python(ONNXRUNTIME))


def test_the_real_program_meets_an_empty_module(tmp_path, monkeypatch):
    assert "empty" in the("onnxruntime", findings(fake_module(tmp_path, monkeypatch, ""))).detail


def test_the_real_program_meets_noise_a_silent_fallback_and_a_crash(tmp_path, monkeypatch):
    source = f"""
import os
__version__ = "9.9"
class SessionOptions: pass
def get_available_providers(): return ["{CUDA}", "Crashing", "{CPU}"]
def preload_dlls(): print("{{noise}}", flush=True)
class InferenceSession:
    def __init__(self, model, options, providers):
        print("noise")
        os.write(1, b"*****\\n")
        os.write(2, b"\\x1b[1;31m[E] Failed to load library /a/b.so with error: libx.so: no such file\\n\\x1b[m\\n")
        if providers == ["Crashing"]:
            os.abort()
    def get_providers(self): return ["{CPU}"]
"""
    machine = fake_module(tmp_path, monkeypatch, source)
    found = findings(machine)
    assert the("onnxruntime", found).detail.startswith("9.9")
    assert the("providers", found).status == "ok"
    assert the("providers", found).detail == (
        f"usable: {CPU}; listed but not usable: {CUDA} (libx.so: no such file), "
        "Crashing (the trial ended early: killed by SIGABRT)"
    )


def test_run_python_ends_in_time():
    start = time.monotonic()
    done = run_python("import time; time.sleep(60)", timeout=0.3)
    assert time.monotonic() - start < 10
    assert done.returncode == 124
    assert "not finished after 0.3 s" in the("torchvision", findings(Machine(torchvision=done))).detail


def test_run_python_ignores_files_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert run_python("import random").returncode == 0
