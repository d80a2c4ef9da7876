"""Genotype files: what is read, what is refused and how, and what the canonical hash covers."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rnas_zoo import genotype, resources
from rnas_zoo.errors import GenotypeError, UnknownNameError

from .strategies import genotype_object, metadata, reproducible, structures

NAMES = sorted(path.stem for path in resources.folder("genotypes").glob("*.json"))
STRUCTURE_KEYS = {"kind", "cells", "share", "codes", "stem", "stages", "expansion", "tutors"}
FACTS = Path(__file__).parents[2] / "shared" / "algorithms.md"


def raw(name: str) -> dict[str, Any]:
    return json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))


def sha256_of_structure(value: dict[str, Any]) -> str:
    """The canonical hash, computed from the JSON object alone."""
    structure = {key: item for key, item in value.items() if key in STRUCTURE_KEYS}
    return hashlib.sha256(json.dumps(structure, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# Bundled files


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


def test_names_lists_every_file_once():
    assert genotype.names() == NAMES
    assert len(NAMES) >= 22


@pytest.mark.parametrize("name", NAMES)
def test_named_takes_the_name_with_and_without_prefix(name):
    assert genotype.named(name) == genotype.named(f"rnas_{name}") == genotype.named(genotype.model_name(name))
    assert genotype.named(name).to_json() == raw(name)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("arnas", "rnas_arnas"),
        ("ours_arnas_cifar10", "rnas_ours_arnas"),
        ("ours_rnas_cl_digits", "rnas_ours_rnas_cl_digits"),
        ("e2rnas_cifar10", "rnas_e2rnas_cifar10"),
    ],
)
def test_models_of_our_own_searches_do_without_cifar10_in_their_name(name, model):
    assert genotype.model_name(name) == model


@pytest.mark.parametrize(
    ("name", "near"), [("vuln_hh", "vuln_h"), ("rnas_arnass", "arnas"), ("robnet_large_v3", "robnet_large_v2")]
)
def test_unknown_names_suggest_near_ones(name, near):
    with pytest.raises(UnknownNameError, match="Did you mean") as refused:
        genotype.named(name)
    assert name in str(refused.value)
    assert near in re.split(r"[ ,?]+", str(refused.value))


def test_names_without_near_ones_suggest_none():
    with pytest.raises(UnknownNameError) as refused:
        genotype.named("zzzzzzzzzzzzz")
    assert "Did you mean" not in str(refused.value)


# Published facts


def published() -> dict[str, dict[str, Any]]:
    """Structure, default and check of the published architectures, as the project's fact sheet lists them."""
    if not FACTS.is_file():
        pytest.skip("needs the fact sheet ../shared/algorithms.md next to the checkout")
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


# The canonical hash


def test_hash_is_of_this_very_text():
    text = (
        '{"cells":{"normal":{"concat":[2],"edges":[["skip_connect",0],["none",1]]},'
        '"reduce":{"concat":[3,2],"edges":[["sep_conv_3x3",1],["max_pool_3x3",0],["dil_conv_5x5",2],["none",0]]}},'
        '"kind":"cells"}'
    )
    found = genotype.from_json(genotype_object(json.loads(text)))
    assert found.hash == hashlib.sha256(text.encode()).hexdigest()


@reproducible(200)
@given(structure=structures, one=metadata, other=metadata)
def test_round_trip_and_hash_of_any_genotype(structure, one, other):
    value = genotype_object(structure, one)
    found = genotype.from_json(copy.deepcopy(value))
    assert found.to_json() == value
    assert genotype.from_json(found.to_json()) == found
    assert json.loads(found.dumps()) == value
    assert found.hash == sha256_of_structure(value)
    assert genotype.from_json(genotype_object(structure, other)).hash == found.hash


@reproducible(200)
@given(structure=structures, about=metadata)
def test_dumped_files_load_to_the_same_genotype(tmp_path_factory, structure, about):
    path = tmp_path_factory.mktemp("genotype") / "any.json"
    found = genotype.from_json(genotype_object(structure, about))
    path.write_text(found.dumps(), encoding="utf-8")
    assert genotype.load(path) == found


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


@reproducible(300)
@given(structure=structures, data=st.data())
def test_any_single_change_of_structure_changes_the_hash(structure, data):
    path = data.draw(st.sampled_from([leaf for leaf in leaves(structure) if leaf != ("kind",)]))
    old = structure
    for key in path:
        old = old[key]
    if isinstance(old, bool):
        new = not old
    elif isinstance(old, int):
        new = old + data.draw(st.sampled_from([-1, 1]))
    elif old is None:
        new = [0] * (1 + 3 * sum(len(stage["widths"]) for stage in structure["stages"]))
    elif path[0] == "codes":
        bits = old.split()
        place = data.draw(st.integers(0, 13))
        bits[place] = data.draw(st.sampled_from([b for b in ("00", "01", "10", "11") if b != bits[place]]))
        new = " ".join(bits)
    else:
        new = data.draw(st.sampled_from([op for op in genotype.PRIMITIVES if op != old]))
    before = genotype.from_json(genotype_object(structure))
    try:
        after = genotype.from_json(genotype_object(put(structure, path, new)))
    except GenotypeError:
        assume(False)
    assert after.hash != before.hash
    assert after.structure != before.structure


@reproducible(100)
@given(one=structures, other=structures)
def test_hashes_are_equal_exactly_for_equal_structures(one, other):
    hashes = [genotype.from_json(genotype_object(structure)).hash for structure in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


def test_order_of_keys_and_of_roles_does_not_change_the_genotype():
    value = raw("arnas")
    shuffled = dict(reversed(value.items()))
    shuffled["cells"] = {role: dict(reversed(cell.items())) for role, cell in reversed(value["cells"].items())}
    assert genotype.from_json(shuffled) == genotype.from_json(value)
    assert genotype.from_json(shuffled).hash == genotype.from_json(value).hash


# Refusals

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


# Resolving whatever a user names


def test_resolve_takes_every_form(tmp_path):
    expected = genotype.named("darts_v2")
    file = tmp_path / "mine.json"
    file.write_text(expected.dumps(), encoding="utf-8")
    assert genotype.resolve(expected) is expected
    for form in (expected.to_json(), "darts_v2", "rnas_darts_v2", file, str(file)):
        assert genotype.resolve(form) == expected
    cells = raw("darts_v2")["cells"]
    fields = ", ".join(
        f"{role}={[tuple(edge) for edge in cell['edges']]!r}, {role}_concat={cell['concat']!r}"
        for role, cell in cells.items()
    )
    script = tmp_path / "genotypes.py"
    script.write_text(f"DARTS = Genotype({fields})\n", encoding="utf-8")
    for form in (f"Genotype({fields})", f"  Genotype({fields})\n", f"{script}:DARTS"):
        assert genotype.resolve(form).structure == expected.structure


@pytest.mark.parametrize("spec", ["", "no such thing", "rnas_", 7])
def test_resolve_refuses_unknown_names(spec):
    with pytest.raises(UnknownNameError):
        genotype.resolve(spec)


def test_resolve_refuses_a_missing_path(tmp_path):
    with pytest.raises(GenotypeError, match="no such genotype file"):
        genotype.resolve(str(tmp_path / "absent"))


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
