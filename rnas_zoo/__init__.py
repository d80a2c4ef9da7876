"""rnas_zoo: robust architectures found by search, as timm models and ONNX files with evidence.

Importing this package is light: torch and timm are imported by the first call that needs them. Its models are
registered with timm at once if timm is already imported, else the moment it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

__version__ = "0.1.0"

_API = {
    "Threat": "attacks.threat",
    "Preprocessing": "preprocessing",
    "load": "reference",
    "download": "hub.download",
    "list_models": "hub.zoo",
    "search": "searching.run",
    "train": "training.run",
    "package": "hub.release",
    "publish": "hub.publish",
    "export": "deploy.onnx_export",
    "verify": "verification.run",
}
__all__ = [
    "Preprocessing",
    "Threat",
    "__version__",
    "download",
    "export",
    "list_models",
    "load",
    "package",
    "publish",
    "search",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from .attacks.threat import Threat
    from .deploy.onnx_export import export
    from .hub.download import download
    from .hub.publish import publish
    from .hub.release import package
    from .hub.zoo import list_models
    from .preprocessing import Preprocessing
    from .reference import load
    from .searching.run import search
    from .training.run import train
    from .verification.run import verify


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_API[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})


@wrapt.when_imported("timm")
def _register_models(_timm: Any) -> None:
    importlib.import_module(".models", __name__)
