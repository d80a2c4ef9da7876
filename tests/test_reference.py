"""Model references: every form resolves to a network that takes [0, 1], or to one line that names the cause."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rnas_zoo
from rnas_zoo.errors import UsageError, WeightsError
from rnas_zoo.models.weights import tensor_digest
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.reference import as_logits, load, subject

from . import references
from .references import FOREIGN, OURS, expected, pixels

checkpoints, folders = references.checkpoints, references.folders  # fixtures
networks, python_file = references.networks, references.python_file


# --- forms that resolve -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [OURS, FOREIGN])
@pytest.mark.parametrize("form", ["checkpoint", "folder"])
def test_networks_take_0_to_1_whatever_they_were_made_for(networks, checkpoints, folders, name, form):
    network = load(folders[name]) if form == "folder" else load(name, checkpoint=checkpoints[name])
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(pixels()), expected(networks, name, pixels()))


def test_weights_stored_in_half_precision_are_computed_with_in_single(networks, folders, tmp_path):
    state = {key: value.half() if value.ndim > 1 else value for key, value in networks[OURS].state_dict().items()}
    save_file(state, tmp_path / OURS / "model.safetensors")
    found = load(folders[OURS]).state_dict()
    assert found.keys() == state.keys()
    assert not any(value.dtype == torch.float16 for value in found.values())
    assert all(torch.equal(found[key], value.to(found[key].dtype)) for key, value in state.items())


def test_a_module_is_itself_in_evaluation_mode():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).train()
    assert load(module) is module
    assert not module.training


def test_an_untrained_network_is_the_same_each_time():
    before = torch.get_rng_state()
    first, again = (load("rnas_vuln_h_c16l8", untrained=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert tensor_digest(first.state_dict()) == tensor_digest(again.state_dict())


def test_a_function_of_a_python_file_makes_the_network(python_file):
    network = load(f"{python_file}:net")
    assert not network.training
    assert network(torch.rand(2, 3, 2, 2)).shape == (2, 5)
    report = rnas_zoo.verify(f"{python_file}:net", torch.rand(3, 3, 2, 2), torch.tensor([0, 4, 2]))
    assert report.run["n"] == 3


def test_two_python_files_of_one_name_are_two_files(python_file, tmp_path):
    other = tmp_path / "deep" / "mine.py"
    other.parent.mkdir()
    other.write_text(python_file.read_text().replace("width, 5", "width, 6"))
    sizes = [load(f"{path}:net")(torch.rand(1, 3, 2, 2)).shape[1] for path in (python_file, other, python_file)]
    assert sizes == [5, 6, 5]


# --- subjects ---------------------------------------------------------------------------------------------------------


def test_a_subject_names_its_file_and_checksum(checkpoints, folders):
    digest = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()  # noqa: E731, SIM115
    loose = subject(OURS, checkpoint=checkpoints[OURS])
    assert (loose.name, loose.kind, loose.file) == (OURS, "torch", f"{OURS}.st")
    assert loose.sha256 == digest(checkpoints[OURS])
    assert (loose.image_size, loose.num_classes) == ((32, 32), 7)
    folder = subject(folders[FOREIGN])
    assert (folder.name, folder.file) == (FOREIGN, "model.safetensors")
    assert folder.sha256 == digest(f"{folders[FOREIGN]}/model.safetensors")
    assert folder.image_size == (160, 160)


def test_a_module_in_memory_is_known_by_its_tensors():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    first = subject(module, image_size=(2, 2))
    assert (first.name, first.file, first.num_classes) == ("Sequential", None, 2)
    with torch.no_grad():
        module[1].weight[0, 0] += 1
    assert subject(module, image_size=(2, 2)).sha256 != first.sha256


def test_logits_of_arrays_are_those_of_the_network(networks, checkpoints):
    chosen = subject(FOREIGN, checkpoint=checkpoints[FOREIGN])
    found = as_logits(chosen, pixels().numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(networks, FOREIGN, pixels()).numpy(), rtol=1e-5, atol=1e-6)


# --- training runs, ONNX files, a folder moved ------------------------------------------------------------------------


def test_a_training_run_is_the_network_it_ended_with(trained_run):
    network = load(trained_run)
    config = json.loads((trained_run / "run.json").read_text())["config"]
    own = timm.create_model(config["architecture"], **config["model_args"]).eval()
    own.load_state_dict(load_file(trained_run / "model.safetensors"))
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), own(x))
    assert not network.training
    assert subject(trained_run).name == trained_run.name


def test_a_training_run_declares_the_size_of_its_images(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    assert info["image_size"] == [32, 32]
    (run / "run.json").write_text(json.dumps({**info, "image_size": [64, 48]}))
    assert load(run).pretrained_cfg["input_size"] == (3, 64, 48)


def test_an_onnx_file_resolves_to_twin_and_session(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(OURS, channels=4, layers=3, num_classes=7).eval()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (pixels(),), str(path), dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        )  # fmt: skip
    chosen = subject(path)
    assert (chosen.name, chosen.kind, chosen.file, chosen.num_classes) == ("model.onnx", "onnx", "model.onnx", 7)
    assert chosen.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert chosen.image_size == (32, 32)
    x = pixels(5)
    with torch.no_grad():
        for logits in (chosen.judge(x), chosen.network(x), load(path)(x)):
            torch.testing.assert_close(logits, network(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(as_logits(chosen, x.numpy()), chosen.judge(x).numpy())
    assert not any(p.requires_grad for p in chosen.network.parameters())
    slope = torch.autograd.grad(chosen.network(x.requires_grad_()).square().sum(), x)[0]
    expected_slope = torch.autograd.grad(network(x).square().sum(), x)[0]
    torch.testing.assert_close(slope, expected_slope, rtol=1e-3, atol=1e-4)


def test_a_folder_moved_elsewhere_still_loads(networks, folders, tmp_path):
    shutil.move(folders[OURS], tmp_path / "else where")
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "else where")(pixels()), expected(networks, OURS, pixels()))


# --- models of others -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> tuple[nn.Module, str]:
    """timm's resnet18 with random weights, and the file that holds them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet18", num_classes=5).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(network.state_dict(), path)
    return network, str(path)


