"""Cards say what the evidence says."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from rnas_zoo import genotype, resources
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import CheckFailedError, DataError
from rnas_zoo.hub import card, usage
from rnas_zoo.verification import evidence

DIGITS = resources.folder("model_cards") / "rnas_wrn10_1.pgd_digits_linf16"


def test_the_card_is_what_the_evidence_renders_to(release):
    card.check(release)
    text = (release / "README.md").read_text()
    runs, _ = evidence.read(release)
    for run in runs:
        assert f"{100 * run['robust_accuracy']:.1f} %" in text
        assert f"{100 * run['interval'][0]:.1f} %" in text
    assert "weaker than AutoAttack" in text


def test_front_matter_round_trips_through_the_hub_client(release):
    parsed = ModelCard.load(release / "README.md")
    runs, _ = evidence.read(release)
    values = {result.metric_name: result.metric_value for result in parsed.data.eval_results}
    assert values == {
        "Accuracy": round(runs[0]["clean_accuracy"], 4),
        "Accuracy, model.onnx": round(runs[1]["clean_accuracy"], 4),
        "Robust accuracy (quick, L∞ 16/255)": round(runs[0]["robust_accuracy"], 4),
        "Robust accuracy (quick, L∞ 16/255), model.onnx": round(runs[1]["robust_accuracy"], 4),
    }
    assert {result.metric_args.get("eps") for result in parsed.data.eval_results} == {None, "16/255"}
    assert parsed.data.license == "mit"
    assert ModelCard(str(parsed)).data.to_dict() == parsed.data.to_dict()


def test_the_stated_command_is_one_that_gives_these_numbers(release):
    from click.testing import CliRunner

    from rnas_zoo.cli import group

    runs, _ = evidence.read(release)
    command = usage.verify_command(runs[0], str(release))
    assert command.replace(str(release), "FOLDER") in (release / "README.md").read_text()
    done = CliRunner().invoke(group, [*command.split()[1:], "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)
    for key in ("clean_accuracy", "robust_accuracy", "attacks", "interval", "dataset", "subject"):
        assert measured[key] == runs[0][key]


def test_two_sentences_say_what_it_is_and_what_was_measured():
    lines = (DIGITS / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1].strip().splitlines()
    assert lines[0] == "# rnas_wrn10_1.pgd_digits_linf16"
    assert lines[2] == (
        "A robust image classifier for digits (32x32 RGB in [0, 1], 10 classes): `rnas_wrn10_1` with 77,850 parameters "
        "and 12.50 million multiply-accumulates per image, from adversarial training with PGD-5 at L∞ 16/255. Of 256 "
        "test images it classifies 98.8 % correctly (95 % interval 96.6 % to 99.8 %), and **85.5 %** (80.6 % to 89.6 "
        "%) under every attack of protocol `fast` with L∞ 16/255."
    )


def test_a_card_says_the_same_wherever_its_folder_lies(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "models--owner--name" / "snapshot")
    card.check(folder)


def test_flags_are_raised_in_sight_of_the_table(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "copy")
    assert "Flags that the sanity checks raised: none." in card.render(folder)
    value = json.loads((folder / "robustness.json").read_text())
    value["runs"][0]["flags"] = ["constant: one class"]
    (folder / "robustness.json").write_text(json.dumps(value))
    first, _, _ = card.render(folder).partition("## Use")
    assert "says what one means):\n\n* `model.safetensors`: constant: one class\n" in first
    assert "raised: none" not in first


def test_a_release_without_a_licence_has_no_card(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    del config["pretrained_cfg"]["license"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json names no licence"):
        card.render(folder)


def test_the_order_is_a_reader_s():
    text = (DIGITS / "README.md").read_text(encoding="utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Use", "What was measured", "Accuracy against ε", "How it was made", "Limits", "Licence and citation",
    ]  # fmt: skip
    assert "title = {Wide Residual Networks}" in text.partition("## Licence and citation")[2]


def test_runs_under_the_threat_trained_against_come_first_then_one_of_every_file():
    named = [("onnx", "model.onnx", "8/255"), ("torch", "w", "4/255"), ("torch", "w", "8/255"), ("onnx", "o", "4/255")]
    runs = [{"subject": {"kind": kind, "file": file}, "norm": "linf", "eps": eps} for kind, file, eps in named]
    found = card._in_order(runs, Threat("linf", "8/255"))
    assert [(run["subject"]["file"], run["eps"]) for run in found] == [
        ("w", "8/255"), ("model.onnx", "8/255"), ("o", "4/255"), ("w", "4/255"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cl_s3", "`cl_s3` (inferred), Nath, Wang, Yang: RNAS-CL"),
        ("cl_s7", "Source: unath21/RNAS-CL@c1c047e fbnet_modeldef_cls_dmasking.py. From a disabled table of the"),
        (
            "ours_arnas_cifar10",
            "found by our search with method `arnas` on cifar10 (1050 architecture steps, 4656.2 s on",
        ),
        ("ours_rnas_noise_cifar10", "with method `rnas_noise`, a reconstruction of the paper's, on cifar10 ("),
        ("ours_rnas_noise_cifar10", "smaller supernet than the paper's"),
    ],
)
def test_an_architecture_s_origin_is_told(name, words):
    found = genotype.named(name)
    assert words in card.describe_architecture(found)
    assert found.hash[:12] in card.describe_architecture(found)


@pytest.mark.parametrize("tampered", ["card", "numbers"])
def test_a_card_edited_by_hand_or_false_numbers_fail_the_check(release, tmp_path, tampered):
    folder = shutil.copytree(release, tmp_path / "copy")
    if tampered == "card":
        text = (folder / "README.md").read_text()
        (folder / "README.md").write_text(text.replace("A robust image classifier", "The most robust image classifier"))
        expected = "is not what the evidence says"
    else:
        value = json.loads((folder / "robustness.json").read_text())
        value["runs"][0]["robust_accuracy"] = 0.99
        (folder / "robustness.json").write_text(json.dumps(value))
        expected = "does not add up"
    with pytest.raises(CheckFailedError, match=expected):
        card.check(folder)


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        ("pgd", "adversarial training with PGD-3 at L∞ 8/255"),
        ("nfgsm", "adversarial training with N-FGSM at L∞ 8/255"),
        ("fgsm_rs", "adversarial training with FGSM-RS at L∞ 8/255"),
        ("clean", "standard training"),
    ],
)
def test_training_is_called_what_it_was(objective, text):
    assert card.describe_training({"objective": objective, "attack_steps": 3}, "L∞ 8/255") == text


def test_a_change_of_attack_and_averaging_are_told():
    recipe = {"objective": "nfgsm", "attack_steps": 3, "multi_step_from": 0.85, "average": 0.998}
    assert card.describe_training(recipe, "L∞ 8/255") == (
        "adversarial training with N-FGSM (3 steps in the last 15 % of training) and averaged weights at L∞ 8/255"
    )
    assert "15 %" not in card.describe_training({**recipe, "objective": "pgd"}, "L∞ 8/255")
