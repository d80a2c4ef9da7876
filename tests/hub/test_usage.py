"""What cards tell their reader to copy runs as it stands."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rnas_zoo import resources
from rnas_zoo.cli import group
from rnas_zoo.cli.verify_command import command as verify_command
from rnas_zoo.hub import usage
from rnas_zoo.verification import evidence

FOLDERS = sorted(path.parent for path in resources.folder("model_cards").glob("*/config.json"))
DIGITS = resources.folder("model_cards") / "rnas_wrn10_1.pgd_digits_linf16"


def blocks(folder, language):
    """The code blocks of a language in a folder's card."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (folder / "README.md").read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture(scope="module")
def check():
    with np.load(DIGITS / "check.npz") as file:
        return dict(file)


def test_the_network_is_created_with_timm(check):
    create, _ = blocks(DIGITS, "python")
    for where in (f"hf-hub:OWNER/{DIGITS.name}", "local-dir:FOLDER"):  # the owner is nobody: both by the folder
        assert where in create
    namespace = {}
    exec(create.replace(f"hf-hub:OWNER/{DIGITS.name}", f"local-dir:{DIGITS}"), namespace)
    assert namespace["images"].shape == (2, 3, 32, 32)
    assert set(namespace["labels"]) <= set("0123456789")
    pixels = torch.from_numpy(check["images"].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    with torch.no_grad():
        np.testing.assert_allclose(namespace["model"](pixels).numpy(), check["logits"], rtol=0, atol=1e-4)


def test_the_onnx_file_predicts_without_torch(check):
    _, predict = blocks(DIGITS, "python")
    program = (
        f"import sys\nsys.modules.update(torch=None, timm=None, rnas_zoo=None)\n{predict}\nprint(json.dumps(labels))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=DIGITS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(label) for label in check["logits"].argmax(1)]


def test_the_claim_is_checked_and_the_measurement_repeated():
    (block,) = blocks(DIGITS, "bash")
    published, local, repeat = (shlex.split(line.replace("FOLDER", str(DIGITS))) for line in block.splitlines())
    assert published[2] == f"hf-hub:OWNER/{DIGITS.name}"
    assert [*published[:2], *published[3:]] == [*local[:2], *local[3:]]
    few = ["--n", "6", "--device", "cpu", "--json"]
    done = CliRunner().invoke(group, [*local[1:], *few])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["claim"]["verdict"] == "not refuted"
    done = CliRunner().invoke(group, [*repeat[1:], *few])
    assert done.exit_code == 0, done.output
    runs, tables = evidence.read(DIGITS)
    found = evidence.strongest(runs)[0]
    table, again = tables[runs.index(found)], json.loads(done.stdout)
    assert again["robust_accuracy"] == evidence.standing(table)[:6].mean()
    assert all(again[key] == found[key] for key in ("subject", "norm", "eps", "protocol", "params", "seed"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_every_card_has_short_blocks_that_name_the_model(folder):
    create, *predict = blocks(folder, "python")
    (verify,) = blocks(folder, "bash")
    assert len(predict) == (folder / "model.onnx").is_file()
    assert max(text.count("\n") for text in (create, *predict, verify)) <= 8
    size = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"][1:]
    assert f"torch.rand(2, 3, {size[0]}, {size[1]})" in create
    for text in (create, *predict):
        compile(text, folder.name, "exec")
    runs, _ = evidence.read(folder)
    run = next(run for run in evidence.strongest(runs) if run["eps"] == runs[0]["eps"])
    *claims, repeat = (shlex.split(line)[2:] for line in verify.splitlines())
    assert all(verify_command.make_context("verify", line).params["against_card"] for line in claims)
    asked = verify_command.make_context("verify", repeat).params
    assert (asked["data_name"], asked["norm"], asked["eps"]) == (run["dataset"]["name"], run["norm"], run["eps"])
    assert (asked["n"], asked["seed"]) == (run["n"], run["seed"])


def test_the_command_names_a_file_for_data_sets_that_are_files():
    run = {"subject": {"kind": "onnx", "file": "model.onnx"}, "dataset": {"name": "flowers"}, "protocol": "quick"}
    run |= {"norm": "linf", "eps": "8/255", "n": 32, "seed": 1}
    assert usage.verify_command(run, "F") == (
        "rnas-zoo verify F/model.onnx --data flowers.npz --protocol quick --norm linf --eps 8/255 --n 32 --seed 1"
    )
    assert "hf-hub:" not in usage.verify_block("name", run)


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
    assert usage.verify_command(run).startswith(f"rnas-zoo verify FOLDER --data {options} --protocol quick ")
    assert usage.claim_command(run) == f"rnas-zoo verify FOLDER --against-card{claim}"
    assert usage.verify_block("m", run).splitlines()[0] == f"rnas-zoo verify hf-hub:OWNER/m --against-card{claim}"
