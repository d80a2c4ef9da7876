"""What a verification is asked for: options, completed by the claim, or refused with what contradicts what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rnas_zoo.attacks import Threat
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.verification import evidence
from rnas_zoo.verification.run import verify

from . import requested
from .requested import make, runs_of

robustbench = requested.robustbench  # fixture


# --- defaults and completion ------------------------------------------------------------------------------------------


def test_what_is_not_asked_is_the_default():
    request = make(data="digits")
    assert (request.data, request.protocol, request.norm, request.sizes) == ("digits", "standard", "linf", ("8/255",))
    assert (request.n, request.seed, request.indices, request.claimed) == (256, 0, None, None)
    assert request.threat == Threat("linf", "8/255")
    assert request.folder is request.declared is request.adversarial is None


def test_the_default_size_belongs_to_the_norm():
    assert make(data="digits", norm="l2").threat == Threat("l2", "0.5")


def test_what_is_asked_is_kept():
    request = make(data="d.npz", norm="l2", eps="0.25", protocol="fast", n=7, seed=3, claim=0.4, transfer_from="x")
    assert (request.data, request.norm, request.sizes, request.protocol) == ("d.npz", "l2", ("0.25",), "fast")
    assert (request.n, request.seed, request.number, request.transfer_from) == (7, 3, 0.4, "x")


def test_a_card_completes_everything(release):
    run = runs_of(release)[0]
    request = make(release, against_card=True)
    assert (request.data, request.protocol) == ("digits", run["protocol"])
    assert (request.norm, request.sizes, request.seed) == (run["norm"], (run["eps"],), run["seed"])
    assert request.indices.tolist() == list(range(40))
    assert request.n == 40
    assert request.folder == release
    assert request.claimed[0] == run
    assert request.claimed[0]["subject"]["kind"] == "torch"


def test_the_onnx_file_of_a_folder_is_compared_with_its_own_run(release):
    request = make(release / "model.onnx", against_card=True)
    assert request.folder == release
    assert request.claimed[0]["subject"]["kind"] == "onnx"


def test_options_precede_the_card(release):
    request = make(release, against_card=True, protocol="fast", eps="4/255", n=5, seed=9)
    assert (request.protocol, request.sizes, request.n, request.seed) == ("fast", ("4/255",), 5, 9)
    assert request.indices[: request.n].tolist() == [0, 1, 2, 3, 4]


def test_a_file_of_claims_names_the_images_as_a_card_does(release):
    request = make("rnas_cl_s3", against=release / "robustness.json")
    assert request.indices.tolist() == list(range(40))
    assert (request.data, request.n, request.folder) == ("digits", 40, None)
    assert request.claimed[1] is not None


def test_a_record_without_verdicts_states_a_number(release, tmp_path):
    shutil.copy(release / "robustness.json", tmp_path)
    request = make(against=tmp_path / "robustness.json")
    assert (request.data, request.n, request.indices, request.sizes) == ("digits", 256, None, ("16/255",))
    assert request.claimed[1] is None


def test_a_robustbench_file_completes_norm_eps_and_data(robustbench):
    request = make(against=robustbench)
    assert (request.data, request.norm, request.sizes, request.protocol) == ("cifar10", "l2", ("0.5",), "standard")
    assert request.claimed[0]["robust_accuracy"] == pytest.approx(0.6)


@pytest.fixture(scope="module")
def several(release, tmp_path_factory) -> Path:
    """A folder with evidence under two norms and two sizes, the L∞ one at 16/255 with most images; only to be read."""
    folder = Path(shutil.copytree(release, tmp_path_factory.mktemp("several") / "several"))
    for norm, eps in (("l2", "0.5"), ("linf", "4/255")):
        report = verify(folder, data_name="digits", n=8, threat=Threat(norm, eps), protocol="quick", device="cpu")
        evidence.append(folder, report.run, report.verdicts)
    return folder


def test_of_several_runs_the_one_asked_about_is_the_claim(several):
    for options, threat, n in (
        ({}, ("linf", "16/255"), 40),
        ({"norm": "l2"}, ("l2", "0.5"), 8),
        ({"norm": "linf", "eps": "4/255"}, ("linf", "4/255"), 8),
        ({"eps": "0.5", "norm": "l2"}, ("l2", "0.5"), 8),
        ({"eps": "2/255"}, ("linf", "16/255"), 40),
    ):
        for source in ({"against_card": True}, {"against": several / "robustness.json"}):
            claimed = make(several, **source, **options).claimed[0]
            assert (claimed["norm"], claimed["eps"], claimed["n"]) == (*threat, n)


# --- contradictions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"against_card": True, "claim": 0.5},
        {"against_card": True, "against": Path("x.json")},
        {"against": Path("x.json"), "claim": 0.5},
    ],
)
def test_one_claim_at_a_time(release, options):
    with pytest.raises(UsageError, match="give one of --against-card, --against and --claim"):
        make(release, **options)


def test_what_needs_a_folder_says_so(tmp_path, release):
    for ref in ("rnas_cl_s3", tmp_path, tmp_path / "m.onnx"):
        with pytest.raises(UsageError, match="--against-card needs a release folder"):
            make(ref, against_card=True)
        with pytest.raises(UsageError, match="--save needs a release folder"):
            make(ref, data="digits", save=True)
    assert make(release / "model.onnx", data="digits", save=True).folder == release


def test_a_folder_without_evidence_has_no_claim(release, tmp_path):
    shutil.copy(release / "config.json", tmp_path)
    with pytest.raises(DataError, match=r"no evidence about torch.*verify --save makes some"):
        make(tmp_path, against_card=True)


def test_a_larger_eps_or_another_norm_is_no_test_of_the_claim(release, robustbench):
    with pytest.raises(UsageError, match=r"holds up to eps 16/255.*use --eps 16/255"):
        make(release, against_card=True, eps="17/255")
    with pytest.raises(UsageError, match=r"holds under linf.*use --norm linf"):
        make(release, against_card=True, norm="l2")
    with pytest.raises(UsageError, match=r"holds up to eps 0\.5"):
        make(against=robustbench, eps="0.6")


def test_a_claim_about_other_data_is_refused_at_once_and_a_copy_is_not(release, robustbench):
    with pytest.raises(UsageError, match="the claim is about digits, not cifar10: verify on digits"):
        make(release, against_card=True, data="cifar10")
    with pytest.raises(UsageError, match="the claim is about cifar10, not digits: verify on cifar10"):
        make(against=robustbench, data="digits")
    assert make(release, against_card=True, data="my/copy.npz").data == "my/copy.npz"
    assert make(against=robustbench, data="my/copy.npz").data == "my/copy.npz"


@pytest.mark.parametrize(
    "options",
    [
        {"save": True},
        {"claim": 0.5},
        {"against_card": True},
        {"transfer_from": "rnas_cl_s3"},
    ],
)
def test_a_curve_is_compared_with_and_saved_to_nothing(release, options):
    with pytest.raises(UsageError, match="several sizes in --eps ask for a curve"):
        make(release, data="digits", eps="2/255,4/255", **options)


def test_a_curve_takes_neither_budget_nor_folder():
    for name in ("resume", "time_budget"):
        with pytest.raises(UsageError, match=f"takes no --{name.replace('_', '-')}"):
            make(data="digits", eps="2/255,4/255").curve(**{name: "x"})


def test_images_must_be_named(robustbench, tmp_path):
    with pytest.raises(UsageError, match=r"which images\? give --data .*, FILE\.npz or FOLDER$"):
        make()
    robustbench.write_text(robustbench.read_text().replace("cifar10", "imagenet"))
    with pytest.raises(UsageError, match="the claim is about imagenet"):
        make(against=robustbench)


@pytest.mark.parametrize("eps", ["8", "a", "-1/255", "2/255,"])
def test_sizes_that_are_none_are_refused(eps):
    with pytest.raises(UsageError, match="eps"):
        make(data="digits", eps=eps).threat


def test_damaged_claims_are_refused(tmp_path):
    for content in ("{", "[]", '{"runs": 3}', '{"schema": 1, "runs": []}', '{"autoattack_acc": "x"}'):
        (tmp_path / "claim.json").write_text(content)
        with pytest.raises(DataError, match=r"claim\.json"):
            make(data="digits", against=tmp_path / "claim.json")


# --- declared accuracy ------------------------------------------------------------------------------------------------


def test_the_declared_accuracy_is_that_of_the_same_data_and_kind(release, tmp_path):
    folder = Path(shutil.copytree(release, tmp_path / "copy"))
    record = json.loads((folder / "robustness.json").read_text())
    assert [run["subject"]["kind"] for run in record["runs"]] == ["torch", "onnx"]
    own = record["runs"][0]["clean_accuracy"]
    assert make(folder, data="digits").declared == own
    assert make(folder / "model.onnx", data="digits").declared == record["runs"][1]["clean_accuracy"]
    assert make(folder, data="elsewhere/other.npz").declared is None
    assert make(tmp_path / "nothing.onnx", data="digits").declared is None


def test_the_declared_accuracy_is_that_of_the_strongest_run(several):
    assert make(several, data="digits").declared == runs_of(several)[0]["clean_accuracy"]
    eight = {run["clean_accuracy"] for run in runs_of(several) if run["n"] == 8}
    assert eight != {runs_of(several)[0]["clean_accuracy"]}, "the runs on eight images state another"
