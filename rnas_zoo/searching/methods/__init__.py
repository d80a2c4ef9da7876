"""One file per search method; what all have in common is in `methods.base` and `searching.task`."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ...engine import config as configuration
from ...errors import UnknownNameError, UsageError, closest
from .arnas import Arnas
from .base import Method
from .darts import Darts, DartsClean
from .e2rnas import E2Rnas
from .random import Random
from .rnas_cl import RnasCl
from .rnas_noise import RnasNoise
from .rnas_vuln import RnasVuln

__all__ = ["ENTRY_POINTS", "METHODS", "Method", "build", "find"]

METHODS: dict[str, type[Method]] = {
    "rnas_vuln": RnasVuln,
    "rnas_noise": RnasNoise,
    "arnas": Arnas,
    "e2rnas": E2Rnas,
    "rnas_cl": RnasCl,
    "darts": Darts,
    "darts_clean": DartsClean,
    "random": Random,
}
ENTRY_POINTS = "rnas_zoo.methods"


def find(name: str) -> type[Method]:
    """A search method by name, by `path/to/file.py:Class` (this runs the file), or by an entry point.

    Raises:
        UnknownNameError: no such method.
        UsageError: the file or the entry point cannot be loaded, or what it offers is no `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    if ".py:" in name:
        return _from_file(name)
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in offered:
        try:
            found = offered[name].load()
        except Exception as error:
            raise UsageError(f"method {name!r} cannot be loaded ({type(error).__name__}: {error})") from error
        return _checked(found, name)
    known = sorted({*METHODS, *offered})
    raise UnknownNameError(
        f"unknown method {name!r}.{closest(name, known)} Known: {', '.join(known)}, or path/to/file.py:Class."
    )


def build(name: str, settings: dict[str, Any]) -> Method:
    """The method of a name (see `find`) with its settings checked.

    Raises:
        UsageError: unknown settings, or values of the wrong type or out of range.
    """
    cls = find(name)
    return cls(configuration.from_dict(cls.Settings, settings, f"settings of {name}"))


def _from_file(name: str) -> type[Method]:
    path, _, wanted = name.rpartition(":")
    if not Path(path).is_file():
        raise UsageError(f"method {name!r}: there is no file {path}")
    own = f"rnas_zoo_method_{hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"method {name!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"method {name!r}: {path} cannot be run ({type(error).__name__}: {error})") from error
    offered = [key for key, value in vars(module).items() if inspect.isclass(value)]
    if wanted not in offered:
        raise UsageError(f"method {name!r}: {path} has no class {wanted!r}.{closest(wanted, offered)}")
    return _checked(getattr(module, wanted), name)


def _checked(found: Any, name: str) -> type[Method]:
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UsageError(f"method {name!r} must be a subclass of rnas_zoo.searching.methods.Method")
    return found
