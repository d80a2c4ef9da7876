"""Which images a release's pictures show, and what stands below them."""

from types import SimpleNamespace

import numpy as np
import pytest

from rnas_zoo.hub.figures import captions, picture_rows


def report(correct: str, broken: str) -> SimpleNamespace:
    """A report of images that are classified correctly (`1`) and those among them that are broken (`x`)."""
    names = np.array(["apgd-ce" if mark == "x" else "" for mark in broken])
    right = np.array([mark == "1" for mark in correct])
    return SimpleNamespace(verdicts={"clean_correct": right, "broken_by": names, "refused": np.zeros(len(right), bool)})


@pytest.mark.parametrize(
    ("correct", "broken", "rows"),
    [
        ("1111111111", "xxxxx-----", [0, 1, 2, 5, 6, 7]),  # the first of either kind, half of them broken
        ("1111111111", "xxxxxxxxx-", [0, 1, 2, 3, 4, 9]),  # more broken ones where few are robust
        ("1111111111", "x---------", [0, 1, 2, 3, 4, 5]),  # and the other way round
        ("0101010111", "-x---x-x--", [1, 3, 5, 7, 8, 9]),  # never one that is wrong without an attack
        ("111", "x--", [0, 1, 2]),
        ("0000", "----", [0, 1, 2, 3]),  # unless there is nothing else
    ],
)
def test_pictures_show_broken_and_robust_images(correct, broken, rows):
    assert picture_rows(report(correct, broken)).tolist() == rows


def test_captions_name_and_mark_what_the_network_says():
    predictions = (np.array([0, 2, 1]), np.array([0, 1, 0]))
    found = captions(SimpleNamespace(predictions=predictions), np.array([0, 2]), np.array([0, 2, 0]), ("a", "b", "c"))
    assert found == [("a ✓", "a ✓"), ("b ✗", "a ✓")]
