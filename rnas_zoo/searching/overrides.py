"""Values of a search as text, `NAME=VALUE`, typed by the dataclass that has the name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

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
    fields = {key: hint for key, hint in _hints(SearchConfig).items() if key not in APART}
    own = {name: _hints(methods.find(name).Settings) for name in names}
    for text in texts:
        key, given, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not given:
            raise UsageError(f"--set takes NAME=VALUE, got {text!r}")
        settings = {name: hints[key] for name, hints in own.items() if key in hints}
        if not settings and key not in fields:
            known = sorted({*fields, *(key for hints in own.values() for key in hints)})
            raise UsageError(f"--set: no setting {key!r}.{closest(key, known)} Known: {', '.join(known)}.")
        for name, hint in settings.items():
            found[name].setdefault("settings", {})[key] = parsed(value.strip(), hint, key)
        for name in names if not settings else ():
            found[name][key] = parsed(value.strip(), fields[key], key)
    return found


def _hints(cls: type) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def parsed(text: str, hint: Any, name: str) -> Any:
    """A value of the type `hint` from text: `true`, `8`, `0.1`, words, numbers with commas, sizes like 32x48.

    Raises:
        UsageError: it is none.
    """
    wanted = str(hint)
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        if hint in (int, float):
            return hint(text)
        if "tuple" in wanted:
            inner = next(kind for kind in (float, int) if kind.__name__ in wanted)
            parts = tuple(inner(part) for part in text.lower().replace("x", ",").split(","))
            square = type(None) in get_args(hint) and len(parts) == 1
            return parts * 2 if square else parts
        return text
    except (ValueError, KeyError) as error:
        kind = getattr(hint, "__name__", "numbers" if "tuple" in wanted else wanted)
        raise UsageError(f"--set: {name} = {text!r} has the wrong type, expected {kind}") from error
