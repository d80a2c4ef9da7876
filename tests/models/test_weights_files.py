"""Weight files: the declared tensors load and others are refused; any architecture survives saving and loading."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rnas_zoo import genotype as genotypes
from rnas_zoo.errors import WeightsError
from rnas_zoo.models import weights

from . import small
from .small import image, save_release

donor = small.donor  # fixture


# Weight files


def overlay(path, digest: str | None = None) -> dict:
    notes = ("trained on a Sunday", f"tensors-sha256:{digest}") if digest else ()
    return {"file": str(path), "notes": notes}


def load(path, digest: str | None = None, **kwargs) -> torch.nn.Module:
    settings = overlay(path, digest)
    return timm.create_model("rnas_cl_s3", pretrained=True, pretrained_cfg_overlay=settings, **kwargs).eval()


def test_declared_digests_are_found_among_the_notes():
    assert weights.declared_digest(overlay("x", "abc")) == "abc"
    for notes in ((), None, ["no digest here"]):
        assert weights.declared_digest({"notes": notes}) is None
    assert weights.declared_digest({}) is None


def test_the_declared_tensors_load(tmp_path, donor):
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", weights.tensor_digest(donor.state_dict()))
    assert torch.equal(loaded(image()), donor(image()))


@pytest.mark.parametrize("classes", [10, 3, 0])
def test_altered_tensors_are_refused(tmp_path, donor, classes):
    state = dict(donor.state_dict())
    digest = weights.tensor_digest(state)
    state["stages.1.0.expand.0.bias"] = state["stages.1.0.expand.0.bias"].clone()
    state["stages.1.0.expand.0.bias"][3] += 1e-6
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as refused:
        load(tmp_path / "model.safetensors", digest, num_classes=classes)
    message = str(refused.value)
    assert "rnas_cl_s3" in message
    assert digest[:12] in message
    assert weights.tensor_digest(state)[:12] in message
    assert message.isprintable()
    assert torch.isfinite(load(tmp_path / "model.safetensors", num_classes=classes)(image())).all()


@pytest.mark.parametrize("change", ["missing", "additional", "renamed"])
def test_missing_and_additional_tensors_are_refused(tmp_path, donor, change):
    state = dict(donor.state_dict())
    digest = weights.tensor_digest(state)
    if change != "additional":
        tensor = state.pop("head.fc.bias")
    if change != "missing":
        state["head.bias"] = tensor.clone() if change == "renamed" else torch.zeros(10)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError):
        load(tmp_path / "model.safetensors", digest)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_files_that_are_cut_off_are_refused(tmp_path, donor, keep):
    save_file(donor.state_dict(), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    for digest in (None, weights.tensor_digest(donor.state_dict())):
        with pytest.raises(WeightsError, match="weight file of rnas_cl_s3 is damaged or cut off"):
            load(path, digest)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"weight file of rnas_cl_s3 cannot be found .* Download it again"):
        load(tmp_path / "absent.safetensors")


def test_tensors_stored_in_half_precision_load_as_single(tmp_path, donor):
    state = {n: t.half() if t.ndim >= 2 else t for n, t in donor.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", weights.tensor_digest(state))
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)
        assert torch.equal(tensor, state[name].to(tensor.dtype))
    gray = load(tmp_path / "model.safetensors", weights.tensor_digest(state), in_chans=1)
    expected = state["stem.0.weight"].float().sum(dim=1, keepdim=True)
    torch.testing.assert_close(gray.stem[0].weight.detach(), expected)
    with pytest.raises(WeightsError):
        load(tmp_path / "model.safetensors", weights.tensor_digest(donor.state_dict()))


# Saving and loading any architecture


def tweaked(name: str) -> dict:
    """A genotype nobody has registered, as the JSON object of its file."""
    value = genotypes.named(name).to_json()
    value["name"], value["default"], value["check"] = "mine", {}, {}
    if "cells" in value:
        value["cells"]["reduce"]["edges"][0] = ["dil_conv_3x3", 1]
    elif "codes" in value:
        value["codes"] = [value["codes"][0].replace("11", "01", 2)]
    else:
        value["stages"] = [{"widths": [6, 8], "stride": 1}, {"widths": [10], "stride": 2}]
    return value


@pytest.mark.parametrize(
    ("entry", "name", "arguments"),
    [
        ("rnas_cells", "darts_v2", {"channels": 6, "layers": 5, "stem": "cifar_stride2"}),
        ("rnas_cells", "arnas", {"channels": 4, "layers": 6, "stem": "cifar", "num_classes": 7}),
        ("rnas_cells", "robnet_large", {"channels": 4, "layers": 3, "stem": "imagenet"}),
        ("rnas_students", "cl_s3", {"num_classes": 4}),
    ],
)
def test_any_architecture_survives_saving_and_loading(tmp_path, entry, name, arguments):
    value = tweaked(name)
    torch.manual_seed(3)
    model = timm.create_model(entry, genotype=value, **arguments).eval()
    recorded = (
        {} if hasattr(model, "_model_args") else {"model_args": {"genotype": value, **arguments}}
    )  # timm < 1.0.31
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, **recorded)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["architecture"] == entry
    assert genotypes.from_json(written["model_args"]["genotype"]) == genotypes.from_json(value)
    assert written["model_args"]["genotype"] == value

    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(loaded) is type(model)
    assert loaded.num_classes == arguments.get("num_classes", 10)
    with torch.no_grad():
        assert torch.equal(loaded(image()), model(image()))
    assert list(loaded.state_dict()) == list(model.state_dict())

    fresh = timm.create_model(f"local-dir:{tmp_path}").eval()
    with torch.no_grad():
        assert not torch.equal(fresh(image()), model(image()))


def test_weights_trained_with_drop_path_load_into_the_plain_network(tmp_path):
    torch.manual_seed(4)
    trained = timm.create_model("rnas_vuln_h_c16l8", drop_path_rate=0.3)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    settings = {"file": str(tmp_path / "model.safetensors")}
    plain = timm.create_model("rnas_vuln_h_c16l8", pretrained=True, pretrained_cfg_overlay=settings).eval()
    with torch.no_grad():
        assert torch.equal(plain(image()), trained.eval()(image()))


def test_a_release_folder_with_altered_tensors_is_refused(tmp_path, donor):
    save_release(tmp_path, donor, "clean_cifar10")
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(image()), donor(image()))
    state = load_file(tmp_path / "model.safetensors")
    state["stem.1.running_mean"] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="rnas_cl_s3"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-7])
    with pytest.raises(WeightsError, match="damaged or cut off"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_published_network_that_was_trained_further_can_be_saved_by_timm_and_loaded_again(tmp_path):
    model = timm.create_model(next(iter(weights.bundled_releases())), pretrained=True).eval()
    with torch.no_grad():
        model.get_classifier().bias.add_(1)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
