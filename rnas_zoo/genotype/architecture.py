"""A named architecture: a structure, the size its paper builds it with, and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .structures import Structure

SCHEMA = 1
STATUSES = ("published", "inferred", "reconstructed", "ours")


@dataclass(frozen=True)
class Genotype:
    """A named architecture.

    Attributes:
        name: what files and messages call it.
        structure: what is built; the canonical hash covers it and nothing else.
        default: channels and layers its paper evaluates it with (empty for `channels`).
        check: published or recomputed `params` (with 10 classes) and `macs` (one 32x32 image) of the default network.
        provenance: status, method, source and paper, plus config, seed, data set, cost and commit of our own searches.
    """

    name: str
    structure: Structure
    default: Mapping[str, int] = field(default_factory=dict)
    check: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.structure.kind

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of kind and structure."""
        value = {"kind": self.kind, **self.structure.to_json()}
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads back to an equal genotype."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "kind": self.kind,
            **self.structure.to_json(),
            "default": dict(self.default),
            "check": dict(self.check),
            "provenance": dict(self.provenance),
        }

    def dumps(self) -> str:
        """Readable JSON text: one line per cell, stage list or code."""
        lines = []
        for key, value in self.to_json().items():
            if key == "cells":
                inner = ",\n".join(f"    {json.dumps(role)}: {json.dumps(cell)}" for role, cell in value.items())
                lines.append(f'  "cells": {{\n{inner}\n  }}')
            elif key in ("codes", "stages", "provenance") and len(value) > 1:
                opened, closed = ("{", "}") if isinstance(value, dict) else ("[", "]")
                items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
                inner = ",\n".join(
                    "    " + (f"{json.dumps(k)}: " if k is not None else "") + json.dumps(v, ensure_ascii=False)
                    for k, v in items
                )
                lines.append(f"  {json.dumps(key)}: {opened}\n{inner}\n  {closed}")
            else:
                lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        return "{\n" + ",\n".join(lines) + "\n}\n"
