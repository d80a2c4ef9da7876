"""Transfer: the body is the trained one, the head is new, and the command line does it from start to release."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models._hub import save_for_hf

from rnas_zoo import genotype, reference, resources
from rnas_zoo.cli import run as cli
from rnas_zoo.errors import CheckpointError, UnknownNameError, UsageError, WeightsError
from rnas_zoo.training.config import build_model
from rnas_zoo.training.transfer import architecture_of, body_and_head, take_over

from .small import configured, copied, equal, run, tasked

NAME = "rnas_wrn10_1.pgd_digits_linf16"
FOLDER = resources.folder("model_cards") / NAME
CELLS = {"genotype": "vuln_h", "channels": 4, "layers": 3, "stem": "cifar_stride2"}
HEAD = ("head.fc.weight", "head.fc.bias")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The folder of a cell network for 5 classes, as timm writes it."""
    arguments = {**CELLS, "genotype": genotype.named("vuln_h").to_json(), "num_classes": 5}
    folder = tmp_path_factory.mktemp("cells")
    model = timm.create_model("rnas_cells", **arguments)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return folder


def of(path, ref, **changes):
    name, arguments = architecture_of(str(ref))
    return configured(path, architecture=name, model_args=arguments, init=str(ref), **changes)


# --- what a reference describes ---------------------------------------------------------------------------------------


def test_a_bundled_name_and_a_release_folder_have_an_architecture(cells):
    assert architecture_of(NAME) == ("rnas_wrn10_1", {})
    name, arguments = architecture_of(str(FOLDER))
    assert name == "rnas_wrn10_1"
    assert "num_classes" not in arguments, "the data decide it"
    assert architecture_of("rnas_cl_s3") == ("rnas_cl_s3", {})
    name, arguments = architecture_of(str(cells))
    assert name == "rnas_cells"
    assert (arguments["channels"], arguments["layers"], arguments["stem"]) == (4, 3, "cifar_stride2")
    assert arguments["genotype"]["name"] == "vuln_h"


@pytest.mark.parametrize("ref", ["model.onnx", "some/model.onnx", "network.py:make"])
def test_references_without_an_architecture_are_refused(ref):
    with pytest.raises(UsageError, match=f"training starts from a model name, a release folder, .*, not '{ref}'"):
        architecture_of(ref)


def test_a_training_run_goes_on_as_what_it_trained(trained_run):
    name, arguments = architecture_of(str(trained_run))
    config = json.loads((trained_run / "run.json").read_text())["config"]
    assert (name, arguments) == (config["architecture"], config["model_args"])
    model = timm.create_model(name, num_classes=3, **arguments)
    take_over(model, str(trained_run))
    own, weights = model.state_dict(), load_file(trained_run / "model.safetensors")
    assert all(torch.equal(own[key], weights[key]) for key in own if not key.startswith("head."))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"architecture": 3'])
def test_a_folder_that_is_no_release_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"is not a release folder: its config\.json cannot be read"):
        architecture_of(str(tmp_path))


def test_a_hub_model_is_the_folder_that_is_downloaded(monkeypatch, cells):
    asked = []
    monkeypatch.setattr(reference, "download", lambda ref, **_: asked.append(ref) or cells)
    assert architecture_of("hf-hub:a/b") == architecture_of(str(cells))
    assert asked == ["hf-hub:a/b"]


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", [NAME, FOLDER], ids=["name", "folder"])
def test_the_body_is_taken_over_and_the_head_is_new(small_data, ref):
    config = of(small_data, ref)
    task = tasked(config)
    found, source = copied(task.model), reference.load(str(ref)).state_dict()
    fresh = build_model(config, 3).state_dict()
    assert found["head.fc.weight"].shape == (3, source["head.fc.weight"].shape[1])
    assert source["head.fc.weight"].shape[0] == 10
    for name, value in found.items():
        assert torch.equal(value, fresh[name] if name in HEAD else source[name]), name
    assert not torch.equal(found["conv1.weight"], fresh["conv1.weight"])


