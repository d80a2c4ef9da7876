"""The list of models: what is asked is met, and nothing else decides."""

import json
from itertools import pairwise

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

import rnas_zoo
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import UnknownNameError, UsageError
from rnas_zoo.hub import results, zoo
from rnas_zoo.hub.zoo import Query

from ..releases import CLEAN, RELEASES, A, B, C


def chosen(**asked):
    return [model.name for model in zoo.select(Query(pretrained=True, **asked), RELEASES)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [CLEAN, A, B, C]),
        ({"filter": "rnas_a*"}, [CLEAN, A]),
        ({"max_params": "100k"}, [CLEAN, A, C]),
        ({"max_params": 99_999}, [C]),
        ({"min_robust": 40}, [B, C]),
        ({"min_robust": 40.5}, [C]),
        ({"min_robust": 36}, [B, C]),
        ({"min_robust": 36, "protocol": "quick"}, [A, B, C]),
        ({"min_robust": 50, "threat": "linf:4/255"}, [B]),
        ({"dataset": "cifar10"}, [CLEAN, A, B]),
        ({"threat": "l2:0.5"}, [CLEAN]),
        ({"threat": Threat("linf", 8 / 255)}, [CLEAN, A, B]),
        ({"protocol": "standard"}, [CLEAN, B]),
        ({"protocol": "standard", "threat": "linf:4/255"}, []),
        ({"sort": "robust"}, [C, B, A, CLEAN]),
        ({"sort": "robust", "threat": "linf:8/255"}, [B, A, CLEAN]),
        ({"sort": "clean"}, [C, CLEAN, B, A]),
        ({"sort": "params"}, [C, CLEAN, A, B]),
        ({"sort": "macs"}, [CLEAN, A, B, C]),
        ({"sort": "name", "min_robust": 0}, [CLEAN, A, B, C]),
        ({"max_params": "350k", "min_robust": 30, "dataset": "cifar10", "sort": "robust"}, [B, A]),
    ],
)
def test_models_are_chosen_by_what_is_asked(asked, expected):
    assert chosen(**asked) == expected


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"min_robust": 0.4}, UsageError, "for 40 % write 40, got 0.4"),
        ({"min_robust": 101}, UsageError, "0 to 100"),
        ({"min_robust": -1}, UsageError, "0 to 100"),
        ({"min_robust": float("nan")}, UsageError, "0 to 100"),
        ({"max_params": "many"}, UsageError, "write 1000000, 1e6"),
        ({"max_params": 0}, UsageError, "above 0"),
        ({"threat": "8/255"}, UsageError, "write linf:8/255"),
        ({"threat": "l1:8/255"}, UsageError, "known are linf, l2"),
        ({"protocol": "transfer"}, UnknownNameError, "Known: quick, fast, standard, full"),
        ({"sort": "size"}, UnknownNameError, "Known: name, params, macs, clean, robust"),
        ({"dataset": "cifar"}, UnknownNameError, "Did you mean cifar10, cifar100"),
    ],
)
def test_questions_that_make_no_sense_are_errors(asked, error, words):
    with pytest.raises(error, match=words):
        chosen(**asked)


queries = st.fixed_dictionaries(
    {},
    optional={
        "filter": st.sampled_from(["*", "rnas_a*", "*linf8", "no*"]),
        "max_params": st.sampled_from([1, 50_000, 100_000, "0.2M", 1e6]),
        "min_robust": st.sampled_from([0, 1, 35, 40, 86, 100]),
        "dataset": st.sampled_from(["cifar10", "digits", "svhn"]),
        "threat": st.sampled_from(["linf:8/255", "linf:4/255", "linf:16/255", "l2:0.5", "l2:1"]),
        "protocol": st.sampled_from(["quick", "fast", "standard", "full"]),
        "sort": st.sampled_from(zoo.SORTS),
    },
)


