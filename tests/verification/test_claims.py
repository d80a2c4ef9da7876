"""The re-verification rule, checked by counting images one by one."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.verification import claims, evidence

from .counted import models, table


def too_many(k: int, n: int) -> bool:
    """Whether k of n lies above the limit of the design: max(1, 0.5 % of n)."""
    return k > 1 and Fraction(k) > Fraction(5, 1000) * n


# --- images ----------------------------------------------------------------------------------------------------------


@given(models(), st.sampled_from(["quick", "standard"]))
def test_an_honest_claim_is_never_refuted_by_a_weaker_attack(model, protocol):
    correct, broken, generator = model
    weaker = {i for i in broken if generator.random() < 0.7}
    outcome = claims.compare(*table(correct, broken), *table(correct, weaker, protocol=protocol))
    assert outcome.verdict == ("reproduced" if protocol == "standard" else "not refuted")
    assert (outcome.exit_code, outcome.positions) == (0, [])


@given(models(), st.integers(0, 10), st.sampled_from(["quick", "standard", "full"]))
def test_images_broken_beyond_the_claim_refute_it_above_the_limit_only(model, k, protocol):
    correct, broken, generator = model
    robust = [i for i in range(len(correct)) if correct[i] and i not in broken]
    extra = {int(i) for i in generator.permutation(robust)[:k]}
    found = {i for i in broken if generator.random() < 0.5} | extra
    outcome = claims.compare(*table(correct, broken), *table(correct, found, protocol=protocol))
    assert (outcome.verdict == "refuted") == too_many(len(extra), len(correct))
    assert outcome.exit_code == (1 if outcome.verdict == "refuted" else 0)
    assert outcome.positions == sorted(extra)


@pytest.mark.parametrize(("n", "allowed"), [(1, 1), (200, 1), (399, 1), (400, 2), (600, 3), (1000, 5), (1400, 7)])
def test_the_limit_is_half_a_percent_and_at_least_one(n, allowed):
    assert evidence.limit(n) == allowed
    claim = table([True] * n, set())
    at = claims.compare(*claim, *table([True] * n, set(range(allowed))))
    assert at.verdict == "reproduced"
    if n > allowed:
        above = claims.compare(*claim, *table([True] * n, set(range(allowed + 1))))
        assert above.verdict == "refuted"
        assert f"{allowed + 1} images claimed robust are broken, at most {allowed} of {n} may be" in above.text


@given(models(300))
def test_the_order_of_images_does_not_matter(model):
    correct, broken, generator = model
    claim, run = table(correct, broken), table(correct, {i for i in range(len(correct)) if i % 3 == 0})
    expected = claims.compare(*claim, *run)
    order = generator.permutation(len(correct))
    assert claims.compare(*claim, run[0], {key: run[1][key][order] for key in run[1]}) == expected


def test_a_run_of_the_same_protocol_with_another_seed_reproduces():
    claim = table([True] * 50 + [False] * 5, {1, 2})
    outcome = claims.compare(*claim, *table([True] * 50 + [False] * 5, {2, 3}, seed=7))
    assert (outcome.verdict, outcome.positions, outcome.reasons) == ("reproduced", [3], [])
    assert outcome.text.startswith("Reproduced: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "quick"}, r"the protocol was quick \(weaker\), the claim's is standard"),
        ({"protocol": "full"}, "the protocol was full, the claim's is standard"),
        ({"params": {"pgd20": {"steps": 10, "step": 2 / 255}}}, "pgd20 ran with other parameters"),
        ({"source": {"name": "other", "sha256": "1"}}, "another source model"),
        ({"eps": "4/255"}, "eps was 4/255, smaller than the claim's 8/255"),
        ({"subject": {"kind": "onnx", "file": "model.onnx", "sha256": "00"}}, "about torch, this run about onnx"),
    ],
)
def test_what_was_weaker_or_other_is_named(changes, words):
    claim, run = table([True] * 30, {1, 2}), table([True] * 30, set(), **changes)
    outcome = claims.compare(*claim, *run)
    assert outcome.verdict == "not refuted"
    (reason,) = outcome.reasons
    assert re.search(words, reason)
    assert reason in outcome.text
    assert claims.compare(*claim, *table([True] * 30, {5, 6}, **changes)).verdict == "refuted"


def test_parameters_read_from_json_are_those_of_a_run_just_made():
    claim = table([True] * 5, set(), params={"square": {"sizes": [1, 2]}})
    run = table([True] * 5, set(), params={"square": {"sizes": (1, 2)}})
    assert claims.compare(*claim, *run).verdict == "reproduced"


def test_fewer_images_are_compared_as_fewer():
    claim = table([True] * 400, set())
    outcome = claims.compare(*claim, *table([True] * 100, set()))
    assert (outcome.verdict, len(outcome.reasons)) == ("not refuted", 1)
    assert "300 of the claim's 400 images are left out" in outcome.reasons[0]
    assert claims.compare(*claim, *table([True] * 399, {0, 1})).verdict == "refuted"  # the limit of 399 is 1, of 400 2
    assert claims.compare(*claim, *table([True] * 400, {0, 1})).verdict == "reproduced"


def test_more_images_than_claimed_are_left_alone():
    claim = table([True] * 20, set(), positions=range(10, 30))
    run = table([True] * 50, set(range(10)) | set(range(30, 50)))
    assert claims.compare(*claim, *run).verdict == "reproduced"


def test_images_with_other_pixels_are_left_out_and_counted():
    correct, claim = [True] * 40, table([True] * 40, set())
    run, verdicts = table(correct, {3, 4, 5})
    for row in (3, 4, 5):
        verdicts["pixels_sha256"][row] = "0" * 64
    outcome = claims.compare(*claim, run, verdicts)
    assert (outcome.verdict, outcome.positions) == ("not refuted", [3, 4, 5])
    assert "3 of the claim's 40 images are left out (3 have other pixels here)" in outcome.reasons[0]
    assert "37 images were compared" in outcome.text


def test_nothing_in_common_is_an_error():
    claim = table([True] * 4, set())
    run, verdicts = table([True] * 4, set())
    verdicts["pixels_sha256"] = np.array(["0" * 64] * 4)
    with pytest.raises(DataError, match="all 4 images have other pixels"):
        claims.compare(*claim, run, verdicts)
    with pytest.raises(DataError, match="no image in common"):
        claims.compare(*claim, *table([True] * 4, set(), positions=range(4, 8)))
    with pytest.raises(DataError, match="judged a position twice"):
        claims.compare(*claim, *table([True] * 4, set(), positions=[0, 1, 1, 2]))


# --- clean verdicts, refused images, records --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "refuted"),
    [(0.5, -0.5, True), (9e-5, -9e-5, False), (9e-5, -2e-4, True), (2e-4, -9e-5, True), (0.5, np.nan, True)],
)
def test_a_clean_verdict_that_disagrees_refutes_unless_rounding_explains_it(old, new, refuted):
    claim, run = table([True] * 9, {1}), table([True] * 4 + [False] + [True] * 4, {1})
    claim[1]["clean_margin"][4], run[1]["clean_margin"][4] = old, new
    for pair in ((claim, run), (run, claim)):
        outcome = claims.compare(*pair[0], *pair[1])
        assert (outcome.verdict, outcome.positions) == (("refuted", [4]) if refuted else ("reproduced", []))


def test_images_without_a_verdict_refute_nothing():
    claim = table([True] * 30, {1})
    run, verdicts = table([True] * 30, {1, 5, 6, 7}, refused=(5, 6, 7))
    outcome = claims.compare(*claim, run, verdicts)
    assert (outcome.verdict, outcome.positions) == ("not refuted", [])
    assert "3 images got no verdict" in outcome.reasons[0]
    unread = table([True] * 5 + [False] * 3 + [True] * 22, {1}, refused=(5, 6, 7))  # not even the clean image
    for pair in ((claim, unread), (unread, claim)):
        assert claims.compare(*pair[0], *pair[1]).exit_code == 0
    refused = table([True] * 30, {1}, refused=(5, 6, 7))
    assert claims.compare(*refused, *refused).verdict == "reproduced"
    assert claims.compare(*refused, *table([True] * 30, {1, 5, 6, 7})).verdict == "reproduced"  # never claimed robust


@pytest.mark.parametrize("number", ["clean_accuracy", "robust_accuracy"])
def test_a_claim_that_does_not_add_up_is_refuted(number):
    claim, run = table([True] * 10, {1, 2}), table([True] * 10, {1, 2})
    claim[0][number] = 0.95
    outcome = claims.compare(*claim, *run)
    assert outcome.verdict == "refuted"
    assert f"does not add up: {number} is stated as 0.95" in outcome.text


def test_a_claim_that_lists_an_image_twice_is_refuted():
    claim = table([True] * 4, set(), positions=[0, 1, 2, 2])
    assert claims.compare(*claim, *table([True] * 4, set())).verdict == "refuted"


def test_another_file_of_the_same_kind_refutes_and_a_module_in_memory_does_not():
    claim = table([True] * 10, set())
    for file, digest, verdict in [
        ("model.safetensors", "cd" * 32, "refuted"),
        ("renamed.safetensors", "ab" * 32, "reproduced"),
        (None, "cd" * 32, "reproduced"),
    ]:
        run = table([True] * 10, set(), subject={"kind": "torch", "file": file, "sha256": digest})
        assert claims.compare(*claim, *run).verdict == verdict
    int8 = table([True] * 10, set(), subject={"kind": "int8", "file": "m.int8.onnx", "sha256": "0"})
    with pytest.raises(UsageError, match="about torch, this run about int8"):
        claims.compare(*claim, *int8)


def test_preprocessing_is_that_of_the_claim():
    how = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    claim, run = table([True] * 9, set(), preprocessing=json.loads(json.dumps(how))), table([True] * 9, set())
    with pytest.raises(UsageError, match="those of this run by nothing"):
        claims.compare(*claim, *run)
    run[0]["preprocessing"] = how
    assert claims.compare(*claim, *run).verdict == "reproduced"


def test_problems_found_elsewhere_refute():
    claim = table([True] * 10, set())
    outcome = claims.compare(*claim, *claim, problems=["model.onnx is not the file of export.json"])
    assert (outcome.verdict, outcome.exit_code) == ("refuted", 1)
    assert "model.onnx is not the file" in outcome.text


@pytest.mark.parametrize(("changes", "words"), [({"norm": "l2"}, "--norm linf"), ({"eps": "9/255"}, "--eps 8/255")])
def test_another_norm_or_a_larger_eps_is_an_error(changes, words):
    claim, run = table([True] * 10, set()), table([True] * 10, set(), **changes)
    with pytest.raises(UsageError, match=words):
        claims.compare(*claim, *run)
    with pytest.raises(UsageError, match=words):
        claims.compare_number(0.5, run[0], claim[0])


# --- numbers ----------------------------------------------------------------------------------------------------------


@given(models(300), st.floats(0, 1))
def test_a_number_is_refuted_only_above_the_whole_interval(model, claim):
    run, _ = table(*model[:2])
    robust = sum(1 for i in range(run["n"]) if model[0][i] and i not in model[1])
    high = stats.binomtest(robust, run["n"]).proportion_ci(method="exact").high
    assert claims.compare_number(claim, run).verdict == ("refuted" if claim > high else "not refuted")
    assert claims.compare_number(robust / run["n"], run).exit_code == 0


def test_images_without_a_verdict_do_not_lower_the_number():
    run, _ = table([True] * 100, set(range(20)), refused=range(50, 100))
    assert run["robust_accuracy"] == 0.3
    assert claims.compare_number(0.8, run).verdict == "not refuted"
    assert claims.compare_number(0.95, run).verdict == "refuted"


@pytest.mark.parametrize("claim", [62.8, -0.1, float("nan")])
def test_a_number_that_is_no_fraction_is_an_error(claim):
    with pytest.raises(UsageError, match=r"fraction in \[0, 1\]"):
        claims.compare_number(claim, table([True], set())[0])


def test_numbers_are_compared_on_the_same_data_only():
    claim, run = table([True] * 9, set())[0], table([True] * 9, set())[0]
    assert len(claims.compare_number(1.0, run, claim).reasons) == 1
    run["dataset"]["name"] = "digits"
    with pytest.raises(UsageError, match="about cifar10, this run about digits"):
        claims.compare_number(1.0, run, claim)
    run["dataset"]["name"] = "my_images"
    assert "are called my_images" in claims.compare_number(1.0, run, claim).text
    run["dataset"] |= {"name": "cifar10@64", "image_size": [64, 64]}
    with pytest.raises(UsageError, match="about cifar10, this run about cifar10@64"):
        claims.compare_number(1.0, run, claim)
