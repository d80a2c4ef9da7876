"""Every bundled release, whichever there are: it loads offline, is what its evidence measured, and its card is true."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

import rnas_zoo  # noqa: F401  (registers the architectures)
from rnas_zoo import resources
from rnas_zoo.files import sha256_file
from rnas_zoo.hub import card
from rnas_zoo.models.weights import bundled_releases, declared_digest
from rnas_zoo.training.config import read_recipe
from rnas_zoo.verification import evidence

FOLDERS = sorted(path.parent for path in resources.folder("model_cards").glob("*/config.json"))
by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])


def test_the_folders_are_the_releases_and_are_named_after_them():
    assert FOLDERS
    assert sorted(bundled_releases().values()) == FOLDERS
    for name, folder in bundled_releases().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert folder.name == name == config["rnas_zoo"]["name"]


@by_folder
def test_timm_gives_the_golden_logits_by_name(folder):
    model = timm.create_model(folder.name, pretrained=True).eval()
    assert declared_digest(timm.get_pretrained_cfg(folder.name).to_dict())
    with np.load(folder / "check.npz", allow_pickle=False) as check:
        pixels = torch.from_numpy(check["images"].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255))
        with torch.no_grad():
            np.testing.assert_allclose(model(pixels).numpy(), check["logits"], rtol=0, atol=1e-4)


@by_folder
def test_evidence_was_measured_on_these_files(folder):
    runs, verdicts = evidence.read(folder)
    assert runs[0]["subject"]["file"] == "model.safetensors"
    for run, table in zip(runs, verdicts, strict=True):
        assert run["subject"]["sha256"] == sha256_file(folder / run["subject"]["file"])
        evidence.check(run, table)


@by_folder
def test_the_card_is_what_the_folder_renders_to(folder):
    card.check(folder)


@by_folder
def test_the_recipe_can_be_run(folder):
    recipe = read_recipe(folder / "recipe.toml")
    assert recipe.architecture == folder.name.split(".")[0]
    assert recipe.total_steps > 0


def test_loading_needs_no_network(tmp_path, warm_python):
    program = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("asked the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import rnas_zoo, timm
for name in sys.argv[1:]:
    timm.create_model(name, pretrained=True)
print("loaded")
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [warm_python, "-c", program, *bundled_releases()],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.stdout.strip() == "loaded", done.stderr
