"""The doctor: each known illness simulated, its fix named; one real examination of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnas_zoo import doctor, resources
from rnas_zoo.doctor import Finding, examine, render, run_python

NMS = """Traceback (most recent call last):
  File "torchvision/_meta_registrations.py", line 163, in <module>
    @torch.library.register_fake("torchvision::nms")
RuntimeError: operator torchvision::nms does not exist
"""
CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
TORCH = {
    "version": "2.15.0+cu132", "cuda": "13.2", "gpus": [], "threads": 2, "cpu": "AVX2", "cpu_bf16": False,
    "driver": False, "warnings": [],
}  # fmt: skip
GPU = ["NVIDIA H200", 150 * 2**30, True]
HEALTHY = {
    "torch": "2.15.0", "torchvision": "0.29.2", "timm": "1.0.31", "onnx": "1.23.2", "onnxscript": "0.7.2",
    "onnxruntime-gpu": "1.31.1", "onnx2torch": "1.5.15", "huggingface_hub": "2.4.0", "safetensors": "0.8.0",
    "click": "8.5.1", "numpy": "2.4.6", "scipy": "1.17.1", "scikit-learn": "1.9.1", "matplotlib": "3.11.2",
    "Jinja2": "3.1.6", "wrapt": "2.5.2", "rich": "15.0.0", "pillow": "13.0.0",
    "markdown-it-py": "4.3.0",
}  # fmt: skip


def ended(*answers: dict | str, stderr: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    lines = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    return subprocess.CompletedProcess([], status, "\n".join(lines), stderr)


def runtime(version: str | None = "1.31.1", **taken: str) -> subprocess.CompletedProcess[str]:
    """onnxruntime's answers; `taken`: provider listed → provider that the session really had."""
    tried = [{"provider": name, "taken": got, "reason": f"why not {name}"} for name, got in taken.items()]
    return ended({"version": version, "listed": list(taken)}, *tried)


