"""Who uses downloads: references to the Hub and names in every part of the package, the command line, and timm."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnas_zoo
from rnas_zoo import reference
from rnas_zoo.cli import run
from rnas_zoo.deploy.contestants import Settings, resolve
from rnas_zoo.errors import HubError, NoWeightsError, UnknownNameError
from rnas_zoo.files import sha256_file
from rnas_zoo.hub.download import Downloaded, download, fetch

from . import downloading
from .downloading import (
    CONTENT,
    FOLDER,
    NAME,
    REF,
    WEIGHTS,
    changed,
    only_pickles,
    publish,
    refusal,
    same,
    turn_weights,
)

cache, hub = downloading.cache, downloading.hub  # fixtures


def test_a_reference_on_the_hub_is_its_folder_to_everything_else(hub, tmp_path):
    own, found = reference.subject(str(FOLDER)), reference.subject(REF)
    assert (found.name, found.kind, found.file) == (REF, "torch", WEIGHTS)
    assert (found.sha256, found.image_size, found.num_classes) == (own.sha256, own.image_size, own.num_classes)
    assert found.sha256 == sha256_file(FOLDER / WEIGHTS)
    with np.load(FOLDER / "check.npz") as check:
        pixels = check["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255
        np.testing.assert_allclose(reference.as_logits(found, pixels), check["logits"], rtol=0, atol=1e-4)
    assert filecmp.cmp(reference.local_folder(REF) / "model.onnx", FOLDER / "model.onnx", shallow=False)
    competing = resolve(REF, Settings(compile=False))
    assert competing.name == REF
    files = [WEIGHTS, *sorted(path.name for path in FOLDER.glob("model*.onnx"))]
    assert len(competing.contestants) == len(files), "its own files"
    assert {each.accuracy["n"] for each in competing.contestants} == {256}, "and evidence"
    assert rnas_zoo.download(REF) == reference.local_folder(REF)
    with pytest.raises(HubError, match="there is no owner/none"):
        rnas_zoo.load("hf-hub:owner/none")


def test_a_name_is_the_bundled_folder_or_where_its_weights_are(tmp_path):
    assert same(download(NAME, tmp_path / "out"))
    assert fetch("rnas_wrn10_1") == Downloaded(FOLDER, NAME)
    assert "unknown model 'rnas_wrn10'. Did you mean" in refusal(UnknownNameError, "rnas_wrn10")
    assert "Invalid pretrained tag" in refusal(UnknownNameError, "rnas_wrn10_1.none")
    assert "no weights exist yet for rnas_cells" in refusal(NoWeightsError, "rnas_cells")
    assert "there is no timm/resnet18.a1_in1k on 127" in refusal(HubError, "resnet18"), "what timm says of it"


def test_the_command_line(hub, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["download", "owner/tiny", "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    commit = hub.store.at("owner/tiny", "main").oid
    assert json.loads(out) == {"folder": "out", "ref": f"{REF}@{commit}", "files": CONTENT}
    asking, at = err.splitlines()
    assert asking == f"asking {hub.url.removeprefix('http://')} for owner/tiny"
    assert at == f"owner/tiny is at commit {commit}"
    assert same(tmp_path / "out")
    assert run(["download", "owner/tiny", "--offline"]) == 0
    out, err = capfd.readouterr()
    assert (Path(out.strip()).name, err) == (commit, f"owner/tiny is at commit {commit}, as far as the cache knows\n")
    assert run(["download", "owner/none"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: there is no owner/none on")
    np.save("images.npy", np.load(FOLDER / "check.npz")["images"][:2])
    assert run(["predict", REF, "images.npy", "--provider", "cpu", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["images"]) == 2
    assert run(["verify", REF, "--data", "digits", "--save"]) == 2
    assert f"`rnas-zoo download {REF} -o FOLDER` makes one" in capfd.readouterr().err


TIMM = """
import json, sys, warnings
from pathlib import Path

import numpy as np
from rnas_zoo import resources

settings, real = json.loads(sys.argv[1]), resources.folder
resources.folder = lambda name: Path(settings["cards"]) if name == "model_cards" else real(name)

