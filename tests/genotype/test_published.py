"""The bundled genotype files: they load, are written as `dumps` writes them, and hold what was published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rnas_zoo import genotype, resources

from .objects import NAMES, raw, sha256_of_structure

FACTS = Path(__file__).parents[3] / "shared" / "algorithms.md"


@pytest.mark.parametrize("name", NAMES)
def test_bundled_genotypes_load_and_round_trip(name):
    found = genotype.load(resources.folder("genotypes") / f"{name}.json")
    assert found.name == name
    assert found.to_json() == raw(name)
    assert genotype.from_json(found.to_json()) == found
    assert json.loads(found.dumps()) == raw(name)
    assert found.hash == sha256_of_structure(raw(name))


def test_bundled_files_are_written_as_dumps_writes_them():
    folder = resources.folder("genotypes")
    differing = [n for n in NAMES if genotype.named(n).dumps() != (folder / f"{n}.json").read_text(encoding="utf-8")]
    assert differing == []


def published() -> dict[str, dict[str, Any]]:
    """Structure, default and check of the published architectures, as the project's fact sheet lists them."""
    if not FACTS.is_file():
        pytest.skip("waits for the fact sheet ../shared/algorithms.md next to the checkout")
    text = FACTS.read_text(encoding="utf-8")
    sections = {
        number: json.loads(re.search(r"```json\n(.*?)```", text.split(f"### {number} ")[1], re.S)[1])
        for number in ("8.1", "8.2", "8.3")
    }
    found = {}
    for row in sections["8.1"]:
        roles = [key.removesuffix("_concat") for key in row if key.endswith("_concat")]
        found[row["name"]] = {
            "kind": "accurate_robust_cells" if "robust" in roles else "cells",
            "cells": {role: {"edges": row[role], "concat": row[f"{role}_concat"]} for role in roles},
            "default": {"channels": row["check"]["C"], "layers": row["check"]["layers"]},
            "check": {"params": row["check"]["params_no_aux"], "macs": row["check"]["macs_32x32"]},
        }
    large, free = sections["8.2"]["RobNet_large"], sections["8.2"]["RobNet_free"]
    for name, entry, size in (
        ("robnet_large_v1", large, {**large["v1"], "params": large["params"]["v1"]}),
        ("robnet_large_v2", large, {**large["v2"], "params": large["params"]["v2"]}),
        ("robnet_free", free, free),
    ):
        found[name] = {
            "kind": "dense_cells",
            "share": entry["share"],
            "codes": entry["codes"],
            "default": {"channels": size["C"], "layers": size["layers"]},
            "check": {"params": size["params"]},
        }
    for row in sections["8.3"]:
        if "params_10cls" in row:
            strides = {"stage1": 1, "stage2": 2, "stage3": 2}
            found[row["name"]] = {
                "kind": "channels",
                "stem": {"width": row["stem"][0], "stride": row["stem"][1]},
                "stages": [{"widths": row[stage], "stride": stride} for stage, stride in strides.items()],
                "expansion": 6,
                "tutors": None,
                "default": {},
                "check": {"params": row["params_10cls"], "macs": row["macs_32"]},
            }
    return found


def test_bundled_genotypes_equal_the_published_ones():
    facts = published()
    bundled = {raw(name)["provenance"].get("original_name"): raw(name) for name in NAMES}
    assert set(facts) <= set(bundled)
    for name, fact in facts.items():
        assert {key: bundled[name][key] for key in fact} == fact, name
