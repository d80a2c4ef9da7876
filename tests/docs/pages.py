"""Pages of the documentation, run as `docs/run.py --quick` runs them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import rnas_zoo

ROOT = Path(rnas_zoo.__file__).parents[1]
DOCS = ROOT / "docs"
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


def run(page: str, folder: Path, python: Path) -> None:
    """Run a page with the fixture `warm_python`; fails with its output."""
    command = [python, DOCS / "run.py", "--quick", "--python", python, ROOT / page, "-C", folder]
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        try:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            code = f"none after {LIMIT} s"
    assert code == 0, f"{page} ended with code {code}:\n{log.read_text(errors='replace')[-4000:]}"
