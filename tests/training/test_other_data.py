"""Other data sets end to end: a genotype found on one trains on another, in their official layouts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from rnas_zoo import data, genotype
from rnas_zoo.attacks import Threat
from rnas_zoo.hub.release import package
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.run import search
from rnas_zoo.training.config import TrainConfig, model_for
from rnas_zoo.training.run import train
from rnas_zoo.verification.run import verify

from ..data.layouts import WNIDS, Cifar, write_tiny_imagenet

SHARED = Path(os.environ.get("RNAS_ZOO_SHARED", Path(__file__).parents[3] / "shared")) / "data"
WAITS = "waits for image packs in ../shared/data (or $RNAS_ZOO_SHARED/data), which do not come with the repository"


@pytest.mark.usefixtures("short_curve")
def test_a_genotype_found_on_cifar100_trains_on_tiny_imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("RNAS_ZOO_DATA", str(tmp_path))
    Cifar("cifar100", tmp_path, monkeypatch, images=40)
    write_tiny_imagenet(tmp_path)
    searching = SearchConfig(
        data="cifar100", attack="fgsm_rs", channels=2, layers=3, stem="cifar_stride2", total_steps=2, batch_size=8
    )
    search(searching, tmp_path / "found.json", device="cpu")
    name, arguments = model_for(str(tmp_path / "found.json"))
    training = TrainConfig(
        architecture=name,
        model_args={**arguments, "channels": 4, "layers": 3, "stem": "cifar_stride2"},
        data="tiny-imagenet",
        eps="4/255",
        attack_steps=1,
        total_steps=2,
        batch_size=8,
    )
    info = train(training, tmp_path / "run", device="cpu")
    assert info["steps_done"] == 2
    assert len(info["classes"]) == len(WNIDS)
    made = package(tmp_path / "run", tmp_path / "release", n=11, with_onnx=False, with_limits=False, device="cpu")
    folder = tmp_path / "release"
    config = json.loads((folder / "config.json").read_text())
    assert config["num_classes"] == len(WNIDS)
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert genotype.load(folder / "genotype.json").structure == genotype.load(tmp_path / "found.json").structure
    (run,) = made["runs"]
    assert (run["dataset"]["name"], run["eps"], run["n"]) == ("tiny-imagenet", "4/255", 11)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    test = data.load("tiny-imagenet").test
    with torch.no_grad():
        logits = model(torch.from_numpy(test.images.transpose(0, 3, 1, 2)).float() / 255)
    assert run["clean_accuracy"] == pytest.approx(np.mean(logits.argmax(1).numpy() == test.labels))
    again = verify(folder, data_name="tiny-imagenet", threat=Threat("linf", "4/255"), protocol="quick", device="cpu")
    assert again.run["attacks"] == run["attacks"]


@pytest.mark.usefixtures("short_curve")
@pytest.mark.skipif(not (SHARED / "load_packs.py").is_file(), reason=WAITS)
@pytest.mark.parametrize(
    ("packs", "name", "classes", "size"),
    [
        (("cifar100_train_sub", "cifar100_test_sub"), "cifar100-own-split", 100, 32),
        (("tiny_imagenet_train_sub", "tiny_imagenet_val_sub"), "tiny-imagenet-own-split", 200, 64),
    ],
)
def test_subsets_keep_their_name_in_the_evidence(packs, name, classes, size, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SHARED))
    from load_packs import load

    arrays = {}
    for part, pack, count in (("train", packs[0], 256), ("test", packs[1], 20)):
        images, labels = load(pack)
        arrays |= {f"x_{part}": images[:count], f"y_{part}": labels[:count]}
    names = np.array([f"class {i}" for i in range(classes)])
    np.savez(tmp_path / f"{name}.npz", **arrays, classes=names)
    file = str(tmp_path / f"{name}.npz")
    config = TrainConfig(
        architecture="rnas_cl_s3", data=file, objective="nfgsm", eps="4/255", total_steps=2, batch_size=16
    )
    train(config, tmp_path / "run", device="cpu")
    made = package(tmp_path / "run", tmp_path / "release", n=4, with_onnx=False, with_limits=False, device="cpu")
    assert made["name"] == f"rnas_cl_s3.nfgsm_{name}_linf4"
    assert made["runs"][0]["dataset"]["name"] == name
    assert f"{name} test" in (tmp_path / "release" / "README.md").read_text(encoding="utf-8")
    model = timm.create_model(f"local-dir:{tmp_path / 'release'}", pretrained=True)
    assert model.pretrained_cfg["input_size"] == (3, size, size)
    assert model.num_classes == classes
