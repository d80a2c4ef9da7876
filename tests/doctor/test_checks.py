"""Each known illness simulated, its fix named."""

from __future__ import annotations

import platform
import sys

import pytest

from rnas_zoo import resources
from rnas_zoo.doctor import Finding, render

from .machine import CPU, CUDA, GPU, TENSORRT, TORCH, Machine, bad, ended, findings, lacking, runtime, the

NMS = """Traceback (most recent call last):
  File "torchvision/_meta_registrations.py", line 163, in <module>
    @torch.library.register_fake("torchvision::nms")
RuntimeError: operator torchvision::nms does not exist
"""


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
    assert lacking(found).detail == "onnxruntime-gpu is not installed; onnxruntime-gpu>=1.23 is needed"
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
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert bad(findings(remove=["onnxruntime-gpu"], onnxruntime="1.31.1")) == []
    assert lacking(findings(remove=["onnxruntime-gpu"])).fix == 'pip install --upgrade "onnxruntime>=1.23"'


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
        ("huggingface-hub", "0.36.2", 'pip install --upgrade "huggingface-hub>=1.33,<3"'),
        ("huggingface-hub", "3.0.0rc1", 'pip install --upgrade "huggingface-hub>=1.33,<3"'),
    ],
)
def test_dependency_out_of_range(name, version, fix):
    found = findings(**{name.replace("-", "_"): version})
    assert bad(found) == ["dependencies"]
    assert f"{name} {version} is installed" in lacking(found).detail
    assert lacking(found).fix == fix


def test_old_python(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.14")
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