class Machine:
    """Stands in for the subprocess runner; by default everything is well."""

    def __init__(self, torch=None, torchvision=None, onnxruntime=None) -> None:
        self.ended = {
            doctor._TORCH: torch or ended(TORCH),
            doctor._TORCHVISION: torchvision or ended("0.29.2+cu132"),
            doctor._ONNXRUNTIME: onnxruntime or runtime(**{CPU: CPU}),
        }

    def __call__(self, code: str) -> subprocess.CompletedProcess[str]:
        result = self.ended[code]
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture(autouse=True)
def linux_x86(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")


def findings(machine: Machine | None = None, remove=(), environ=None, **versions: str) -> list[Finding]:
    installed = {name: version for name, version in HEALTHY.items() if name not in remove}
    installed |= {name.replace("_", "-"): version for name, version in versions.items()}
    return examine(run=machine or Machine(), distributions=installed, environ=environ or {})


def the(name: str, found: list[Finding]) -> Finding:
    (finding,) = [finding for finding in found if finding.name == name]
    return finding


def bad(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found if finding.status != "ok"]


def lacking(found: list[Finding]) -> Finding:
    (finding,) = [finding for finding in found if finding.name == "dependencies" and finding.status != "ok"]
    return finding


def test_a_healthy_machine():
    found = findings()
    assert bad(found) == []
    assert [finding.name for finding in found] == [
        "rnas-zoo", "python", "dependencies", "torch", "device", "torchvision", "onnxruntime", "providers",
        "huggingface_hub",
    ]  # fmt: skip
    assert all(name.lower().replace("_", "-") in the("dependencies", found).detail for name in HEALTHY)
    assert "no CUDA device" in the("device", found).detail


# --- torch and torchvision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("builds", [("2.14.1+cpu", "0.29.1"), ("2.14.1", "0.29.1+cpu"), ("2.14.1", "0.28.0")])
def test_mismatched_torchvision(builds):
    torch, torchvision = builds
    broken = Machine(torchvision=ended(stderr=NMS, status=1))
    finding = the("torchvision", findings(broken, torch=torch, torchvision=torchvision))
    assert finding.status == "problem"
    assert f"torch {torch} and torchvision {torchvision} are no matching pair" in finding.detail
    assert "operator torchvision::nms does not exist" in finding.detail
    assert ("different builds" in finding.detail) == ("+cpu" in torch + torchvision)
    assert finding.fix.startswith("pip install --force-reinstall torch torchvision")
    assert "same index" in finding.fix


def test_torchvision_of_another_cuda():
    stderr = "RuntimeError: Detected that PyTorch and torchvision were compiled with different CUDA major versions.\n"
    assert (
        "no matching pair" in the("torchvision", findings(Machine(torchvision=ended(stderr=stderr, status=1)))).detail
    )


@pytest.mark.parametrize(
    ("stderr", "status", "words"),
    [
        ("Traceback\nImportError: libjpeg.so.8: cannot open\n\n", 1, "ImportError: libjpeg.so.8: cannot open"),
        ("ModuleNotFoundError: No module named 'torchvision'", 1, "No module named 'torchvision'"),
        ("", -11, "killed by SIGSEGV"),
        ("", 3, "exit status 3"),
    ],
)
def test_torchvision_fails_otherwise(stderr, status, words):
    finding = the("torchvision", findings(Machine(torchvision=ended(stderr=stderr, status=status))))
    assert finding.status == "problem"
    assert words in finding.detail
    assert "no matching pair" not in finding.detail
    assert finding.fix


def test_torch_does_not_import():
    stderr = "ImportError: libtorch_cpu.so: undefined symbol: iJIT_NotifyEvent\n"
    found = findings(Machine(torch=ended(stderr=stderr, status=1)))
    assert bad(found) == ["torch"]
    assert "undefined symbol" in the("torch", found).detail


def test_gpu():
    assert "cuda:0 NVIDIA H200, 150.0 GiB, bf16 yes; cuda:1" in (
        the("device", findings(Machine(torch=ended({**TORCH, "gpus": [GPU, GPU]})))).detail
    )


def test_gpu_that_torch_cannot_use():
    old = {**TORCH, "driver": True, "warnings": ["The NVIDIA driver on your system is too old"]}
    finding = the("device", findings(Machine(torch=ended(old))))
    assert finding.status == "warning"
    assert "too old" in finding.detail
    assert "driver" in finding.fix
    cpu_build = {**TORCH, "driver": True, "cuda": None, "version": "2.15.0+cpu"}
    finding = the("device", findings(Machine(torch=ended(cpu_build))))
    assert finding.status == "warning"
    assert "without CUDA" in finding.detail
    assert "--force-reinstall torch torchvision" in finding.fix


# --- onnxruntime ------------------------------------------------------------------------------------------------------

CLEAN = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_both_onnxruntimes():
    found = findings(onnxruntime="1.31.1")
    assert bad(found) == ["onnxruntime"]
    finding = the("onnxruntime", found)
    assert finding.status == "problem"
    assert "onnxruntime and onnxruntime-gpu are both installed" in finding.detail
    assert finding.fix == CLEAN


def test_empty_onnxruntime():
    found = findings(Machine(onnxruntime=ended({"version": None})))
    finding = the("onnxruntime", found)
    assert finding.status == "problem"
    assert "empty" in finding.detail
    assert finding.fix == CLEAN


def test_onnxruntime_missing():
    stderr = "Traceback\nModuleNotFoundError: No module named 'onnxruntime'\n"
    found = findings(Machine(onnxruntime=ended(stderr=stderr, status=1)), remove=["onnxruntime-gpu"])
    assert bad(found) == ["dependencies", "onnxruntime"]
    assert lacking(found).detail == "onnxruntime-gpu is not installed; onnxruntime-gpu>=1.22 is needed"
    assert the("onnxruntime", found).fix == "pip install onnxruntime-gpu"


def test_cuda_listed_but_cpu_taken():
    silent = runtime(**{CPU: CPU, TENSORRT: "", CUDA: CPU})
    finding = the("providers", findings(Machine(onnxruntime=silent)))
    assert finding.status == "ok"  # no GPU here: nothing is lost
    assert finding.detail.startswith(f"usable: {CPU}; listed but not usable: ")
    assert f"{CUDA} (why not {CUDA})" in finding.detail
    finding = the("providers", findings(Machine(torch=ended({**TORCH, "gpus": [GPU]}), onnxruntime=silent)))
    assert finding.status == "warning"
    assert "onnxruntime-gpu[cuda,cudnn]" in finding.fix


def test_cuda_taken():
    good = Machine(torch=ended({**TORCH, "gpus": [GPU]}), onnxruntime=runtime(**{CPU: CPU, CUDA: CUDA}))
    finding = the("providers", findings(good))
    assert (finding.status, finding.detail) == ("ok", f"usable: {CPU}, {CUDA}")


def test_cpu_provider_not_usable():
    finding = the("providers", findings(Machine(onnxruntime=runtime(**{CPU: ""}))))
    assert finding.status == "problem"
    assert finding.fix == CLEAN


def test_onnx_missing():
    broken = ended({"version": "1.31.1", "listed": [CPU]}, stderr="No module named 'onnx'", status=1)
    found = findings(Machine(onnxruntime=broken), remove=["onnx"])
    assert bad(found) == ["dependencies", "providers"]
    assert the("providers", found).fix == "pip install --upgrade onnx"


def test_plain_onnxruntime_in_place_of_the_gpu_one():
    found = findings(remove=["onnxruntime-gpu"], onnxruntime="1.31.1")
    assert bad(found) == []
    assert "onnxruntime 1.31.1" in the("dependencies", found).detail


def test_plain_onnxruntime_is_wanted_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "arm64")
    assert bad(findings(remove=["onnxruntime-gpu"], onnxruntime="1.31.1")) == []
    assert lacking(findings(remove=["onnxruntime-gpu"])).fix == 'pip install --upgrade "onnxruntime>=1.22"'


