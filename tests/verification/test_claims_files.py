"""Files that state claims, ours and RobustBench's: how they are read, written and chosen from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.verification import claims, evidence, robustbench

from .counted import models, table

# --- choice and files -------------------------------------------------------------------------------------------------


def test_the_strongest_run_on_the_kind_of_file_is_chosen():
    onnx = {"kind": "onnx", "file": "model.onnx", "sha256": "1"}
    made = [
        table([True] * 9, set(), protocol="quick"),
        table([True] * 4, set()),
        table([True] * 6, set()),
        table([True] * 8, set(), subject=onnx, protocol="quick"),
    ]
    runs, verdicts = map(list, zip(*made, strict=True))
    for arguments, row in {("torch",): 2, ("torch", "quick"): 0, ("onnx",): 3}.items():
        run, found = claims.choose_run(runs, verdicts, *arguments)
        assert run is runs[row]
        assert found is verdicts[row]
    with pytest.raises(DataError, match=r"about int8\. There is: torch quick linf 8/255 n=9; .*onnx quick"):
        claims.choose_run(runs, verdicts, "int8")
    with pytest.raises(DataError, match="about onnx with protocol standard"):
        claims.choose_run(runs, verdicts, "onnx", "standard")
    with pytest.raises(DataError, match="none; verify --save"):
        claims.choose_run([], [], "torch")


def test_our_record_file_is_read_with_or_without_its_verdicts(tmp_path):
    run, verdicts = table([True] * 30, {4, 5})
    evidence.append(tmp_path, run, verdicts)
    claim = claims.read_claim(tmp_path / "robustness.json")
    assert (claim.kind, claim.runs) == ("verdicts", [run])
    assert claims.compare(claim.runs[0], claim.verdicts[0], run, verdicts).verdict == "reproduced"
    (tmp_path / "verdicts.npz").unlink()
    claim = claims.read_claim(tmp_path / "robustness.json")
    assert claim == ("numbers", [run], [])
    assert claims.compare_number(claim.runs[0]["robust_accuracy"], run, claim.runs[0]).verdict == "not refuted"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no readable JSON"),
        ("[" * 100_000, "no readable JSON"),
        ("[]", "states no robust accuracy"),
        ("3", "states no robust accuracy"),
        ('{"corruptions_acc": "80.1", "clean_acc": "90.0"}', "states no robust accuracy"),
        ('{"autoattack_acc": null}', "expected percent text"),
        ('{"autoattack_acc": true}', "expected percent text"),
        ('{"autoattack_acc": "high"}', "expected percent text"),
        ('{"autoattack_acc": "162.8"}', "between 0 and 100 percent"),
        ('{"autoattack_acc": NaN}', "between 0 and 100 percent"),
        ('{"autoattack_acc": "50", "clean_acc": "-1"}', "between 0 and 100 percent"),
        ('{"autoattack_acc": "50", "eps": "eight"}', "cannot read eps"),
        ('{"runs": 3}', "damaged evidence"),
        ('{"schema": 1, "runs": [{}]}', "damaged evidence"),
        ('{"schema": 9, "runs": []}', "schema 9"),
    ],
)
def test_files_that_state_no_claim_are_refused(tmp_path, text, words):
    path = tmp_path / "claim.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        claims.read_claim(path)
    assert "claim.json" in str(error.value)


def test_a_missing_claim_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        claims.read_claim(tmp_path / "claim.json")
    with pytest.raises(DataError, match="no readable JSON"):
        claims.read_claim(tmp_path)


# --- RobustBench ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "robust", "protocol"),
    [
        ({}, 0.628, "standard"),
        ({"external": "62.10"}, 0.621, None),
        ({"external": None}, 0.628, "standard"),
        ({"autoattack_acc": "0.0"}, 0.0, "standard"),
        ({"autoattack_acc": "0.5"}, 0.005, "standard"),
        ({"autoattack_acc": 0.628}, 0.628, "standard"),  # RobustBench's benchmark() writes fractions as numbers
        ({"autoattack_acc": 62.8}, 0.628, "standard"),
    ],
)
def test_model_info_states_percent_text_and_external_numbers_first(tmp_path, changes, robust, protocol):
    info = {"dataset": "cifar10", "eps": "8/255", "clean_acc": "89.48", "autoattack_acc": "62.80", **changes}
    (tmp_path / "Linf").mkdir()
    path = tmp_path / "Linf" / "Somebody2020.json"
    path.write_text(json.dumps(info))
    kind, (run,), verdicts = claims.read_claim(path)
    assert (kind, verdicts) == ("robustbench", [])
    assert run["robust_accuracy"] == pytest.approx(robust)
    assert run["clean_accuracy"] == pytest.approx(0.8948)
    assert (run["norm"], run["eps"], run["dataset"], run["protocol"]) == (
        "linf",
        "8/255",
        {"name": "cifar10"},
        protocol,
    )
    found = table([True] * 100, set())[0]
    assert claims.compare_number(run["robust_accuracy"], found, run).verdict == "not refuted"
    path.rename(tmp_path / "model.json")
    assert claims.read_claim(tmp_path / "model.json").runs[0]["norm"] is None


@pytest.mark.parametrize(
    ("protocol", "field"), [("standard", "autoattack_acc"), ("full", "external"), ("quick", "external")]
)
@given(model=models(300))
def test_what_is_written_for_robustbench_is_read_back(tmp_path_factory, protocol, field, model):
    run, _ = table(*model[:2], protocol=protocol, eps="0.5", norm="l2")
    info = robustbench.model_info(run, name="A model", venue="arXiv")
    assert info[field] == f"{100 * run['robust_accuracy']:.2f}"
    assert ("external" in info) == (field == "external")
    assert (info["name"], info["link"], info["unreliable"], info["dataset"]) == ("A model", None, False, "cifar10")
    path = tmp_path_factory.getbasetemp() / "L2" / "model.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(info))
    (claim,) = claims.read_claim(path).runs
    assert (claim["norm"], claim["eps"]) == ("l2", "0.5")
    assert claim["robust_accuracy"] == pytest.approx(run["robust_accuracy"], abs=5.01e-5)
    assert claim["clean_accuracy"] == pytest.approx(run["clean_accuracy"], abs=5.01e-5)
    assert claims.compare_number(claim["robust_accuracy"], run, claim).verdict in ("not refuted",)


def test_flags_make_it_unreliable_and_unknown_fields_are_errors():
    run, _ = table([True] * 5, set(), flags=["partial: 5 of 10 images"])
    assert robustbench.model_info(run)["unreliable"] is True
    with pytest.raises(UsageError, match=r"no field 'autor'\. Did you mean authors"):
        robustbench.model_info(run, autor="me")
