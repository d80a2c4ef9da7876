"""Frozen dataclasses of configuration, to and from JSON values and TOML text."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError, closest

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a configuration as JSON values; nested objects lose their None values, as in TOML."""
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: _without_none(item) for name, item in fields.items()}


def _without_none(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _without_none(value) for key, value in item.items() if value is not None}
    return [_without_none(value) for value in item] if isinstance(item, list) else item


def from_dict(cls: type[T], value: Mapping[str, Any], where: str) -> T:
    """Build a configuration; unknown fields, missing fields and wrong types are refused.

    Raises:
        UsageError: naming `where` and the field.
    """
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name, item in value.items():
        if name not in known:
            raise UsageError(f"{where}: unknown field {name!r}.{closest(name, known)}")
        if not _fits(item, hints[name]):
            raise UsageError(f"{where}: {name} = {_shown(item)} has the wrong type, expected {_name(hints[name])}")
    try:
        return cls(**{name: _convert(item, hints[name]) for name, item in value.items()})
    except (TypeError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from error


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(item: Any, hint: Any) -> bool:
    for option in _options(hint):
        plain = get_origin(option) or option
        if plain is float and isinstance(item, int) and not isinstance(item, bool):
            return abs(item) <= sys.float_info.max
        if plain is int and isinstance(item, bool):
            continue
        if plain is tuple and isinstance(item, list):
            kinds = get_args(option)
            kinds = kinds[:1] * len(item) if Ellipsis in kinds else kinds
            return len(kinds) == len(item) and all(map(_fits, item, kinds))
        if plain in (dict, Mapping) and isinstance(item, Mapping):
            return True
        if isinstance(plain, type) and isinstance(item, plain):
            return True
    return False


def _convert(item: Any, hint: Any) -> Any:
    plain = {get_origin(option) or option for option in _options(hint)}
    if isinstance(item, list) and tuple in plain:
        (kinds,) = (get_args(option) for option in _options(hint) if get_origin(option) is tuple)
        kinds = kinds[:1] * len(item) if Ellipsis in kinds else kinds
        return tuple(map(_convert, item, kinds))
    if isinstance(item, int) and not isinstance(item, bool) and float in plain and int not in plain:
        return float(item)
    return item


def _name(hint: Any) -> str:
    return " or ".join(_kind(option) for option in _options(hint))


def _kind(option: Any) -> str:
    if option is type(None):
        return "nothing"
    return str(option) if get_origin(option) is tuple else getattr(option, "__name__", str(option))


def _shown(item: Any) -> str:
    """A value as an error message quotes it: short, whatever it is."""
    try:
        text = repr(item)
    except (ValueError, RecursionError):
        return f"a {type(item).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: missing or malformed file.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such recipe") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a valid TOML file ({error})") from error


def to_toml(tables: Mapping[str, Any], comment: str = "") -> str:
    """TOML text of nested tables of scalars and lists; None values of tables are left out.

    Raises:
        UsageError: a list holds None.
    """
    lines = [f"# {line}" for line in comment.splitlines()]

    def write(table: Mapping[str, Any], prefix: str) -> None:
        inner = {key: item for key, item in table.items() if isinstance(item, Mapping) and item}
        for key, item in table.items():
            if item is not None and key not in inner:
                lines.append(f"{_toml_key(key)} = {_toml_value(item)}")
        for key, item in inner.items():
            lines.extend(["", f"[{prefix}{_toml_key(key)}]"])
            write(item, f"{prefix}{_toml_key(key)}.")

    write(tables, "")
    return "\n".join(lines).strip() + "\n"


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml_text(key)


def _toml_text(text: str) -> str:
    """A basic string: JSON's escapes, which are TOML's, except that TOML knows no surrogates and escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(item: Any) -> str:
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in item.items() if v is not None) + "}"
    if isinstance(item, list | tuple):
        return "[" + ", ".join(_toml_value(value) for value in item) + "]"
    if item is None:
        raise UsageError("TOML has no null: a list of the configuration holds None")
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    return _toml_text(item) if isinstance(item, str) else json.dumps(item)
