"""What may not be published, and that everything is named at once."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rnas_zoo.hub.validation import problems

from .publishing import real_release


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A release that may be published; tests change copies of it."""
    return real_release(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "release")


def configure(folder, **changes):
    """Change config.json: dotted keys are inside pretrained_cfg."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        target = config["pretrained_cfg"] if key.startswith("cfg_") else config
        target[key.removeprefix("cfg_")] = value
    path.write_text(json.dumps(config))


def test_a_sound_release_has_no_problems(sound):
    (sound / ".gitattributes").touch()  # the Hub's own
    assert problems(sound) == []


def test_everything_is_named_at_once(folder):
    (folder / "train.log").touch()
    (folder / "figures" / "old").mkdir()
    (folder / "figures" / "old" / "curve.png").touch()
    (folder / "optimizer.PT").touch()
    (folder / "model.onnx.data").touch()
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("mit", "apache-2.0", 1))
    arrays = dict(np.load(folder / "check.npz"))
    np.savez(folder / "check.npz", **{**arrays, "logits": arrays["logits"] + 1})
    found = problems(folder)
    for name in ("train.log", "figures/old/curve.png", "model.onnx.data"):
        assert f"{name} is no part of a release: remove it" in found
    assert any(line.startswith("optimizer.PT can hold a pickle") for line in found)
    assert any(line.startswith("the network differs by 1 from check.npz") for line in found)
    assert any("README.md: line" in line for line in found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cfg_license": None}, "sets no licence"),
        ({"cfg_license": " "}, "sets no licence"),
        ({"cfg_license": "apache-2.0"}, r"README\.md: line \d+ is not what the evidence says"),
        ({"label_names": ["a", "b"]}, "names 2 labels for 10 classes"),
        ({"label_names": None}, "has no list label_names"),
        ({"num_classes": 11}, "names 10 labels for 11 classes"),
        ({"cfg_notes": []}, "declares no digest"),
        ({"cfg_notes": ["tensors-sha256:" + "0" * 64]}, "holds other tensors"),
        ({"cfg_tag": "other"}, r"architecture and tag make 'rnas_wrn10_1\.other'"),
        ({"rnas_zoo": {"name": "rnas_wrn10_1.pgd_digits_linf16"}}, "does not say which data"),
        ({"architecture": "rnas_unheard_of"}, "rnas_unheard_of"),
        ({"cfg_input_size": [3, -32, 32]}, r"states the input size \[3, -32, 32\]"),
        ({"cfg_input_size": [3, 32, 10**9]}, "states the input size"),
        ({"cfg_input_size": None}, "states the input size None"),
        ({"cfg_std": [0.5, 0.5, 0.5]}, r"the network differs by .* from check\.npz"),
        ({"pretrained_cfg": []}, "is damaged, or not written by timm"),
    ],
)
def test_a_configuration_that_does_not_say_what_the_weights_are_is_refused(folder, changes, words):
    configure(folder, **changes)
    assert any(re.search(words, line) for line in problems(folder)), problems(folder)


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "model.safetensors", "recipe.toml", "robustness.json", "check.npz"]
)
def test_files_that_every_release_has_are_missed(folder, name):
    (folder / name).unlink()
    assert problems(folder) == [f"{name} is missing: `rnas-zoo package` writes it"]


def test_a_folder_that_is_none_lacks_everything(tmp_path):
    assert len(problems(tmp_path)) == 7


def test_other_weights_than_the_evidence_is_about_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.fc.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    found = "\n".join(problems(folder))
    assert "holds other tensors" in found
    assert "model.safetensors is not the file of robustness.json" in found


def test_a_record_raised_by_hand_is_refused(folder):
    path = folder / "robustness.json"
    value = json.loads(path.read_text())
    value["runs"][0]["robust_accuracy"] += 0.05
    path.write_text(json.dumps(value))
    assert any("torch quick: " in line for line in problems(folder))


def test_an_onnx_file_that_is_gone_but_measured_is_missed(folder):
    (folder / "model.onnx").unlink()
    found = problems(folder)
    assert "robustness.json is about model.onnx, which is missing" in found
    assert "model.onnx and export.json go together: one of them is missing" in found


def test_arrays_that_are_pickles_and_damaged_ones_are_refused(folder):
    with np.load(folder / "check.npz") as file:
        arrays = dict(file)
    np.savez(folder / "check.npz", **arrays, extra=np.array([{"code": 1}], dtype=object))
    (folder / "labels.npz").write_bytes(b"PK")
    found = problems(folder)
    assert any(line.startswith("check.npz is damaged, or holds Python objects (") for line in found)
    assert any(line.startswith("labels.npz is damaged") for line in found)


def test_links_to_folders_are_not_followed(folder, tmp_path):
    (folder / "figures").rename(tmp_path / "elsewhere")
    (folder / "figures").symlink_to(tmp_path / "elsewhere")
    assert "figures is no part of a release: remove it" in problems(folder)
