"""Values of a search as text, `NAME=VALUE`, typed by the dataclass that has the name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..engine.overrides import hints, parsed, split
from ..errors import UsageError, closest
from . import methods
from .config import SearchConfig

APART = ("data", "method", "preset", "settings")  # fields that no override may change


def overrides(texts: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Changes for `searching.run.configured`, by method: fields of `SearchConfig`, and in `settings` a method's own.

    A name that several methods know changes all of them; one that only some know leaves the others alone.

    Raises:
        UsageError: no NAME=VALUE, a name that no method of `names` and no field has, or a value of another type.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    fields = {key: hint for key, hint in hints(SearchConfig).items() if key not in APART}
    own = {name: hints(methods.find(name).Settings) for name in names}
    for text in texts:
        key, value = split(text)
        settings = {name: known[key] for name, known in own.items() if key in known}
        if not settings and key not in fields:
            every = sorted({*fields, *(key for known in own.values() for key in known)})
            raise UsageError(f"--set: no setting {key!r}.{closest(key, every)} Known: {', '.join(every)}.")
        for name, hint in settings.items():
            found[name].setdefault("settings", {})[key] = parsed(value, hint, key)
        for name in names if not settings else ():
            found[name][key] = parsed(value, fields[key], key)
    return found