@given(queries)
def test_every_model_listed_meets_the_question_and_sorting_only_sorts(asked):
    found = zoo.select(Query(pretrained=True, **asked), RELEASES)
    for model in found:
        if "max_params" in asked:
            assert model.parameters <= {"0.2M": 200_000}.get(asked["max_params"], asked["max_params"])
        if "min_robust" in asked:
            assert model.run["robust_accuracy"] * 100 >= asked["min_robust"] - 1e-6
        assert model.result.dataset == asked.get("dataset", model.result.dataset)
        assert model.run["protocol"] == asked.get("protocol", model.run["protocol"])
        norm, _, eps = asked.get("threat", f"{model.run['norm']}:{model.run['eps']}").partition(":")
        assert (model.run["norm"], model.run["eps"]) == (norm, str(float(eps)) if norm == "l2" else eps)
    unsorted = [model.name for model in zoo.select(Query(pretrained=True, **{**asked, "sort": None}), RELEASES)]
    assert sorted(model.name for model in found) == unsorted
    keys = {
        "params": lambda model: model.result.parameters,
        "macs": lambda model: model.result.macs,
        "clean": lambda model: -model.result.clean["clean_accuracy"],
        "robust": lambda model: -model.run["robust_accuracy"],
        "name": lambda model: model.name,
    }
    key = keys[asked.get("sort", "name")]
    assert all((key(a), a.name) <= (key(b), b.name) for a, b in pairwise(found))


@given(queries, st.sampled_from(["filter", "max_params", "dataset"]))
def test_filters_commute(asked, one):
    """Asking for both is asking for one among what the others leave."""
    if one in asked:
        alone, others = {one: asked[one]}, {name: value for name, value in asked.items() if name != one}
        assert chosen(**asked) == [name for name in chosen(**others) if name in chosen(**alone)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"min_robust": 90}, f"Nearest: {C} (86.0 % robust under L∞ 16/255)."),
        ({"min_robust": 50, "dataset": "cifar10"}, f"Nearest: {B} (40.0 % robust under L∞ 8/255)."),
        ({"max_params": "40k"}, f"Nearest: {C} (50,000 parameters)."),
        ({"dataset": "svhn", "max_params": "60k"}, f"Nearest: {C} (data digits)."),
        ({"threat": "linf:3/255"}, f"Nearest: {B} (only measured under L∞ 8/255, L∞ 4/255)."),
        ({"protocol": "full", "filter": "*digits*"}, f"Nearest: {C} (not measured by full)."),
    ],
)
def test_the_nearest_model_says_what_it_misses(asked, expected):
    assert chosen(**asked) == []
    assert zoo.nearest(Query(pretrained=True, **asked), RELEASES) == expected


def test_of_a_name_that_nothing_has_the_nearest_names_are_told():
    assert "rnas_cl_s7" in zoo.nearest(Query("rnas_cl_s77"), [])
    assert zoo.nearest(Query("quite different"), []) == ""


def test_what_is_said_of_a_model_is_json():
    (model,) = zoo.select(Query("rnas_b*", threat="linf:4/255"), RELEASES)
    found = json.loads(json.dumps(model.to_json()))
    assert (found["model"], found["parameters"], found["robust"]["robust_accuracy"]) == (B, 300_000, 0.6)


def test_models_are_listed_by_pattern():
    every = rnas_zoo.list_models()
    assert {"rnas_vuln_h", "rnas_cells", "rnas_students", "rnas_cl_s7"} <= set(every)
    assert rnas_zoo.list_models("*cl_s*") == sorted(name for name in every if "cl_s" in name)
    assert rnas_zoo.list_models("nothing*") == []
    assert all(name.startswith("rnas_") for name in every)
    assert rnas_zoo.list_models(sort="name") == every


def test_architectures_are_chosen_by_their_size():
    found = rnas_zoo.list_models("rnas_cl_s?", max_params=220_000, sort="params")
    sizes = {
        name: sum(p.numel() for p in timm.create_model(name).parameters()) for name in ("rnas_cl_s3", "rnas_cl_s5")
    }
    assert found == sorted(sizes, key=sizes.get)
    assert max(sizes.values()) <= 220_000
    (model,) = zoo.select(Query("rnas_cl_s3", sort="macs"))
    assert model.macs == 4_743_304
    assert model.to_json() == {"model": "rnas_cl_s3", "parameters": 112_790}


def test_bundled_models_are_asked_without_more_ado(monkeypatch):
    monkeypatch.setattr(results, "collect", lambda: RELEASES)
    assert rnas_zoo.list_models(min_robust=30, dataset="cifar10", sort="robust") == [B, A]
    assert rnas_zoo.list_models(pretrained=True, max_params="60k") == [C]
