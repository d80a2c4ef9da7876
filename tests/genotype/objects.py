"""Genotypes as the JSON objects that files hold."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from rnas_zoo import resources

NAMES = sorted(path.stem for path in resources.folder("genotypes").glob("*.json"))
STRUCTURE_KEYS = {"kind", "cells", "share", "codes", "stem", "stages", "expansion", "tutors"}


def raw(name: str) -> dict[str, Any]:
    return json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))


def sha256_of_structure(value: dict[str, Any]) -> str:
    """The canonical hash, computed from the JSON object alone."""
    structure = {key: item for key, item in value.items() if key in STRUCTURE_KEYS}
    return hashlib.sha256(json.dumps(structure, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, (*path, i))]
    return [path]


def put(value: Any, path: tuple, new: Any) -> Any:
    """A copy of `value` in which the item at `path` is `new`, or absent if `new` is `...`."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value
