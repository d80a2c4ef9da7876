"""Cards say what the evidence says."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from rnas_zoo.errors import CheckFailedError
from rnas_zoo.hub import card
from rnas_zoo.verification import evidence


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
    values = [result.metric_value for result in parsed.data.eval_results]
    assert values == [round(runs[0]["clean_accuracy"], 4), round(runs[0]["robust_accuracy"], 4)]
    assert parsed.data.eval_results[1].metric_args["eps"] == "16/255"
    assert parsed.data.license == "mit"
    assert ModelCard(str(parsed)).data.to_dict() == parsed.data.to_dict()


def test_the_stated_command_is_one_that_gives_these_numbers(release):
    from click.testing import CliRunner

    from rnas_zoo.cli import group

    runs, _ = evidence.read(release)
    command = card.verify_command(runs[0], str(release))
    assert command.replace(str(release), "FOLDER") in (release / "README.md").read_text()
    done = CliRunner().invoke(group, [*command.split()[1:], "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)
    for key in ("clean_accuracy", "robust_accuracy", "attacks", "interval", "dataset", "subject"):
        assert measured[key] == runs[0][key]


def test_the_command_names_a_file_for_data_sets_that_are_files():
    run = {"subject": {"kind": "onnx", "file": "model.onnx"}, "dataset": {"name": "flowers"}, "protocol": "quick"}
    run |= {"norm": "linf", "eps": "8/255", "n": 32, "seed": 1}
    assert card.verify_command(run, "F") == (
        "rnas-zoo verify F/model.onnx --data flowers.npz --protocol quick --norm linf --eps 8/255 --n 32 --seed 1"
    )


@pytest.mark.parametrize(
    ("dataset", "options", "claim"),
    [
        ({"name": "digits"}, "digits", ""),
        ({"name": "digits@16", "image_size": [16, 16]}, "digits --image-size 16", ""),
        ({"name": "tiny-imagenet@32x48", "image_size": [32, 48]}, "tiny-imagenet --image-size 32x48", ""),
        ({"name": "a b@9", "kind": "npz", "image_size": [9, 9]}, "'a b.npz' --image-size 9", " --data 'a b.npz'"),
        ({"name": "pets.v2", "kind": "folder"}, "pets.v2", " --data pets.v2"),
        ({"name": "svhn", "kind": "folder"}, "./svhn", " --data ./svhn"),
        ({"name": "svhn", "kind": "npz"}, "svhn.npz", " --data svhn.npz"),
    ],
)
def test_the_commands_name_what_was_verified_on_and_its_size(dataset, options, claim):
    run = {"subject": {"kind": "torch", "file": "model.safetensors"}, "dataset": dataset, "protocol": "quick"}
    run |= {"norm": "linf", "eps": "8/255", "n": 32, "seed": 1}
    assert card.verify_command(run).startswith(f"rnas-zoo verify FOLDER --data {options} --protocol quick ")
    assert card.claim_command(run) == f"rnas-zoo verify FOLDER --against-card{claim}"


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
