"""A machine made up for the doctor: how its trials end, and the packages it has."""

from __future__ import annotations

import json
import subprocess

from rnas_zoo.doctor import Finding, examine, trials

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
            trials.TORCH: torch or ended(TORCH),
            trials.TORCHVISION: torchvision or ended("0.29.2+cu132"),
            trials.ONNXRUNTIME: onnxruntime or runtime(**{CPU: CPU}),
        }

    def __call__(self, code: str) -> subprocess.CompletedProcess[str]:
        result = self.ended[code]
        if isinstance(result, Exception):
            raise result
        return result


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
