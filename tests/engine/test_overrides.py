"""Fields as text: what is written is what the field gets, in its own type, or an error that names the fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.engine.overrides import changes, hints, split
from rnas_zoo.errors import UsageError


@dataclass(frozen=True)
class Example:
    data: str
    steps: int = 1
    rate: float = 0.1
    on: bool = False
    betas: tuple[float, ...] = ()
    widths: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=8", {"steps": 8}),
        ("steps=-3", {"steps": -3}),
        (" steps = 8 ", {"steps": 8}),
        ("rate=1e-3", {"rate": 0.001}),
        ("rate=2", {"rate": 2.0}),
        ("on=true", {"on": True}),
        ("on=False", {"on": False}),
        ("data=a=b c", {"data": "a=b c"}),
        ("data=", {"data": ""}),
        ("betas=0.5,0.75", {"betas": (0.5, 0.75)}),
        ("betas=0.5", {"betas": (0.5,)}),
        ("widths=8,16,32", {"widths": (8, 16, 32)}),
        ("size=32", {"size": (32, 32)}),
        ("size=32x48", {"size": (32, 48)}),
        ("size=32,48", {"size": (32, 48)}),
    ],
)
def test_text_becomes_a_value_of_the_fields_type(text, expected):
    found = changes([text], Example)
    assert found == expected
    (value,), (other,) = found.values(), expected.values()
    assert type(value) is type(other)
    if isinstance(other, tuple):
        assert list(map(type, value)) == list(map(type, other))


@given(st.integers(), st.floats(allow_nan=False), st.lists(st.floats(allow_nan=False), min_size=1, max_size=4))
def test_numbers_read_back(steps, rate, betas):
    texts = [f"steps={steps}", f"rate={rate!r}", f"betas={','.join(map(repr, betas))}"]
    assert changes(texts, Example) == {"steps": steps, "rate": rate, "betas": tuple(betas)}
    assert math.copysign(1, changes(texts, Example)["rate"]) == math.copysign(1, rate)


def test_the_last_of_several_holds_and_dashes_are_underscores():
    @dataclass(frozen=True)
    class Long:
        a_long_name: int = 0

    assert changes(["a-long-name=1", "a_long_name=2"], Long) == {"a_long_name": 2}
    assert split("a-long-name=b-c") == ("a_long_name", "b-c")
    assert changes([], Long) == {}
    assert hints(Long) == {"a_long_name": int}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "--set takes NAME=VALUE, got 'steps'"),
        ("", "--set takes NAME=VALUE, got ''"),
        ("steps=8.5", "--set: steps = '8.5' has the wrong type, expected int"),
        ("steps=", "steps = '' has the wrong type"),
        ("rate=fast", "--set: rate = 'fast' has the wrong type, expected float"),
        ("on=1", "--set: on = '1' has the wrong type, expected bool"),
        ("betas=a,b", "betas = 'a,b' has the wrong type, expected numbers"),
        ("betas=", "betas = '' has the wrong type, expected numbers"),
        ("widths=1.5", "widths = '1.5' has the wrong type, expected numbers"),
        ("size=1x2x3", "size = '1x2x3' has the wrong type, expected numbers"),
        ("step=8", "--set: no setting 'step'. Did you mean steps"),
        ("data=x", "--set: no setting 'data'"),
        ("nothing=x", "Known: betas, on, rate, size, steps, widths"),
    ],
)
def test_what_is_no_setting_is_refused(text, message):
    with pytest.raises(UsageError) as refused:
        changes([text], Example, apart=("data", "extra"))
    assert message in str(refused.value)
