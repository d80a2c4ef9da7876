"""The packages that are installed, and the ones rnas_zoo needs."""

from __future__ import annotations

import operator
import platform
import re
import sys
from importlib import metadata

from .. import resources

# Every one of these installs the same module `onnxruntime`.
RUNTIMES = tuple("onnxruntime" + kind for kind in ("", "-gpu", "-directml", "-openvino", "-qnn", "-rocm", "-training"))
_COMPARE = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


def versions() -> dict[str, str]:
    """Normalised name → version of what is installed; the first on the path counts, it is the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # an interrupted uninstall leaves folders without metadata
            found.setdefault(normal(name), distribution.version)
    return found


def required() -> list[str]:
    """The requirements of this checkout, or of the installed package."""
    pyproject = resources.PACKAGE.parent / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if normal(project.get("name", "")) == "rnas-zoo":
            return project["dependencies"]
    return metadata.requires("rnas-zoo") or []


def runtime_wanted() -> str:
    """The onnxruntime distribution that the markers in pyproject.toml choose here."""
    gpu = sys.platform in ("linux", "win32") and platform.machine() in ("x86_64", "AMD64")
    return "onnxruntime-gpu" if gpu else "onnxruntime"


def normal(name: str) -> str:
    """The name of a distribution in its normal form: lower case, with single hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fits(version: str, bound: str) -> bool | None:
    """Whether the release numbers satisfy one bound (a pre-release counts as its release); None: not understood."""
    match = re.fullmatch(r"(>=|<=|==|!=|>|<)v?(\d+(?:\.\d+)*)", bound)
    release = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if match is None or release is None:
        return None
    a, b = ([int(part) for part in text.split(".")] for text in (release[1], match[2]))
    length = max(len(a), len(b))
    return _COMPARE[match[1]](a + [0] * (length - len(a)), b + [0] * (length - len(b)))
