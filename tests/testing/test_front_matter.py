"""What the Hub would say of a card's front matter."""

from __future__ import annotations

import pytest

from rnas_zoo import resources
from rnas_zoo.testing import front_matter

RESULT = """
  - task: {type: image-classification}
    dataset: {type: cifar10, name: CIFAR-10}
    metrics: [{type: accuracy, value: 51.2}]
"""


def card(yaml: str) -> str:
    return f"---\n{yaml}\n---\n# Title\n\n---\nnot: [this\n"


def index(results: str) -> str:
    return card(f"model-index:\n- name: m\n  results:{results}")


def test_front_matter_is_read():
    metadata, errors, warnings = front_matter.examine(card("license: mit\ntags:\n- a\n- b"))
    assert (metadata, errors, warnings) == ({"license": "mit", "tags": ["a", "b"]}, [], [])
    assert front_matter.examine(index(RESULT))[1] == []
    assert front_matter.read("---\r\nlicense: mit\r\n---\r\ntext") == {"license": "mit"}


@pytest.mark.parametrize("text", ["", "# Title\n", "text\n---\nlicense: mit\n---\n", "---\n---\n# T\n"])
def test_a_card_without_metadata_is_a_warning(text):
    assert front_matter.examine(text) == ({}, [], [front_matter.NO_METADATA])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (card("license: [mit"), "not YAML"),
        (card("license: mit\nlicense: apache-2.0"), "duplicated key 'license'"),
        (card("a: &x !!python/object/apply:os.system ['true']"), "not YAML"),
        (card("- mit"), "must be a mapping"),
        (card("license: 3"), '"license" must be'),
        (card("tags: [a, 3]"), '"tags" must be'),
        (card("pipeline_tag: [a]"), '"pipeline_tag" must be a string'),
        (card("datasets: ['CIFAR 10']"), '"CIFAR 10" is no name of a data set'),
        (card("model-index: 3"), '"model-index" must be a list'),
        (card("model-index:\n- results: []"), '"model-index[0].name" is required'),
        (card("model-index:\n- name: m"), '"model-index[0].results" must be a list'),
        (index(RESULT.replace("task", "tusk")), '"model-index[0].results[0].task" is required'),
        (index(RESULT.replace("dataset", "data")), '"model-index[0].results[0].dataset" is required'),
        (index(RESULT.replace("name: CIFAR-10", "named: x")), '"model-index[0].results[0].dataset.name" is required'),
        (index(RESULT.replace("metrics", "metric")), '"model-index[0].results[0].metrics" is required'),
        (index(RESULT.replace("value", "worth")), '"model-index[0].results[0].metrics[0].value" is required'),
        (index(RESULT + "  - 3\n"), '"model-index[0].results[1]" must be a mapping'),
    ],
)
def test_errors_name_the_field(text, words):
    errors = front_matter.examine(text)[1]
    assert len(errors) == 1
    assert words in errors[0]


def test_tags_are_what_models_are_found_by():
    text = "tags: [a, a]\nlicense: mit\ndatasets: [x/y, z]\nlibrary_name: timm\nlanguage: en\nmodel-index: []"
    found = front_matter.tags(front_matter.read(card(text)))
    assert found == ["timm", "a", "en", "dataset:x/y", "dataset:z", "license:mit", "model-index"]


def test_the_cards_of_the_zoo_have_no_errors():
    cards = sorted(resources.folder("model_cards").glob("*/README.md"))
    assert cards
    found = {path.parent.name: front_matter.examine(path.read_text(encoding="utf-8"))[1:] for path in cards}
    assert set(map(str, found.values())) == {"([], [])"}, found
