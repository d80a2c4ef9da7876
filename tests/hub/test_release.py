"""Release folders: complete, measured on what ships, and loadable by timm."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import rnas_zoo
from rnas_zoo import data, genotype
from rnas_zoo.attacks import Threat
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.engine.record import RunFolder
from rnas_zoo.errors import CheckpointError, OutputExistsError, UsageError, WeightsError
from rnas_zoo.hub import release as releases
from rnas_zoo.hub.release import package, tag_of
from rnas_zoo.training.config import TrainConfig, read_recipe
from rnas_zoo.training.run import train
from rnas_zoo.verification import evidence
from rnas_zoo.verification.run import verify

FILES = {
    "README.md",
    "check.npz",
    "config.json",
    "export.json",
    "figures",
    "genotype.json",
    "labels.npz",
    "limits.json",
    "model.onnx",
    "model.safetensors",
    "recipe.toml",
    "robustness.json",
    "training.json",
    "verdicts.npz",
}


def test_the_folder_is_complete_and_nothing_else(release):
    assert {path.name for path in release.iterdir()} == FILES
    assert {p.name for p in (release / "figures").iterdir()} == {
        "adversarial.png",
        "architecture.svg",
        "classes.png",
        "curve.json",
        "curve.png",
    }


def test_timm_loads_it_and_gives_the_golden_logits(release):
    model = timm.create_model(f"local-dir:{release}", pretrained=True).eval()
    with np.load(release / "check.npz") as check:
        pixels = check["images"].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(logits, check["logits"], atol=1e-5)
        assert np.array_equal(check["images"], data.load("digits").test.images[: len(pixels)])
        assert np.abs(check["adversarial"].astype(int) - check["images"].astype(int)).max() <= 16
        np.testing.assert_allclose(Session(release / "model.onnx").logits(pixels), logits, atol=1e-4)


def test_weights_are_the_run_s_rounded_to_half_precision_where_they_have_two_dimensions(release, trained_run):
    shipped, trained = load_file(release / "model.safetensors"), load_file(trained_run / "model.safetensors")
    assert shipped.keys() == trained.keys()
    for name, tensor in trained.items():
        wanted = tensor.half() if tensor.ndim >= 2 else tensor
        assert shipped[name].dtype == wanted.dtype
        assert torch.equal(shipped[name], wanted)


def test_changed_weights_are_refused(release, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = shutil.copytree(release, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["head.fc.bias"][0] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="not the published ones"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    content = (release / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        rnas_zoo.load(folder)


def test_evidence_belongs_to_the_files_and_adds_up(release):
    import hashlib

    runs, verdicts = evidence.read(release)
    assert [run["subject"]["kind"] for run in runs] == ["torch", "onnx"]
    for run, table in zip(runs, verdicts, strict=True):
        content = (release / run["subject"]["file"]).read_bytes()
        assert run["subject"]["sha256"] == hashlib.sha256(content).hexdigest()
        survived = table["clean_correct"] & (table["broken_by"] == "")
        assert run["robust_accuracy"] == survived.mean()
        assert run["clean_accuracy"] == table["clean_correct"].mean()
        assert (table["norm"] <= 16 / 255 + 1e-6).all()
        assert (table["margin"][survived] > 0).all()
        assert (table["margin"][table["broken_by"] != ""] <= 0).all()
        images = data.load("digits").test.images
        hashes = [hashlib.sha256(images[i].tobytes()).hexdigest() for i in table["position"]]
        assert list(table["pixels_sha256"]) == hashes


def test_clean_verdicts_equal_a_plain_forward(release):
    runs, verdicts = evidence.read(release)
    test = data.load("digits").test
    model = rnas_zoo.load(release)
    with torch.no_grad():
        predicted = model(data.to_pixels(test.images[: runs[0]["n"]])).argmax(1).numpy()
    assert np.array_equal(verdicts[0]["clean_correct"], predicted == test.labels[: runs[0]["n"]])


def test_genotype_and_recipe_say_what_was_built(release, trained_run):
    assert genotype.load(release / "genotype.json") == genotype.named("ours_rnas_vuln_cifar10")
    assert read_recipe(release / "recipe.toml") == read_recipe(trained_run / "recipe.toml")
    config = json.loads((release / "config.json").read_text())
    assert config["label_names"] == [str(i) for i in range(10)]
    assert config["model_args"]["genotype"]["name"] == "ours_rnas_vuln_cifar10"
    assert config["pretrained_cfg"]["pool_size"] == [4, 4]
    assert config["pretrained_cfg"]["tag"] == "pgd_digits_linf16"


def test_an_unfinished_run_is_refused(tmp_path):
    RunFolder(tmp_path / "run", "train", {"architecture": "rnas_cl_s3", "data": "digits"}, resume=False)
    with pytest.raises(CheckpointError, match="no finished training run"):
        package(tmp_path / "run", tmp_path / "out")
    with pytest.raises(CheckpointError, match="not a run folder"):
        package(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_as_it_is(trained_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        package(trained_run, tmp_path / "out", n=8)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.usefixtures("short_curve", "short_protocols")
def test_a_failure_half_way_leaves_only_what_the_next_call_goes_on_from(trained_run, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("the disk is full, say")

    threat = read_recipe(trained_run / "recipe.toml").threat
    options = {"n": 8, "protocol": "fast", "onnx_protocol": "quick", "with_limits": False, "device": "cpu"}
    options |= {"sizes": ("4/255", threat.eps_text), "sizes_protocol": "quick"}
    with monkeypatch.context() as patch:
        patch.setattr(releases, "export", fail)
        with pytest.raises(RuntimeError, match="disk is full"):
            package(trained_run, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["out.work"]
    made = package(trained_run, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [(run["subject"]["file"], run["protocol"], run["eps"]) for run in made["runs"]] == [
        ("model.safetensors", "quick", threat.eps_text),
        ("model.safetensors", "fast", threat.eps_text),
        ("model.safetensors", "quick", "4/255"),
        ("model.onnx", "quick", threat.eps_text),
    ]
    for run in made["runs"]:
        file = tmp_path / "out" / (run["subject"]["file"] if run["subject"]["kind"] == "onnx" else "")
        own = Threat(threat.norm, run["eps"])
        whole = verify(file, data_name="digits", threat=own, protocol=run["protocol"], n=8, device="cpu").run
        assert run["attacks"] == whole["attacks"]
        assert run["robust_accuracy"] == whole["robust_accuracy"]


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({}, "pgd_cifar10_linf8"),
        ({"eps": "0.5", "norm": "l2"}, "pgd_cifar10_l20p5"),
        ({"eps": "4.5/255"}, "pgd_cifar10_linf4p5"),
        ({"objective": "clean"}, "clean_cifar10"),
        ({"data": "folder/flowers.npz"}, "pgd_flowers_linf8"),
        ({"data": "folder/wild.flowers", "image_size": (64, 64)}, "pgd_wild-flowers-64_linf8"),
    ],
)
def test_tags_name_recipe_data_and_threat(changes, tag):
    base = {"architecture": "rnas_cl_s3", "data": "cifar10", **changes}
    assert tag_of(TrainConfig(**base)) == tag


@pytest.mark.usefixtures("short_curve")
@pytest.mark.parametrize(
    ("architecture", "arguments", "name"),
    [
        ("rnas_cells", {"channels": 2, "layers": 3, "stem": "cifar_stride2"}, "vuln_h"),
        ("rnas_advrush_c16l8", {"channels": 2, "layers": 3, "stem": "cifar_stride2"}, "advrush"),
    ],
)
def test_the_genotype_is_the_network_s_own_however_it_was_named(tmp_path, architecture, arguments, name):
    config = TrainConfig(architecture, "digits", objective="clean", total_steps=2, batch_size=16, model_args=arguments)
    train(config, tmp_path / "run", device="cpu")
    package(tmp_path / "run", tmp_path / "out", n=8, with_onnx=False, with_limits=False, device="cpu")
    assert not (tmp_path / "out" / "limits.json").exists()
    assert genotype.load(tmp_path / "out" / "genotype.json") == genotype.named(name)
    assert rnas_zoo.load(tmp_path / "out").genotype == genotype.named(name)


def test_a_network_without_genotype_is_refused_and_leaves_nothing(tmp_path):
    config = TrainConfig("test_resnet", "digits", objective="clean", total_steps=1, batch_size=16)
    train(config, tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match="test_resnet is no searched architecture"):
        package(tmp_path / "run", tmp_path / "out", n=8, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def pets(tmp_path):
    """A folder of images of several sizes in two classes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, n in (("train", 16), ("test", 8)):
        for label in ("cat", "dog"):
            folder = tmp_path / "my pets" / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 128, (20 + i % 3, 24, 3)) + (100 if label == "dog" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "my pets"


@pytest.mark.usefixtures("short_curve")
def test_a_folder_brought_to_another_size_keeps_it_from_training_to_re_verification(pets, tmp_path, monkeypatch):
    import onnx
    from click.testing import CliRunner

    from rnas_zoo.cli import group
    from rnas_zoo.hub import card

    arguments = {"channels": 4, "layers": 3, "stem": "cifar_stride2"}
    config = TrainConfig(
        "rnas_cells", str(pets), objective="clean", total_steps=4, batch_size=16, image_size=(16, 16),
        model_args={"genotype": "vuln_h", **arguments},
    )  # fmt: skip
    train(config, tmp_path / "run", device="cpu")
    out = tmp_path / "out"
    package(tmp_path / "run", out, n=8, device="cpu")
    runs, tables = evidence.read(out)
    test = data.load(pets, 16).test
    for run, table in zip(runs, tables, strict=True):
        dataset = {key: run["dataset"][key] for key in ("name", "kind", "image_size")}
        assert dataset == {"name": "my pets@16", "kind": "folder", "image_size": [16, 16]}
        assert table["pixels_sha256"].tolist() == [data.pixel_hash(image) for image in test.images[:8]]
    assert json.loads((out / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 16]
    texts = {entry.key: entry.value for entry in onnx.load(out / "model.onnx").metadata_props}
    assert (json.loads(texts["input_size"]), texts["dataset"]) == ([3, 16, 16], "my pets@16")
    commands = [f"verify FOLDER --data 'my pets' --image-size 16 --protocol quick --norm {runs[0]['norm']} --eps"]
    commands += ["verify FOLDER --against-card --data 'my pets'"]
    text = (out / "README.md").read_text()
    for command in commands:
        assert f"rnas-zoo {command}" in text
    card.check(out)
    monkeypatch.chdir(tmp_path)
    options = ["verify", str(out / "model.onnx"), "--against-card", "--data", "my pets", "--device", "cpu", "--json"]
    done = CliRunner().invoke(group, options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["claim"]["verdict"] == "reproduced"
