"""The canonical hash: what it covers and what it does not; round trips of any genotype."""

from __future__ import annotations

import copy
import hashlib
import json

from hypothesis import assume, given
from hypothesis import strategies as st

from rnas_zoo import genotype
from rnas_zoo.errors import GenotypeError

from ..strategies import genotype_object, metadata, reproducible, structures
from .objects import leaves, put, raw, sha256_of_structure


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
