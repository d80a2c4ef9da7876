"""Genotype files: what is read, what is refused and how."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import genotype
from rnas_zoo.errors import GenotypeError

from ..strategies import genotype_object, metadata, reproducible, structures
from .objects import STRUCTURE_KEYS, leaves, put, sha256_of_structure

CELLS = {
    "schema": 1,
    "name": "base",
    "kind": "cells",
    "cells": {
        "normal": {
            "edges": [["sep_conv_3x3", 0], ["skip_connect", 1], ["dil_conv_5x5", 2], ["none", 1]],
            "concat": [2, 3],
        },
        "reduce": {"edges": [["max_pool_3x3", 0], ["avg_pool_3x3", 1]], "concat": [2]},
    },
    "default": {"channels": 16, "layers": 8},
    "check": {"params": 1000, "macs": 2000},
    "provenance": {"status": "ours"},
}
CODE = "11 10 11 11 10 11 01 01 10 11 11 00 11 01"
DENSE = {"schema": 1, "name": "base", "kind": "dense_cells", "share": False, "codes": [CODE, CODE]}
CHANNELS = {
    "schema": 1,
    "name": "base",
    "kind": "channels",
    "stem": {"width": 16, "stride": 2},
    "stages": [{"widths": [12, 12], "stride": 1}, {"widths": [20], "stride": 2}],
    "expansion": 6,
    "tutors": [0] * 10,
}
NORMAL = ("cells", "normal", "edges")
CONCAT = ("cells", "normal", "concat")
REFUSED = [
    ("unknown operation", CELLS, (*NORMAL, 0, 0), "sep_conv_9x9", "cells.normal.edges[0]"),
    ("operation of odd name", CELLS, (*NORMAL, 0, 0), "\n" * 999, "cells.normal.edges[0]"),
    ("operation not text", CELLS, (*NORMAL, 0, 0), 3, "cells.normal.edges[0]"),
    ("edge from its own node", CELLS, (*NORMAL, 1, 1), 2, "cells.normal.edges[1]"),
    ("edge from a later node", CELLS, (*NORMAL, 2, 1), 4, "cells.normal.edges[2]"),
    ("edge from before the inputs", CELLS, (*NORMAL, 0, 1), -1, "cells.normal.edges[0]"),
    ("edge from a bool", CELLS, (*NORMAL, 0, 1), True, "cells.normal.edges[0]"),
    ("edge from a float", CELLS, (*NORMAL, 0, 1), 1.0, "cells.normal.edges[0]"),
    ("edge from a huge number", CELLS, (*NORMAL, 0, 1), 10**400, "cells.normal.edges[0]"),
    ("odd number of edges", CELLS, (*NORMAL, 3), ..., "cells.normal.edges"),
    ("no edges", CELLS, NORMAL, [], "cells.normal.edges"),
    ("edges no list", CELLS, NORMAL, {"0": 1}, "cells.normal.edges"),
    ("edges text", CELLS, NORMAL, "ab", "cells.normal.edges"),
    ("edge no pair", CELLS, (*NORMAL, 3), ["none", 1, 2], "cells.normal.edges[3]"),
    ("edge no list", CELLS, (*NORMAL, 3), "none", "cells.normal.edges[3]"),
    ("edges missing", CELLS, NORMAL, ..., "cells.normal.edges"),
    ("concat beyond the nodes", CELLS, CONCAT, [2, 4], "cells.normal.concat"),
    ("concat of an input", CELLS, CONCAT, [1, 2], "cells.normal.concat"),
    ("concat twice", CELLS, CONCAT, [2, 2], "cells.normal.concat"),
    ("concat empty", CELLS, CONCAT, [], "cells.normal.concat"),
    ("concat of a bool", CELLS, CONCAT, [True], "cells.normal.concat"),
    ("concat no list", CELLS, CONCAT, 2, "cells.normal.concat"),
    ("concat missing", CELLS, CONCAT, ..., "cells.normal.concat"),
    ("cell no object", CELLS, ("cells", "reduce"), [], "cells.reduce"),
    ("role missing", CELLS, ("cells", "reduce"), ..., "cells"),
    ("role of odd name", CELLS, ("cells", "\n" * 999), 0, "cells"),
    ("role unknown", CELLS, ("cells", "robust"), CELLS["cells"]["normal"], "cells"),
    ("roles of another kind", CELLS, ("kind",), "accurate_robust_cells", "cells"),
    ("cells missing", CELLS, ("cells",), ..., "cells"),
    ("cells no object", CELLS, ("cells",), [], "cells"),
    ("structure of another kind", CELLS, ("kind",), "dense_cells", "share"),
    ("schema of the future", CELLS, ("schema",), 2, "schema"),
    ("schema zero", CELLS, ("schema",), 0, "schema"),
    ("schema a bool", CELLS, ("schema",), True, "schema"),
    ("schema text", CELLS, ("schema",), "1", "schema"),
    ("schema missing", CELLS, ("schema",), ..., "schema"),
    ("kind unknown", CELLS, ("kind",), "graph", "kind"),
    ("kind of odd name", CELLS, ("kind",), "\n" * 999, "kind"),
    ("kind a list", CELLS, ("kind",), ["cells"], "kind"),
    ("kind missing", CELLS, ("kind",), ..., "kind"),
    ("name missing", CELLS, ("name",), ..., "name"),
    ("name a number", CELLS, ("name",), 5, "name"),
    ("default unknown key", CELLS, ("default", "width"), 5, "default"),
    ("default zero", CELLS, ("default", "channels"), 0, "default.channels"),
    ("default a bool", CELLS, ("default", "layers"), True, "default.layers"),
    ("default no object", CELLS, ("default",), [16, 8], "default"),
    ("check unknown key", CELLS, ("check", "\x1b[2J\n"), 5, "check"),
    ("check negative", CELLS, ("check", "params"), -1, "check.params"),
    ("check a float", CELLS, ("check", "macs"), 2000.0, "check.macs"),
    ("check null", CELLS, ("check", "macs"), None, "check.macs"),
    ("status unknown", CELLS, ("provenance", "status"), "guessed", "provenance.status"),
    ("status a list", CELLS, ("provenance", "status"), ["ours"], "provenance.status"),
    ("provenance no object", CELLS, ("provenance",), "ours", "provenance"),
    ("code too short", DENSE, ("codes", 1), CODE[:-3], "codes[1]"),
    ("code too long", DENSE, ("codes", 1), CODE + " 00", "codes[1]"),
    ("code of unknown bits", DENSE, ("codes", 0), CODE.replace("00", "12"), "codes[0]"),
    ("code of odd text", DENSE, ("codes", 0), "\n0" * 999, "codes[0]"),
    ("code a list", DENSE, ("codes", 0), CODE.split(), "codes[0]"),
    ("codes empty", DENSE, ("codes",), [], "codes"),
    ("codes text", DENSE, ("codes",), CODE, "codes"),
    ("codes missing", DENSE, ("codes",), ..., "codes"),
    ("two codes to share", DENSE, ("share",), True, "codes"),
    ("share a number", DENSE, ("share",), 1, "share"),
    ("share missing", DENSE, ("share",), ..., "share"),
    ("no width", CHANNELS, ("stages", 1, "widths"), [], "stages[1]"),
    ("zero width", CHANNELS, ("stages", 0, "widths", 1), 0, "stages[0].widths"),
    ("width a bool", CHANNELS, ("stages", 0, "widths", 1), True, "stages[0].widths"),
    ("widths a number", CHANNELS, ("stages", 0, "widths"), 12, "stages[0].widths"),
    ("stride three", CHANNELS, ("stages", 0, "stride"), 3, "stages[0]"),
    ("stride zero", CHANNELS, ("stages", 0, "stride"), 0, "stages[0].stride"),
    ("stride missing", CHANNELS, ("stages", 0, "stride"), ..., "stages[0].stride"),
    ("stage no object", CHANNELS, ("stages", 0), [12, 12], "stages[0]"),
    ("no stages", CHANNELS, ("stages",), [], "stages"),
    ("stages missing", CHANNELS, ("stages",), ..., "stages"),
    ("stem without width", CHANNELS, ("stem", "width"), ..., "stem.width"),
    ("stem of zero width", CHANNELS, ("stem", "width"), 0, "stem.width"),
    ("stem of negative stride", CHANNELS, ("stem", "stride"), -2, "stem.stride"),
    ("stem a number", CHANNELS, ("stem",), 16, "stem"),
    ("expansion zero", CHANNELS, ("expansion",), 0, "expansion"),
    ("expansion missing", CHANNELS, ("expansion",), ..., "expansion"),
    ("tutors one short", CHANNELS, ("tutors",), [0] * 9, "tutors"),
    ("tutors one long", CHANNELS, ("tutors",), [0] * 11, "tutors"),
    ("tutors empty", CHANNELS, ("tutors",), [], "tutors"),
    ("tutor negative", CHANNELS, ("tutors", 3), -1, "tutors"),
    ("tutor a bool", CHANNELS, ("tutors", 3), False, "tutors"),
    ("tutors a number", CHANNELS, ("tutors",), 10, "tutors"),
]


@pytest.mark.parametrize("base", [CELLS, DENSE, CHANNELS], ids=lambda base: base["kind"])
def test_the_base_of_the_refused_variants_is_valid(base):
    filled = {"default": {}, "check": {}, "provenance": {}, **base}
    assert genotype.from_json(base).to_json() == filled


@pytest.mark.parametrize(
    ("base", "path", "new", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_invalid_files_are_refused_with_path_and_field(base, path, new, field, tmp_path):
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(put(base, path, new)), encoding="utf-8")
    with pytest.raises(GenotypeError) as refused:
        genotype.load(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: {field}: ")
    assert message.isprintable()
    assert len(message.removeprefix(str(file))) < 250


def test_unknown_operations_suggest_near_ones():
    with pytest.raises(GenotypeError, match=r"Did you mean .*sep_conv_3x3"):
        genotype.from_json(put(CELLS, (*NORMAL, 0, 0), "sep_conf_3x3"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   \n",
        json.dumps(CELLS).encode()[:-40],
        json.dumps(CELLS).encode()[:17],
        b'{"schema": 1, "name": "caf\xe9"}',
        json.dumps(CELLS).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(CELLS).encode(),
        b"Genotype(normal=[])",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": ' + b"1" * 5000 + b"}",
    ],
    ids=["empty", "blank", "cut", "cut early", "latin-1", "utf-16", "byte order mark", "python", "deep lists",
         "deep objects", "too many digits"],
)  # fmt: skip
def test_files_that_are_no_json_are_refused_with_their_path(content, tmp_path):
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(GenotypeError) as refused:
        genotype.load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "cells", [], [CELLS]])
def test_files_that_hold_no_object_are_refused(value, tmp_path):
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(value))
    with pytest.raises(GenotypeError, match="expected an object"):
        genotype.load(file)


def test_nesting_near_the_recursion_limit_is_refused(tmp_path):
    file = tmp_path / "deep.json"
    deepest, too_deep = 50, 100_000
    while too_deep - deepest > 1:
        depth = (deepest + too_deep) // 2
        try:
            json.loads("[" * depth + "]" * depth)
            deepest = depth
        except RecursionError:
            too_deep = depth
    for depth in range(deepest - 40, deepest + 5):
        file.write_text('{"schema": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(GenotypeError):
            genotype.load(file)


def test_a_folder_and_a_missing_file_are_refused_with_their_path(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json", tmp_path / "no\0name.json"):
        with pytest.raises(GenotypeError) as refused:
            genotype.load(path)
        assert str(refused.value).startswith(f"{path}: ")


# Any content at all

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from(sorted(STRUCTURE_KEYS | {"schema", "name", "default", "check", "provenance"})) | st.text(
    max_size=4
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@reproducible(300)
@given(value=anything)
def test_any_json_value_is_read_or_refused(value):
    try:
        found = genotype.from_json(value)
    except GenotypeError:
        return
    assert genotype.from_json(found.to_json()) == found


@reproducible(500)
@given(structure=structures, about=metadata, data=st.data())
def test_any_damage_to_a_genotype_is_read_or_refused(structure, about, data):
    value = genotype_object(structure, about)
    path = data.draw(st.sampled_from(leaves(value)))
    path = path[: data.draw(st.integers(1, len(path)))]
    damaged = put(value, path, data.draw(anything | st.just(...)))
    try:
        found = genotype.from_json(damaged)
    except GenotypeError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    assert genotype.from_json(found.to_json()) == found
    assert found.hash == sha256_of_structure({**found.structure.to_json(), "kind": found.kind})


def test_python_objects_that_are_no_json_are_refused():
    loop: list[Any] = []
    loop.append(loop)
    for odd in (object(), {1, 2}, b"bytes", {(1, 2): 3}, loop, 10**5000, -(10**5000), float("nan")):
        for path in [("schema",), ("kind",), NORMAL, (*NORMAL, 0), (*NORMAL, 0, 1), ("check", "params")]:
            value = copy.deepcopy(CELLS)
            inner: Any = value
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            with pytest.raises(GenotypeError):
                genotype.from_json(value)


def test_a_genotype_does_not_change_with_the_object_it_was_read_from():
    value = copy.deepcopy(CELLS)
    found = genotype.from_json(value)
    before = copy.deepcopy(found.to_json())
    value["default"]["channels"] = 99
    value["cells"]["normal"]["edges"][0][0] = "none"
    value["provenance"]["status"] = "published"
    assert found.to_json() == before
    found.to_json()["cells"]["normal"]["concat"].clear()
    assert found.to_json() == before


def test_a_misspelt_field_is_refused_with_the_near_one():
    value = genotype.named("arnas").to_json()
    value["defualt"] = value.pop("default")
    with pytest.raises(GenotypeError, match=r"defualt.*Did you mean default"):
        genotype.from_json(value)
    students = genotype.named("cl_s3").to_json() | {"codes": []}
    with pytest.raises(GenotypeError, match=r"codes.*not a field of kind 'channels'"):
        genotype.from_json(students)


def test_nan_in_a_file_is_refused(tmp_path):
    text = json.dumps(genotype.named("cl_s3").to_json() | {"provenance": {"cost": float("nan")}})
    (tmp_path / "g.json").write_text(text, encoding="utf-8")
    with pytest.raises(GenotypeError, match="NaN is no JSON number"):
        genotype.load(tmp_path / "g.json")
