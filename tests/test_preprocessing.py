"""What a foreign model expects of its input: read from text, checked, completed by what the model declares."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.errors import UsageError
from rnas_zoo.preprocessing import Preprocessing

IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
triples = st.tuples(*[st.floats(0, 1).map(lambda v: round(v, 4))] * 3)


def test_nothing_given_is_nothing():
    assert Preprocessing.parse() is None
    assert Preprocessing().changes_nothing
    assert Preprocessing((0, 0, 0), (1, 1, 1), layout="nchw").changes_nothing


@given(triples, triples.map(lambda t: tuple(v + 0.01 for v in t)), st.integers(1, 999), st.integers(1, 999))
def test_texts_are_read_as_they_stand(mean, std, height, width):
    found = Preprocessing.parse(
        mean=",".join(map(str, mean)), std=" , ".join(map(str, std)), input_size=f"{height}x{width}", layout="nhwc"
    )
    assert found == Preprocessing(mean, std, (height, width), "nhwc", 1)
    record = json.loads(json.dumps(found.to_json()))
    assert Preprocessing(**record) == found


def test_short_forms():
    assert Preprocessing.parse(mean="127.5", std="127.5", range="255").mean == (127.5,) * 3
    assert Preprocessing.parse(input_size="224").input_size == (224, 224)
    assert Preprocessing.parse(range=255).range == 255


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mean": "0.5,0.5"}, r"mean is three finite numbers.*got \(0.5, 0.5\)"),
        ({"mean": "a,b,c"}, "mean is three numbers such as"),
        ({"std": "nan"}, "std is three finite numbers"),
        ({"std": "1,0,1"}, "std must be above 0 in every channel, got 1,0,1"),
        ({"mean": "123.7,116.3,103.5"}, "outside of pixels of 0 to 1: for pixels of 0 to 255 give range 255"),
        ({"mean": "300", "range": "255"}, "outside of pixels of 0 to 255"),
        ({**IMAGENET, "range": "255"}, "multiply mean and std by 255, or leave the range at 1"),
        ({"range": "2"}, "range is the value of a white pixel, 1 or 255, got 2"),
        ({"range": "white"}, "1 or 255, got 'white'"),
        ({"layout": "hwc"}, "layout is nchw or nhwc, got 'hwc'"),
        ({"input_size": "0"}, "input_size is height and width in pixels"),
        ({"input_size": "3x4x5"}, "HEIGHTxWIDTH such as 192x256, got '3x4x5'"),
        ({"input_size": "-3"}, "HEIGHTxWIDTH such as 192x256, got '-3'"),
    ],
)
def test_senseless_values_are_refused_with_cause_and_fix(options, text):
    with pytest.raises(UsageError, match=text) as error:
        Preprocessing.parse(**options)
    assert "\n" not in str(error.value)


def test_what_was_not_given_comes_from_the_model():
    declared = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    given_size = Preprocessing.parse(input_size="8").completed(*declared)
    assert given_size == Preprocessing(*declared, (8, 8), "nchw", 1)
    assert Preprocessing.parse(mean="0.1").completed(*declared) == Preprocessing((0.1,) * 3, declared[1], None, "nchw")
    assert Preprocessing().completed() == Preprocessing((0.0,) * 3, (1.0,) * 3, None, "nchw", 1)
    assert Preprocessing().completed((0.5,), (0.5,)).mean == (0.5,) * 3


def test_a_declared_mean_is_not_taken_for_another_range():
    with pytest.raises(UsageError, match=r"declares mean 0\.5,0\.5,0\.5 .* with range 255 give both mean and std"):
        Preprocessing.parse(range="255", mean="127").completed((0.5,) * 3, (0.5,) * 3)
    assert Preprocessing.parse(range="255").completed((0.0,) * 3, (1.0,) * 3).range == 255
    whole = Preprocessing.parse(range="255", mean="127", std="58")
    assert dataclasses.replace(whole, layout="nchw") == whole.completed((0.5,) * 3, (0.5,) * 3)
