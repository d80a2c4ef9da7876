"""What `rnas-zoo doctor` finds: is this environment fit to run the package, and if not, which command mends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from .checks import (
    check_dependencies,
    check_hub,
    check_onnxruntime,
    check_package,
    check_python,
    check_torch,
    check_torchvision,
)
from .findings import Finding, render
from .packages import normal, required, versions
from .trials import ONNXRUNTIME, TORCH, TORCHVISION, Run, run_python

__all__ = ["Finding", "examine", "render", "run_python"]


def examine(
    *,
    run: Run = run_python,
    distributions: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Examine the interpreter, the dependencies, the devices and the package; takes seconds, raises and prints nothing.

    Args:
        run: runs a Python program and returns how it ended.
        distributions: installed distribution name → version; default: those of this interpreter.
        environ: environment variables.

    Returns:
        The findings in a fixed order. A check that itself fails is a finding with status `problem`.
    """
    with ThreadPoolExecutor() as pool:
        programs = {"torch": TORCH, "torchvision": TORCHVISION, "onnxruntime": ONNXRUNTIME}
        ended = {name: pool.submit(run, code) for name, code in programs.items()}
    installed = versions() if distributions is None else {normal(name): v for name, v in distributions.items()}
    checks: dict[str, Callable[[], list[Finding]]] = {
        "rnas-zoo": check_package,
        "python": check_python,
        "dependencies": lambda: check_dependencies(required(), installed),
        "torch": lambda: check_torch(ended["torch"].result()),
        "torchvision": lambda: check_torchvision(ended["torchvision"].result(), installed),
        "onnxruntime": lambda: check_onnxruntime(
            ended["onnxruntime"].result(), installed, gpu=any(found.detail.startswith("cuda:") for found in findings)
        ),
        "huggingface_hub": lambda: check_hub(installed, environ),
    }
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding(name, "problem", f"this check itself failed: {type(error).__name__}: {error}"))
    return findings
