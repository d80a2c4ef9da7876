"""Pages of the documentation, run as `docs/run.py --quick` runs them."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import rnas_zoo

ROOT = Path(rnas_zoo.__file__).parents[1]
DOCS = ROOT / "docs"
PRELOADED = [
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "scipy.stats",
    "sklearn.datasets",
    "matplotlib.figure",
    "rnas_zoo.cli",
]
LIMIT = 420  # seconds


def load(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pages(*patterns: str) -> list[str]:
    """The pages below the repository that match, as paths from its root."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def _run(page: str, folder: str, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        load("run").run_page(ROOT / page, Path(folder), cut_down=True, fork=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def run(page: str, folder: Path) -> None:
    """Run a page in a process of its own, forked from one that has the large imports; fails with its output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log = folder.with_suffix(".log")
    process = context.Process(target=_run, args=(page, str(folder), str(log)))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{page} took more than {LIMIT} s:\n{log.read_text(errors='replace')[-3000:]}")
    assert process.exitcode == 0, f"{page}:\n{log.read_text(errors='replace')[-4000:]}"
