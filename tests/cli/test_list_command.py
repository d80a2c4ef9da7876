"""`rnas-zoo list` with filters."""

import json

import pytest

from rnas_zoo.cli import run
from rnas_zoo.hub import results

from ..releases import CLEAN, RELEASES, A, B, C


@pytest.fixture
def listed(capfd, monkeypatch):
    """Runs `rnas-zoo list` on made-up releases; returns exit code, standard output and standard error."""
    monkeypatch.setattr(results, "collect", lambda: RELEASES)

    def invoke(*arguments):
        code = run(["list", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_the_table_says_by_what_a_model_was_chosen(listed):
    code, out, err = listed(
        "--max-params", "350k", "--min-robust", 30, "--dataset", "cifar10", "--threat", "linf:8/255", "--sort", "robust"
    )
    assert (code, err) == (0, "")
    head, _, *rows, note = out.splitlines()
    assert head.split()[:5] == ["model", "data", "parameters", "MACs", "clean"]
    assert [row.split() for row in rows] == [
        f"{B} cifar10 300,000 9.0 M 80.0 % L∞ 8/255 standard 40.0 % 35.0 % to 45.0 % 100".split(),
        f"{A} cifar10 100,000 5.0 M 70.0 % L∞ 8/255 fast 35.0 % 30.0 % to 40.0 % 50".split(),
    ]
    assert "upper bound" in note


def test_json_names_the_models_and_what_is_known_of_them(listed):
    code, out, _ = listed("--sort", "clean", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["models"] == [C, CLEAN, B, A]
    assert [each["robust"]["protocol"] for each in found["details"]] == ["quick", "standard", "standard", "fast"]
    assert found["nearest"] is None


def test_a_question_without_an_answer_names_the_nearest_model(listed):
    assert (
        listed("--min-robust", 50, "--dataset", "cifar10")[1] == f"none. Nearest: {B} (40.0 % robust under L∞ 8/255).\n"
    )
    found = json.loads(listed("--max-params", 40_000, "--protocol", "quick", "--json")[1])
    assert found == {"models": [], "details": [], "nearest": f"Nearest: {C} (50,000 parameters)."}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--min-robust", "0.4"], "for 40 % write 40"),
        (["--dataset", "cifar"], "Known: cifar10, cifar100, digits"),
        (["--sort", "size"], "Known: name, params, macs, clean, robust"),
        (["--threat", "8/255"], "write linf:8/255"),
        (["--genotypes", "--min-robust", "4"], "--genotypes has no sizes or results"),
    ],
)
def test_wrong_questions_are_one_line_of_error(listed, arguments, words):
    code, out, err = listed(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err


def test_sizes_are_read_as_people_write_them(listed):
    assert listed("--max-params", "many")[0] == 2
    for size in ("60k", "6e4", "60_000", "0.06M"):
        assert json.loads(listed("--pretrained", "--max-params", size, "--json")[1])["models"] == [C]


def test_architectures_are_listed_with_their_size(listed):
    code, out, _ = listed("rnas_cl_s?", "--sort", "params")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert rows == [["rnas_cl_s3", "112,790"], ["rnas_cl_s5", "215,138"], ["rnas_cl_s7", "323,162"]]
    assert listed("rnas_cl_s3", "--sort", "macs")[1].splitlines()[2].split() == ["rnas_cl_s3", "112,790", "4.7", "M"]


def test_results_can_be_chosen_and_sorted(listed):
    names = [each["model"] for each in json.loads(listed("--results", "--min-robust", 38, "--json")[1])["results"]]
    assert names == [B, C]
    code, out, _ = listed("--results", "--sort", "robust")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[2:6]] == [C, B, A, CLEAN]
    code, out, _ = listed("--results", "--markdown", "--dataset", "digits")
    assert (code, out.count("\n| `")) == (0, 1)
    assert listed("--results", "--protocol", "full")[1].startswith("none. Nearest: ")
