"""Stored adversarial images against the records: which contradict them, by a reading of the rule image by image."""

from __future__ import annotations

import numpy as np
import pytest

from rnas_zoo import data
from rnas_zoo.verification.replay import replay

K, CLASSES = 64, 5
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(40, 200, (K, 4, 4, 3), dtype=np.uint8)
LABELS = GENERATOR.integers(0, CLASSES, K)
TWINS = (IMAGES + GENERATOR.choice([-8, 8], IMAGES.shape)).astype(np.uint8)
RIGHT = np.eye(CLASSES)[LABELS] * 3.0


def run(**changes) -> dict:
    own = {"subject": {"kind": "torch"}, "protocol": "quick", "norm": "linf", "eps": "8/255"}
    return {**own, **changes}


def table(broken: set[int] = frozenset(), wrong: set[int] = frozenset(), refused: set[int] = frozenset()) -> dict:
    """Verdicts on all images, in another order than that of the pack."""
    order = np.arange(K)[::-1]
    return {
        "position": order + 1000,
        "pixels_sha256": np.array([data.pixel_hash(IMAGES[i]) for i in order]),
        "clean_correct": np.array([i not in wrong for i in order]),
        "broken_by": np.array(["pgd20" if i in broken else "" for i in order]),
        "refused": np.array([i in refused for i in order]),
    }


def logits_that_break(rows: set[int], margin: float = 1.0) -> np.ndarray:
    logits = RIGHT.copy()
    for row in rows:
        logits[row, (LABELS[row] + 1) % CLASSES] = 3.0 + margin
    return logits


def found(rows: set[int], runs=None, tables=None, twins=TWINS, **options) -> list[str]:
    return replay(IMAGES, twins, LABELS, logits_that_break(rows, **options), runs or [run()], tables or [table()])


def test_twins_that_break_nothing_contradict_nothing():
    assert found(set()) == []


@pytest.mark.parametrize("broken", [{3}, {3, 9}, {0, 1, 2, 63}])
def test_more_than_one_of_64_refutes_and_is_named(broken):
    problems = found(broken)
    assert len(problems) == (len(broken) > 1)
    if problems:
        named = {int(word) - 1000 for word in problems[0].partition("(images ")[2].rstrip(")").split(", ")}
        assert named == broken
        assert problems[0].startswith(f"quick linf 8/255: {len(broken)} images claimed robust")


def test_images_that_the_records_do_not_call_robust_count_for_nothing():
    rows = {1, 2, 3, 4, 5, 6}
    assert found(rows, tables=[table(broken={1, 2, 3}, wrong={4}, refused={5})]) == []
    assert len(found(rows, tables=[table(broken={1, 2, 3}, wrong={4})])) == 1


@pytest.mark.parametrize(
    ("norm", "eps", "inside"),
    [
        ("linf", "8/255", True),
        ("linf", "9/255", True),
        ("linf", "7/255", False),
        ("l2", str(8 / 255 * 48**0.5 + 1e-3), True),
        ("l2", str(8 / 255 * 48**0.5 - 1e-3), False),
    ],
)
def test_only_twins_inside_the_ball_count(norm, eps, inside):
    assert bool(found({1, 2, 3}, runs=[run(norm=norm, eps=eps)])) == inside


def test_a_tie_breaks_nothing_and_neither_does_what_is_no_number():
    assert found({1, 2, 3}, margin=0.5e-4) == []
    assert len(found({1, 2, 3}, margin=2e-4)) == 1
    logits = logits_that_break({1, 2, 3})
    logits[1:4] = np.nan
    assert replay(IMAGES, TWINS, LABELS, logits, [run()], [table()]) == []


def test_runs_about_another_function_or_by_a_weaker_protocol_are_left_out():
    for change in ({"subject": {"kind": "onnx"}}, {"subject": {"kind": "int8"}}, {"preprocessing": {}}, {"source": {}}):
        plain = change in ({"preprocessing": {}}, {"source": {}})
        assert bool(found({1, 2}, runs=[run(**change)])) == plain, change
    for change in ({"preprocessing": {"mean": [0.5]}}, {"source": {"sha256": "0"}}):
        assert found({1, 2}, runs=[run(**change)]) == []
    weak, strong = run(), run(protocol="standard")
    honest = table(broken={1, 2})
    assert found({1, 2}, runs=[weak, strong], tables=[table(), honest]) == [], "quick may have missed them"
    assert len(found({1, 2}, runs=[weak, strong], tables=[honest, table()])) == 1


def test_images_without_a_record_are_left_out():
    other = table()
    other["pixels_sha256"] = np.array(["0" * 64] * K)
    assert found(set(range(K)), tables=[other]) == []