def test_a_timm_model_is_normalised_as_it_declares_or_as_it_is_told(resnet):
    network, path = resnet
    mean, std = (torch.tensor(network.pretrained_cfg[key])[None, :, None, None] for key in ("mean", "std"))
    assert mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    x, weights = pixels(), {"checkpoint": path}
    own = subject("resnet18", **weights)
    told = subject("resnet18", **weights, preprocessing=Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    plain = subject("resnet18", **weights, preprocessing=Preprocessing((0, 0, 0), (1, 1, 1)))
    white = subject("resnet18", **weights, preprocessing=Preprocessing((128.0,) * 3, (64.0,) * 3, range=255))
    small = subject("resnet18", **weights, preprocessing=Preprocessing(input_size=(48, 48)))
    new_mean, new_std = (torch.tensor(v)[None, :, None, None] for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    larger = nn.functional.interpolate(x, (48, 48), mode="bilinear")
    with torch.no_grad():
        for chosen, wanted in (
            (own, network((x - mean) / std)),
            (told, network((x - new_mean) / new_std)),
            (plain, network(x)),
            (white, network((255 * x - 128) / 64)),
            (small, network((larger - mean) / std)),
        ):
            torch.testing.assert_close(chosen.judge(x), wanted, rtol=1e-4, atol=1e-5)
            assert chosen.network is chosen.judge
            assert (chosen.grid, chosen.score_only, chosen.sha256) == (False, None, own.sha256)
    assert own.preprocessing == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": None,
        "layout": "nchw",
        "range": 1,
    }
    assert told.preprocessing["mean"] == [0.5, 0.4, 0.3]
    assert plain.preprocessing is None
    assert small.preprocessing == {**own.preprocessing, "input_size": [48, 48]}
    assert (own.image_size, small.image_size) == ((224, 224), None)
    with pytest.raises(UsageError, match=r"declares mean 0\.485.* with range 255 give both mean and std"):
        subject("resnet18", **weights, preprocessing=Preprocessing(range=255))


def test_modules_and_functions_get_what_is_given_and_nothing_else(resnet, python_file):
    network, _ = resnet
    assert subject(network, image_size=(32, 32)).preprocessing is None
    how = Preprocessing((0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        chosen = subject(network, image_size=(32, 32), preprocessing=how)
        torch.testing.assert_close(chosen.judge(pixels()), network(2 * pixels() - 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load(network, preprocessing=how)(pixels()), chosen.judge(pixels()))
        x = torch.rand(2, 3, 2, 2)
        found = load(f"{python_file}:net", preprocessing=how)(x)
        torch.testing.assert_close(found, load(f"{python_file}:net")(2 * x - 1))
    assert chosen.preprocessing == how.to_json()
    channels_last = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    last = subject(channels_last, image_size=(2, 2), preprocessing=Preprocessing(layout="nhwc"))
    torch.testing.assert_close(last.judge(x), channels_last(x.permute(0, 2, 3, 1)))


def test_our_own_models_need_no_preprocessing(checkpoints):
    assert subject(OURS, checkpoint=checkpoints[OURS]).preprocessing is None


def test_weights_that_cannot_be_downloaded_are_named_with_a_way_out(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*arguments, **options):
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr("rnas_zoo.reference.timm.create_model", offline)
    with pytest.raises(WeightsError, match=r"resnet18: its weights cannot be had \(no connection\).*--checkpoint"):
        load("resnet18")