def test_the_head_can_be_kept_for_the_same_classes(small_data):
    config = configured(small_data, architecture="rnas_wrn10_1", init=NAME, keep_head=True, model_args={})
    model, source = build_model(config, 10), reference.load(NAME).state_dict()
    take_over(model, NAME, head=True)
    assert equal(copied(model), source)
    with pytest.raises(WeightsError, match="do not fit"):
        tasked(config)
    with pytest.raises(UsageError, match="keep_head keeps the head"):
        tasked(configured(small_data, keep_head=True))


def test_a_network_with_arguments_is_taken_over(small_data, cells):
    found, source = copied(tasked(of(small_data, cells)).model), load_file(cells / "model.safetensors")
    assert all(torch.equal(value, source[name].to(value.dtype)) for name, value in found.items() if name not in HEAD)


@pytest.mark.parametrize("rate", [0.1, 1.0, 0.0])
def test_the_body_learns_at_a_factor_of_the_heads_rate(small_data, rate):
    config = of(small_data, NAME, objective="clean", schedule="cosine", body_rate=rate, momentum=0.0, weight_decay=0.0)
    task = tasked(config)
    before = copied(task.model)
    x, y = task.batches(0)
    twin = tasked(config).model.train()
    torch.nn.functional.cross_entropy(twin(x), y).backward()
    run(task, last=1)
    for name, weight in task.model.named_parameters():
        step = 0.05 * (1 if name in HEAD else rate) * dict(twin.named_parameters())[name].grad
        torch.testing.assert_close(weight.detach(), before[name] - step, rtol=1e-4, atol=1e-6)
    rates = {
        id(weight): group["lr"] for group in task.optimizer.param_groups for weight in group["params"]
    }  # fmt: skip
    named = dict(task.model.named_parameters())
    assert len(rates) == len(named)
    assert {rates[id(named[name])] for name in HEAD} == {0.05}
    assert {value for key, value in rates.items() if key not in {id(named[n]) for n in HEAD}} == {0.05 * rate}


def test_without_init_all_weights_learn_at_one_rate(small_data):
    task = run(tasked(configured(small_data, schedule="cosine", objective="clean")), last=1)
    assert {group["lr"] for group in task.optimizer.param_groups} == {0.05}


@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [("rnas_wrn10_2", {}), ("rnas_wrn10_1", {"first_width": 8}), ("rnas_cells", CELLS), ("rnas_cl_s3", {})],
)
def test_weights_of_another_network_are_refused(small_data, architecture, model_args):
    config = configured(small_data, architecture=architecture, model_args=model_args)
    model = build_model(config, 3)
    before = copied(model)
    with pytest.raises(WeightsError, match=f"the weights of {NAME} do not fit .* with these model_args, as in "):
        take_over(model, NAME)
    assert equal(copied(model), before)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_curve")
def test_from_a_model_to_a_release(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--data", "digits", "--eps", "16/255", "--attack-steps", "1", "--batch-size", "16", "--device", "cpu"]
    arguments = ["train", "--init", str(FOLDER), *options, "--steps", "2", "--set", "body_rate=0.5", "-o", "run"]
    assert cli([*arguments, "--json"]) == 0, capfd.readouterr().err
    info = json.loads(capfd.readouterr().out)
    assert (info["config"]["architecture"], info["config"]["body_rate"], info["steps_done"]) == ("rnas_wrn10_1", 0.5, 2)
    assert info["config"]["init"] == str(FOLDER)
    package = ["package", "run", "-o", "made", "--n", "8", "--no-limits", "--no-onnx", "--device", "cpu"]
    assert cli(package) == 0, capfd.readouterr().err
    found, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "run"))
    assert found.keys() == trained.keys()
    assert reference.load(tmp_path / "made")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_an_unknown_model_and_a_run_that_is_no_release_are_refused(small_data, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown model 'rnas_wrn10_3'.*Did you mean rnas_wrn10_"):
        tasked(of(small_data, "rnas_wrn10_3.pgd"))
    with pytest.raises(WeightsError, match="not a release folder"):
        of(small_data, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not written by this release"):
        of(small_data, tmp_path)


def test_body_and_head_are_all_parameters_once(small_data):
    model = tasked(configured(small_data)).model
    body, head = body_and_head(model)
    assert {id(p) for p in [*body, *head]} == {id(p) for p in model.parameters()}
    assert len(body) + len(head) == len(list(model.parameters()))
    assert [tuple(p.shape) for p in head] == [tuple(model.head.fc.weight.shape), (3,)]