import timm, torch
import rnas_zoo
from rnas_zoo.errors import HubError, RnasZooError, WeightsError

check = np.load(settings["check"])
pixels = torch.from_numpy(check["images"].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255))

def same(model):
    with torch.no_grad():
        return float((model.eval()(pixels) - torch.from_numpy(check["logits"])).abs().max()) < 1e-4

def refusal(name):
    try:
        timm.create_model(name, pretrained=True)
    except RnasZooError as error:
        return f"{type(error).__name__}: {error}"

commit = settings["commit"]
print(json.dumps({
    "listed": timm.list_pretrained("rnas*"),
    "config": [getattr(timm.get_pretrained_cfg("rnas_wrn10_1"), key) for key in ("hf_hub_id", "tag", "license")],
    "name": same(timm.create_model("rnas_wrn10_1", pretrained=True)),
    "ours": same(rnas_zoo.load("rnas_wrn10_1.pgd_digits_linf16")),
    "head": timm.create_model("rnas_wrn10_1", pretrained=True, num_classes=3).num_classes,
    "hub": same(timm.create_model(f"hf-hub:owner/tiny@{commit}", pretrained=True)),
    "main": same(timm.create_model("hf-hub:owner/tiny", pretrained=True)),
    "load": same(rnas_zoo.load(f"hf-hub:owner/tiny@{commit}")),
    "folder": str(rnas_zoo.download("rnas_wrn10_1")).endswith(commit),
    "other": refusal("hf-hub:owner/turned"),
    "pickles": refusal("hf-hub:owner/pickled"),
    "published": refusal("rnas_wrn10_1.wrong_digits_linf8"),
    "damaged": refusal("hf-hub:owner/damaged"),
    "again": same(timm.create_model("hf-hub:owner/damaged", pretrained=True)),
    "gone": refusal("rnas_wrn10_1.gone_digits_linf8"),
}))
"""


def test_timm_loads_by_reference_and_by_published_name_and_checks_the_digest(hub, tmp_path, warm_python):
    commit = hub.store.at("owner/tiny", "main").oid
    publish(hub, "owner/turned", changed(tmp_path / "turned", WEIGHTS, turn_weights))
    publish(hub, "owner/pickled", changed(tmp_path / "pickled", WEIGHTS, only_pickles))
    publish(hub, "owner/damaged", FOLDER)
    hub.fail("corrupt", "/owner/damaged/resolve/main/model.safetensors", times=1)
    config = json.loads((FOLDER / "config.json").read_text())["pretrained_cfg"]
    (note,) = config["notes"]
    entry = {"repo": "owner/tiny", "commit": commit, "digest": note.partition(":")[2], "pretrained_cfg": config}
    others = {
        "rnas_wrn10_1.wrong_digits_linf8": {**entry, "digest": "0" * 64},
        "rnas_wrn10_1.gone_digits_linf8": {**entry, "repo": "owner/gone"},
    }
    (tmp_path / "cards").mkdir()
    models = {NAME: entry, **others, "rnas_of_tomorrow.pgd_digits_linf16": entry}
    (tmp_path / "cards" / "published.json").write_text(json.dumps({"schema": 1, "models": models}))
    settings = {"cards": str(tmp_path / "cards"), "check": str(FOLDER / "check.npz"), "commit": commit}
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [warm_python, "-c", TIMM, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["listed"] == sorted([NAME, *others])
    assert found["config"] == [f"owner/tiny@{commit}", "pgd_digits_linf16", "mit"]
    for key in ("name", "ours", "hub", "main", "load", "folder", "again"):
        assert found[key] is True, key
    assert found["head"] == 3
    for key in ("other", "published", "damaged"):
        assert found[key].startswith("WeightsError: "), found[key]
        assert "rnas_wrn10_1" in found[key]
    assert found["pickles"].startswith("HubError: owner/pickled lacks a file that was asked for"), found["pickles"]
    assert found["gone"].startswith(f"HubError: there is no owner/gone on {hub.url.removeprefix('http://')}")
    fetched = {seen.path.rpartition("/")[2] for seen in hub.requests if seen.method in ("GET", "HEAD")}
    assert "pytorch_model.bin" not in fetched
