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
from rnas_zoo.errors import (
    CheckpointError,
    NoWeightsError,
    OnnxFileError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from rnas_zoo.models.weights import tensor_digest
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.reference import as_logits, load, subject

FOREIGN = "test_resnet"
OURS = "rnas_cells"


def pixels(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """An untrained network of ours and one of timm's that declares mean and standard deviation 0.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: timm.create_model(name, num_classes=7).eval() for name in (OURS, FOREIGN)}


@pytest.fixture
def checkpoints(networks, tmp_path) -> dict[str, str]:
    """Their weights in files."""
    for name, network in networks.items():
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / f"{name}.st")
    return {name: str(tmp_path / f"{name}.st") for name in networks}


@pytest.fixture
def folders(networks, tmp_path) -> dict[str, str]:
    """Folders as timm writes them for the Hub."""
    for name, network in networks.items():
        timm.models.save_for_hf(network, tmp_path / name, safe_serialization=True)
    return {name: str(tmp_path / name) for name in networks}


def expected(networks: dict[str, nn.Module], name: str, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return networks[name](2 * x - 1 if name == FOREIGN else x)


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


@pytest.fixture
def python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass\n"
        "class Config:\n"
        "    width: int = 12\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(Config().width, 5))\n"
        "def text():\n"
        "    return 'net'\n"
    )
    return path


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


# --- forms that do not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("rnas_vuln_hh", "Did you mean rnas_vuln_h"),
        ("resnet19", "resnet18"),
        ("rnas_vuln_h.no_such_tag", "rnas_vuln_h"),
        ("resnet18.no_such_tag", "no_such_tag"),
        ("none.py:net", "no such Python file"),
    ],
)
def test_unknown_names_are_refused(ref, text):
    with pytest.raises(UnknownNameError) as error:
        load(ref)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_python_file_without_the_function_or_a_network_is_refused(python_file):
    with pytest.raises(UnknownNameError, match="defines no function 'nett'"):
        load(f"{python_file}:nett")
    with pytest.raises(UnknownNameError, match="returned str"):
        load(f"{python_file}:text")


def test_an_architecture_without_weights_says_so():
    with pytest.raises(NoWeightsError, match="no weights exist yet"):
        load("rnas_robnet_large_v2")
    with pytest.raises(NoWeightsError, match="has no pretrained weights; give --checkpoint"):
        load(next(name for name in timm.list_models("test_*") if not timm.is_model_pretrained(name)))


def test_a_folder_that_is_no_release_is_refused(tmp_path, folders):
    with pytest.raises(WeightsError, match=r"is not a release folder: it has no config\.json; nor is it .* run\.json"):
        load(tmp_path)
    config = tmp_path / OURS / "config.json"
    whole = config.read_text()
    for damaged in ("", "{", "[]", "{}", json.dumps({"architecture": OURS})):
        config.write_text(damaged)
        with pytest.raises(WeightsError, match=r"config\.json: damaged, or not written by timm"):
            load(tmp_path / OURS)
    config.write_text(whole)
    (tmp_path / OURS / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load(tmp_path / OURS)


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


def test_a_training_run_that_is_not_finished_or_damaged_is_refused(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    for changes, error, text in (
        ({"status": "stopped"}, CheckpointError, "no finished training run .*train, stopped.*--resume"),
        ({"kind": "search"}, CheckpointError, "no finished training run .*search, finished"),
        ({"config": {}}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"image_size": 7}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"classes": 7}, WeightsError, r"run\.json: no network can be built as it says"),
        ({"classes": ["a", "b"]}, WeightsError, "does not hold weights of rnas_cells"),
    ):
        (run / "run.json").write_text(json.dumps({**info, **changes}))
        with pytest.raises(error, match=text):
            load(run)


@pytest.mark.parametrize("kept", [0, 4, 0.3, 0.99])
@pytest.mark.parametrize("name", [OURS, FOREIGN])
def test_cut_off_weights_are_refused(checkpoints, folders, tmp_path, name, kept):
    for path, ref in ((tmp_path / f"{name}.st", name), (tmp_path / name / "model.safetensors", folders[name])):
        content = path.read_bytes()
        path.write_bytes(content[: kept if kept > 1 else int(len(content) * kept)])
        with pytest.raises(WeightsError, match="damaged"):
            load(ref, checkpoint=path if ref == name else None)


def test_other_formats_and_missing_files_are_refused(tmp_path, networks):
    torch.save(networks[OURS].state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load(OURS, checkpoint=tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="no such weight file"):
        load(OURS, checkpoint=tmp_path / "none.safetensors")


def test_weights_of_another_shape_are_refused_with_both_shapes(checkpoints):
    with pytest.raises(WeightsError) as error:
        load("rnas_vuln_h", checkpoint=checkpoints[OURS])
    # The first tensor that differs: 3x16 channels there, 3x36 in the paper's network.
    assert "(48, 3, 3, 3) there and (108, 3, 3, 3) in rnas_vuln_h" in str(error.value)


def test_weights_of_another_network_are_refused_with_counts(checkpoints, tmp_path):
    with pytest.raises(WeightsError, match="tensors are missing"):
        load(OURS, checkpoint=checkpoints[FOREIGN])
    state = load_file(checkpoints[OURS])
    del state["stem.0.weight"]
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "other.st")
    with pytest.raises(WeightsError, match="1 tensors are missing, 1 unknown"):
        load(OURS, checkpoint=tmp_path / "other.st")


@pytest.mark.parametrize("name", ["none.onnx", "bad.onnx"])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, name):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for resolve in (load, subject):
        with pytest.raises(OnnxFileError, match=name):
            resolve(str(tmp_path / name))


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


def test_an_onnx_model_of_vectors_is_refused(tmp_path):
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "vectors",
        [value("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "vectors.onnx")
    with pytest.raises(OnnxFileError, match=r"expected images \(N, 3, H, W\)"):
        subject(str(tmp_path / "vectors.onnx"))


def test_a_network_without_logits_is_refused():
    with pytest.raises(UsageError, match=r"must return logits \(N, classes\)"):
        subject(nn.Conv2d(3, 2, 1))


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
