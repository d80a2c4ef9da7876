"""The whole line over real HTTP with the real clients: train, package, publish, and on another machine's cache: create,
export, predict without torch, verify against the card; then what somebody tampered with is caught."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnas_zoo import resources
from rnas_zoo.reference import load
from rnas_zoo.testing.hub import LocalHub

ROOT = resources.folder("genotypes").parent
REPO = "tester/rnas_cells.pgd_digits_linf16"

# What a stranger does with a published model; the same process throughout, because importing torch takes seconds.
STRANGER = """
import json, sys
import numpy, timm, torch
import rnas_zoo
from rnas_zoo import cli

ref, pack, answers = sys.argv[1:]
model = timm.create_model(ref, pretrained=True).eval()
images = numpy.load(pack)["images"]
pixels = torch.from_numpy(images.transpose(0, 3, 1, 2) / numpy.float32(255))
with torch.no_grad():
    numpy.savez(answers, timm=model(pixels).numpy(), ours=rnas_zoo.load(ref)(pixels).numpy())
codes = [
    cli.run(["export", ref, "-o", "model.onnx"]),
    cli.run(["download", ref, "-o", "folder"]),
    cli.run(["verify", ref, "--against-card"]),
]
print(json.dumps(codes))
"""
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["timm"] = None
from rnas_zoo import cli
sys.exit(cli.run(["predict", "model.onnx", "digit.png", "--top-k", "1", "--json"]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def machine(hub, tmp_path_factory, warm_python):
    """Runs Python with an empty cache of its own, as on another machine; returns exit code, output and errors."""
    place = tmp_path_factory.mktemp("machine")
    environment = {**os.environ, **hub.environment(place / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def call(program: str, *arguments: object) -> tuple[int, str, str]:
        command = [warm_python, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    call.place = place
    return call


CLI = "import sys; from rnas_zoo import cli; sys.exit(cli.run(sys.argv[1:]))"


@pytest.fixture(scope="module")
def commit(release, machine) -> str:
    """The tiny release, trained and packaged, is published; the commit."""
    code, out, err = machine(CLI, "publish", release, "--to", REPO, "--tag", "v1", "--json")
    assert code == 0, err
    done = json.loads(out)
    assert len(done["commit"]) == 40
    return done["commit"]


@pytest.fixture(scope="module")
def stranger(commit, release, machine) -> Path:
    code, out, err = machine(STRANGER, f"hf-hub:{REPO}@v1", release / "check.npz", machine.place / "answers.npz")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == [0, 0, 0], out + err
    assert "Reproduced" in out
    return machine.place


def test_the_model_of_another_cache_has_the_logits_of_the_trained_one(stranger, release):
    import torch

    pixels = np.load(release / "check.npz")["images"].transpose(0, 3, 1, 2) / np.float32(255)
    with torch.no_grad():
        wanted = load(release)(torch.from_numpy(pixels)).numpy()
    found = np.load(stranger / "answers.npz")
    np.testing.assert_array_equal(found["timm"], wanted)
    np.testing.assert_array_equal(found["ours"], wanted)


def test_the_downloaded_folder_is_the_packaged_one(stranger, release):
    def content(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content(stranger / "folder") == content(release)


def test_the_file_exported_from_the_hub_predicts_without_torch(stranger, release, machine):
    pack = np.load(release / "check.npz")
    Image.fromarray(pack["images"][0]).save(stranger / "digit.png")
    code, out, err = machine(WITHOUT_TORCH)
    assert code == 0, err
    (answer,) = json.loads(out)["images"]
    labels = json.loads((release / "config.json").read_text())["label_names"]
    assert answer["top"][0]["label"] == labels[int(pack["logits"][0].argmax())]


def test_a_card_that_was_raised_on_the_hub_is_refuted_and_the_tag_still_holds(stranger, release, machine, hub):
    from huggingface_hub import HfApi

    text = (release / "README.md").read_text(encoding="utf-8")
    runs = json.loads((release / "robustness.json").read_text(encoding="utf-8"))["runs"]
    true = f"{100 * runs[0]['robust_accuracy']:.1f} %"
    assert true in text
    raised = text.replace(true, f"{100 * runs[0]['robust_accuracy'] + 5:.1f} %")
    HfApi(endpoint=hub.url, token=hub.token).upload_file(
        path_or_fileobj=raised.encode(), path_in_repo="README.md", repo_id=REPO
    )
    code, out, err = machine(CLI, "verify", f"hf-hub:{REPO}", "--against-card", "--protocol", "quick", "--n", "4")
    assert code == 1, err
    assert "refuted" in out.lower()
    assert "README.md" in out