def fake_module(folder: Path, monkeypatch, source: str) -> Machine:
    """Every program but onnxruntime's is canned; that one really runs and imports this module."""
    (folder / "onnxruntime").mkdir()
    (folder / "onnxruntime" / "__init__.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    return Machine(onnxruntime=run_python(doctor._ONNXRUNTIME))


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


# --- dependencies -----------------------------------------------------------------------------------------------------


def test_missing_dependency():
    found = findings(remove=["safetensors"])
    assert bad(found) == ["dependencies"]
    assert lacking(found) == Finding(
        "dependencies",
        "problem",
        "safetensors is not installed; safetensors>=0.5 is needed",
        'pip install --upgrade "safetensors>=0.5"',
    )


@pytest.mark.parametrize(
    ("name", "version", "fix"),
    [
        ("torch", "2.9.1+cu128", "pip install --upgrade torch torchvision timm"),
        ("numpy", "1.26.4", 'pip install --upgrade "numpy>=2.0"'),
        ("huggingface-hub", "0.36.2", 'pip install --upgrade "huggingface-hub>=1.0,<3"'),
        ("huggingface-hub", "3.0.0rc1", 'pip install --upgrade "huggingface-hub>=1.0,<3"'),
    ],
)
def test_dependency_out_of_range(name, version, fix):
    found = findings(**{name.replace("-", "_"): version})
    assert bad(found) == ["dependencies"]
    assert f"{name} {version} is installed" in lacking(found).detail
    assert lacking(found).fix == fix


@pytest.mark.parametrize(
    ("version", "bound", "fits"),
    [
        ("2.11", ">=2.11.0", True),
        ("2.9", ">=2.11", False),
        ("2.11.0a0+nv26.1", ">=2.11", True),
        ("3", "<3", False),
        ("2.99.1.post2", "<3", True),
        ("1.5", "<=1.5.0", True),
        ("1.5.1", "==1.5", False),
        ("1.5", "!=1.5", False),
        ("1.5", ">1.4.9", True),
        ("1.5", "~=1.4", None),
        ("1.5", "==1.*", None),
        ("unknown", ">=1", None),
    ],
)
def test_fits(version, bound, fits):
    assert doctor._fits(version, bound) is fits


def test_requirement_texts():
    texts = [
        "Some_Thing[extra] >= 1.0 , < 2",
        "paren (>=1.0)",
        "bare",
        "odd~=1.0",
        "=nonsense",
        "pytest>=8; extra == 'test'",
        "onnxruntime>=1.22; not (sys_platform == 'linux')",
    ]
    installed = {"some-thing": "1.5", "paren": "1.0", "bare": "0", "odd": "1.0"}
    summary, *others = doctor._dependencies(texts, installed)
    assert summary == Finding("dependencies", "ok", "some-thing 1.5, paren 1.0, bare 0")
    assert [(finding.status, finding.detail) for finding in others] == [
        ("warning", "requirement not understood: odd~=1.0 (odd 1.0 is installed)"),
        ("warning", "requirement not understood: =nonsense"),
    ]


def test_requirements_come_from_the_metadata_without_a_checkout(monkeypatch, tmp_path):
    assert any(text.startswith("torch>=") for text in doctor._requirements())  # this checkout's pyproject.toml
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "rnas_zoo")
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [name])
    assert doctor._requirements() == ["rnas-zoo"]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\ndependencies = ["x"]\n')
    assert doctor._requirements() == ["rnas-zoo"]


