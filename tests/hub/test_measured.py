"""What was measured, in words: against words written by hand."""

import numpy as np
import pytest

from rnas_zoo.hub import measured, sections
from rnas_zoo.verification import protocols


def make(protocol="standard", kind="torch", file="model.safetensors", eps="8/255", norm="linf", n=100, **changes):
    attacks = {stage.name: {"broken": 10, "passes": 50} for stage in protocols.stages(protocol)}
    broken = 10 * len(attacks)
    return {
        "subject": {"kind": kind, "file": file, "sha256": "0123456789abcdef"},
        "dataset": {"name": "cifar10", "split": "test", "images_sha256": "fedcba9876543210"},
        "norm": norm,
        "eps": eps,
        "protocol": protocol,
        "params": protocols.parameters(protocol),
        "seed": 3,
        "n": n,
        "clean_accuracy": 0.8,
        "robust_accuracy": 0.8 - broken / n,
        "interval": [0.3, 0.5],
        "attacks": attacks,
        "passes": 50 * len(attacks),
        "seconds": 90.4,
        "flags": [],
        "versions": {"rnas_zoo": "1.2", "torch": "3.4"},
        **changes,
    }


def table(positions):
    return {"position": np.array(positions)}


def test_the_table_has_pgd20_from_another_run_of_the_same_file_and_threat():
    strong, quick, smaller = make(), make("quick"), make("fast", eps="4/255")
    onnx = make("quick", "onnx", "model.onnx", n=50)
    found = measured.results([strong, onnx, smaller], [quick, strong, onnx, smaller, make("quick", eps="4/255", n=20)])
    assert found["header"] == ["file", "threat", "protocol", "images", "clean", "PGD-20", "robust", "95 % interval"]
    assert [row[:-1] for row in found["rows"]] == [
        ["`model.safetensors`", "L∞ 8/255", "`standard`", "100", "80.0 %", "70.0 %", "**40.0 %**"],
        ["`model.onnx`", "L∞ 8/255", "`quick`", "50", "80.0 %", "60.0 %", "**20.0 %**"],
        ["`model.safetensors`", "L∞ 4/255", "`fast`", "100", "80.0 %", "30.0 % (of 20)", "**60.0 %**"],
    ]
    assert {row[-1] for row in found["rows"]} == {"30.0 % to 50.0 %"}
    assert found["data"] == "cifar10 test"
    assert "PGD-20" not in measured.results([strong], [strong])["header"]
    other = make(dataset={"name": "svhn", "split": "test"})
    assert [row[3] for row in measured.results([strong, other], [])["rows"]] == [
        "100 of cifar10 test",
        "100 of svhn test",
    ]


def test_threat_models_are_told_in_pixels():
    runs = [make(), make(eps="2/255"), make("quick"), make(norm="l2", eps="0.5")]
    assert measured.threats(runs) == [
        "L∞: no colour value of a pixel changes by more than ε, with ε = 2/255 (0.0078), 8/255 (0.0314) in pixels of "
        "[0, 1].",
        "L2: the Euclidean norm of the change is at most ε, with ε = 0.5 in pixels of [0, 1].",
    ]


def test_a_protocol_s_attacks_are_told_with_the_parameters_of_its_runs():
    standard, quick = measured.protocols([make("quick"), make()], [table([0, 1]), table([0, 1])])
    assert (standard["name"], quick["name"]) == ("standard", "quick")
    assert standard["attacks"] == [
        "APGD-CE: loss ce, 100 steps, 1 restart, rho 0.75",
        "APGD-T: 9 target classes, 100 steps, rho 0.75",
        "FAB-T: 9 target classes, 100 steps, alpha max 0.1, eta 1.05, beta 0.9",
        "Square: 5,000 queries, p init 0.8",
    ]
    assert quick["attacks"][1:] == ["FGSM", "PGD-20: 20 steps, relative step 0.25, random start, keep last, 1 restart"]
    assert standard["header"][4:] == [
        "APGD-CE", "then APGD-T", "then FAB-T", "then Square", "passes per image", "time",
    ]  # fmt: skip
    file = "`model.safetensors`"
    assert standard["rows"] == [
        [file, "L∞ 8/255", "100 of the first 2", "3", "70.0 %", "60.0 %", "50.0 %", "40.0 %", "2", "90 s"]
    ]
    assert quick["rows"][0][4:7] == ["70.0 %", "70.0 %", "70.0 %"]


def test_parameters_come_from_the_run_and_not_from_today_s_protocol():
    run = make(params={"apgd-ce": {"loss": "ce", "steps": 7, "restarts": 2}})
    assert measured.describe_attack("apgd-ce", [run]) == "APGD-CE: loss ce, 7 steps, 2 restarts"
    assert measured.describe_attack("apgd-ce", [run, make()]).endswith(
        "2 restarts or loss ce, 100 steps, 1 restart, rho 0.75"
    )
    assert measured.describe_attack("square", [run]) == "Square"
    assert measured.describe_attack("unheard-of", [make()]) == "unheard-of"


def test_both_ways_through_a_rounded_network_are_one_column():
    stages = protocols.stages("fast", True, True)
    attacks = {stage.name: {"broken": 5, "passes": 50} for stage in stages}
    run = make("fast", "int8", "model.int8.onnx", attacks=attacks, params=protocols.parameters("fast", True, True))
    (found,) = measured.protocols([run], [table(range(100))])
    assert found["header"][4:7] == ["APGD-CE", "then APGD-T in rungs", "then Square"]
    assert found["rows"][0][2:7] == ["first 100", "3", "70.0 %", "60.0 %", "55.0 %"]
    assert found["attacks"][0].startswith("APGD-CE, also through the network without its rounding: loss ce, 25 steps")
    assert found["attacks"][1].endswith(
        ": 9 target classes x 10 steps, then 3 target classes x 30 steps, then 1 target class x 100 steps, rho 0.75"
    )
    assert found["attacks"][2] == "Square: 500 queries, p init 0.8"


def test_an_attack_that_a_run_did_not_use_is_a_dash():
    whole, part = make("full"), make("full", attacks={"apgd-ce": {"broken": 1, "passes": 1}})
    (found,) = measured.protocols([whole, part], [table([0]), table([0])])
    assert found["rows"][1][4:-2] == ["79.0 %", *["–"] * 5]


@pytest.mark.parametrize(
    ("positions", "words"),
    [(range(1000), "first 1,000"), ([0, 2, 5], "3 of the first 6"), ([7], "1 of the first 8"), ([0], "first 1")],
)
def test_images_are_the_first_or_some_of_the_first(positions, words):
    assert sections.images(make(n=len(positions)), table(list(positions))) == words


def test_files_images_versions_and_flags_are_told_once():
    flagged = make("quick", flags=["partial: 5 of 9"])
    runs, tables = [make(), flagged, make("fast", flags=["partial: 5 of 9"])], [table(range(100))] * 3
    assert measured.files(runs) == ["`model.safetensors` (0123456789ab)"]
    assert measured.image_sets(runs, tables) == ["first 100 of cifar10 test (fedcba987654)"]
    assert measured.versions([*runs, make(versions={"torch": "9"})]) == ["rnas_zoo 1.2, torch 3.4", "torch 9"]
    assert measured.flags(runs) == ["`model.safetensors`: partial: 5 of 9"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (934.18, "15.6 min"), (72e4, "12,000.0 min")]
)
def test_durations(seconds, words):
    assert measured.duration(seconds) == words
