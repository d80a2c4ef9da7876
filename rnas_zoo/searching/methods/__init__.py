"""One file per search method; what all have in common is in `searching.run` and `searching.supernet`."""

from __future__ import annotations

from ...errors import UnknownNameError, closest
from .darts import Darts

METHODS = {"darts": Darts}


def method(name: str) -> type[Darts]:
    """A search method by name.

    Raises:
        UnknownNameError: no such method.
    """
    if name not in METHODS:
        raise UnknownNameError(f"unknown method {name!r}.{closest(name, list(METHODS))} Known: {', '.join(METHODS)}.")
    return METHODS[name]
