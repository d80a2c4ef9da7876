"""Hypothesis strategies shared by tests: valid genotypes as the JSON objects a file holds."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

OPERATIONS = [
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
]  # fmt: skip
BITS = ["00", "01", "10", "11"]
ROLES = {"cells": ["normal", "reduce"], "accurate_robust_cells": ["accurate", "reduce", "robust"]}


def reproducible(examples: int) -> settings:
    """The same examples in every run, without a time limit per example."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@st.composite
def cells(draw: st.DrawFn, max_nodes: int = 5) -> dict[str, Any]:
    """A cell: two edges per node, from any earlier state, and some of the nodes concatenated in any order."""
    nodes = draw(st.integers(1, max_nodes))
    edges = [
        [draw(st.sampled_from(OPERATIONS)), draw(st.integers(0, 1 + node))] for node in range(nodes) for _ in range(2)
    ]
    concat = draw(st.lists(st.integers(2, 1 + nodes), min_size=1, unique=True))
    return {"edges": edges, "concat": concat}


@st.composite
def cell_structures(draw: st.DrawFn, max_nodes: int = 5) -> dict[str, Any]:
    """Structure of kind `cells` or `accurate_robust_cells`."""
    kind = draw(st.sampled_from(sorted(ROLES)))
    return {"kind": kind, "cells": {role: draw(cells(max_nodes)) for role in ROLES[kind]}}


codes = st.lists(st.sampled_from(BITS), min_size=14, max_size=14).map(" ".join)


@st.composite
def dense_structures(draw: st.DrawFn, layers: int | None = None) -> dict[str, Any]:
    """Structure of kind `dense_cells`: one shared code, or one for each of `layers` cells."""
    share = draw(st.booleans())
    count = 1 if share else layers or draw(st.integers(1, 4))
    return {"kind": "dense_cells", "share": share, "codes": [draw(codes) for _ in range(count)]}


@st.composite
def channel_structures(draw: st.DrawFn, max_width: int = 300) -> dict[str, Any]:
    """Structure of kind `channels`, with or without tutors."""
    stage = st.fixed_dictionaries(
        {
            "widths": st.lists(st.integers(1, max_width), min_size=1, max_size=3),
            "stride": st.sampled_from([1, 2]),
        }
    )
    stages = draw(st.lists(stage, min_size=1, max_size=3))
    convolutions = 1 + 3 * sum(len(s["widths"]) for s in stages)
    tutors = st.lists(st.integers(0, 40), min_size=convolutions, max_size=convolutions)
    return {
        "kind": "channels",
        "stem": {"width": draw(st.integers(1, max_width)), "stride": draw(st.sampled_from([1, 2]))},
        "stages": stages,
        "expansion": draw(st.integers(1, 6)),
        "tutors": draw(st.none() | tutors),
    }


structures = st.one_of(cell_structures(), dense_structures(), channel_structures())

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
metadata = st.fixed_dictionaries(
    {
        "name": text,
        "default": st.dictionaries(st.sampled_from(["channels", "layers"]), st.integers(1, 500)),
        "check": st.dictionaries(st.sampled_from(["params", "macs"]), st.integers(1, 10**12)),
        "provenance": st.dictionaries(
            text.filter(lambda key: key != "status"), st.none() | st.booleans() | st.integers() | text, max_size=3
        ),
    }
)


def genotype_object(structure: dict[str, Any], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a genotype file."""
    return {"schema": 1, "name": "random", **structure, **(about or {})}
