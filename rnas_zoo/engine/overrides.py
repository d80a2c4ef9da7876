"""Fields of a configuration as text, `NAME=VALUE`, typed by the dataclass that has the name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import UsageError, closest


def hints(cls: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields, by name."""
    found = get_type_hints(cls)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def split(text: str) -> tuple[str, str]:
    """Name (dashes as underscores) and value of `NAME=VALUE`.

    Raises:
        UsageError: no NAME=VALUE.
    """
    key, given, value = text.partition("=")
    if not given:
        raise UsageError(f"--set takes NAME=VALUE, got {text!r}")
    return key.strip().replace("-", "_"), value.strip()


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
            return _numbers(text, hint)
        return text
    except (ValueError, KeyError) as error:
        kind = "numbers" if "tuple" in wanted else getattr(hint, "__name__", wanted)
        raise UsageError(f"--set: {name} = {text!r} has the wrong type, expected {kind}") from error


def _numbers(text: str, hint: Any) -> tuple[Any, ...]:
    """Of a size that may be missing, one number is a square."""
    whole = next((option for option in get_args(hint) if get_origin(option) is tuple), hint)
    kinds = get_args(whole)
    parts = tuple(kinds[0](part) for part in text.lower().replace("x", ",").split(","))
    if whole is not hint and len(parts) == 1:
        parts *= len(kinds)
    if Ellipsis not in kinds and len(parts) != len(kinds):
        raise ValueError(text)
    return parts


def changes(texts: Iterable[str], cls: type, apart: Collection[str] = ()) -> dict[str, Any]:
    """The fields of `cls` that the texts change.

    Args:
        apart: fields that no text may change.

    Raises:
        UsageError: no NAME=VALUE, an unknown name, or a value of another type.
    """
    fields, found = {key: hint for key, hint in hints(cls).items() if key not in apart}, {}
    for text in texts:
        key, value = split(text)
        if key not in fields:
            known = sorted(fields)
            raise UsageError(f"--set: no setting {key!r}.{closest(key, known)} Known: {', '.join(known)}.")
        found[key] = parsed(value, fields[key], key)
    return found
