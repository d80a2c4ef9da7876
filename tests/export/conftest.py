"""What the tests of export/ share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """export/web/build.py, a script outside the package, as a module."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "export" / "web" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
