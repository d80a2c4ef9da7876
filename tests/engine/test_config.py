"""Configurations: strict to read, and the same after a trip through JSON or TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnas_zoo import genotype
from rnas_zoo.engine import config as configuration
from rnas_zoo.engine.config import from_dict, read_toml, to_dict, to_toml
from rnas_zoo.errors import UsageError


@dataclass(frozen=True)
class Example:
    data: str
    steps: int = 10
    rate: float = 0.5
    fast: bool = False
    widths: tuple[int, ...] = ()
    teacher: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def test_fields_are_filled_in_and_defaults_kept():
    found = from_dict(Example, {"data": "digits", "rate": 1, "widths": [3, 4], "extra": {"a": 1}}, "x.toml")
    assert found == Example("digits", rate=1.0, widths=(3, 4), extra={"a": 1})
    assert isinstance(found.rate, float)
    assert isinstance(found.widths, tuple)


def test_a_configuration_survives_json():
    config = Example("digits", 3, 0.25, True, (1, 2), "wrn", {"genotype": {"edges": [["skip_connect", 0]]}})
    assert from_dict(Example, to_dict(config), "x") == config


def test_unknown_fields_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"x\.toml: unknown field 'step'\. Did you mean steps"):
        from_dict(Example, {"data": "digits", "step": 3}, "x.toml")


def test_missing_fields_are_refused():
    with pytest.raises(UsageError, match=r"x\.toml: .*missing.*'data'"):
        from_dict(Example, {"steps": 3}, "x.toml")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data", 3, "str"),
        ("data", None, "str"),
        ("steps", "3", "int"),
        ("steps", 3.0, "int"),
        ("steps", True, "int"),
        ("rate", "0.5", "float"),
        ("rate", False, "float"),
        ("fast", 1, "bool"),
        ("widths", 3, "tuple"),
        ("widths", "34", "tuple"),
        ("teacher", 3, "str or nothing"),
        ("extra", [1], "Mapping"),
    ],
)
def test_wrong_types_are_refused_by_name(name, value, expected):
    with pytest.raises(UsageError, match=rf"x\.toml: {name} = .* has the wrong type, expected {expected}"):
        from_dict(Example, {"data": "digits", name: value}, "x.toml")


# --- TOML -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ITEMS = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner | st.none(), max_size=3),
    max_leaves=10,
)
TABLES = st.dictionaries(TEXT, ITEMS | st.none(), max_size=4)


def without_none(item):
    if isinstance(item, dict):
        return {key: without_none(value) for key, value in item.items() if value is not None}
    return [without_none(value) for value in item] if isinstance(item, list) else item


def typed(item):
    """The item with the type of each number and text, since 1 == 1.0 == True."""
    if isinstance(item, dict):
        return {key: typed(value) for key, value in item.items()}
    return [typed(value) for value in item] if isinstance(item, list) else (type(item), item)


@settings(max_examples=300)
@given(TABLES)
def test_tables_survive_toml(tables):
    assert typed(tomllib.loads(to_toml(tables))) == typed(without_none(tables))


@pytest.mark.parametrize(
    "text", ["é", "日本", "😀", "\x7f", "\x00", 'a"b\\c', "a\nb\r\tc", "# no comment", " = ", "\u2028"]
)
def test_any_text_survives_toml_as_value_and_as_key(text):
    tables = {"value": text, text: 1, "inner": {text: {text: [text, {text: text}]}}}
    assert tomllib.loads(to_toml(tables)) == tables


def test_not_a_number_survives_toml():
    found = tomllib.loads(to_toml({"x": float("nan"), "y": [float("inf"), float("-inf")]}))
    assert found["x"] != found["x"]
    assert found["y"] == [float("inf"), float("-inf")]


def test_comment_lines_come_first_and_are_no_content():
    text = to_toml({"a": 1}, "made by\nnobody = 3")
    assert text.splitlines()[:2] == ["# made by", "# nobody = 3"]
    assert tomllib.loads(text) == {"a": 1}


def test_a_list_with_none_is_refused():
    with pytest.raises(UsageError, match="TOML has no null"):
        to_toml({"a": [1, None]})


def test_a_genotype_in_a_configuration_survives_toml():
    for name in genotype.names():
        value = genotype.named(name).to_json()
        value["provenance"] = {**value["provenance"], "commit": None, "cost": {"seconds": None, "steps": 3}}
        config = Example("digits", extra={"genotype": value, "channels": 4})
        stored = to_dict(config)
        assert tomllib.loads(to_toml(stored)) == {key: item for key, item in stored.items() if item is not None}
        read = from_dict(Example, tomllib.loads(to_toml(stored)), "x.toml")
        assert to_dict(read) == stored, "a run and its recipe are the same configuration"
        assert genotype.from_json(read.extra["genotype"]).hash == genotype.named(name).hash


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2", b"\xff\xfe", b"[a"])
def test_malformed_toml_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.toml: not a valid TOML file"):
        read_toml(tmp_path / "x.toml")


def test_missing_recipes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such recipe"):
        configuration.read_toml(tmp_path / "none.toml")