def test_old_python(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.14")
    assert the("python", findings()).status == "problem"


# --- the Hub and the package ------------------------------------------------------------------------------------------


def test_hub_settings_without_secrets():
    environ = {
        "HF_ENDPOINT": "https://me:hf_secret@mirror.example/path?token=hf_secret",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_secret",
    }
    found = findings(environ=environ)
    assert the("huggingface_hub", found) == Finding(
        "huggingface_hub",
        "ok",
        "2.4.0; HF_ENDPOINT=https://***@mirror.example/path; HF_HUB_OFFLINE=1: no downloads",
    )
    assert "hf_secret" not in repr(found) + render(found)


def test_hub_endpoint_without_scheme():
    assert the("huggingface_hub", findings(environ={"HF_ENDPOINT": "mirror.example"})).status == "warning"


def test_no_genotypes(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path / name)
    finding = the("rnas-zoo", findings())
    assert finding.status == "warning"
    assert "no genotypes" in finding.detail


# --- isolation, runner, table -----------------------------------------------------------------------------------------


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


def test_render():
    table = render(
        [
            Finding("torch", "ok", "2.15.0 " + "word " * 30),
            Finding("onnxruntime", "problem", "both are installed", "pip uninstall " + "x" * 200),
            Finding("odd", "warning", ""),
        ],
        width=60,
    )
    lines = table.splitlines()
    assert lines[0].startswith("ok       torch        2.15.0 word")
    assert all(len(line) <= 60 for line in lines if "fix:" not in line)
    assert "                      fix: pip uninstall " + "x" * 200 in lines
    assert "warning  odd" in lines
    assert lines[-1] == "1 problem, 1 warning"
    assert render([]).strip() == "no problems, no warnings"


def test_this_machine(monkeypatch, capfd):
    monkeypatch.undo()
    start = time.monotonic()
    found = examine()
    assert time.monotonic() - start < 60
    assert [finding for finding in found if finding.status == "problem"] == []
    assert the("providers", found).detail.startswith(f"usable: {CPU}")
    assert render(found).endswith("warnings") or render(found).endswith("warning")
    assert capfd.readouterr() == ("", "")
