"""Weights: which exist, on this machine or on the Hub, and the digest by which they are known."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.models import PretrainedCfg

from rnas_zoo import resources
from rnas_zoo.errors import NoWeightsError
from rnas_zoo.models import rnas_cells, rnas_students, weights

from ..strategies import reproducible
from . import small
from .small import image, save_release

donor = small.donor  # fixture

ENTRIES = ("rnas_cells", "rnas_students")
RELEASES = {path.parent.name for path in resources.folder("model_cards").glob("*/config.json")}


# Weights that do not exist


@pytest.mark.parametrize("name", ["rnas_robnet_large_v2", "rnas_cl_l"])
def test_names_without_weights_are_refused_in_one_line_before_anything_is_built(name, monkeypatch):
    def build(*args, **kwargs):
        raise AssertionError("the network must not be built")

    monkeypatch.setattr(rnas_cells.RnasCells, "__init__", build)
    monkeypatch.setattr(rnas_students.RnasStudent, "__init__", build)
    monkeypatch.setattr(weights, "resolve_pretrained_cfg", lambda *args, **kwargs: PretrainedCfg())
    with pytest.raises(NoWeightsError) as refused:
        timm.create_model(name, pretrained=True)
    message = str(refused.value)
    assert message.startswith(f"no weights exist yet for {name}. ")
    assert message.isprintable()
    assert "rnas-zoo train" in message
    assert "pretrained=False" in message


def test_every_name_either_loads_weights_of_its_own_or_refuses():
    listed = {name for module in ENTRIES for name in timm.list_models(module=module, pretrained=True)}
    untagged = {name for module in ENTRIES for name in timm.list_models(module=module)}
    for name in sorted(untagged - {name.split(".")[0] for name in listed}):
        with pytest.raises(NoWeightsError, match=f"no weights exist yet for {name}\\."):
            timm.create_model(name, pretrained=True)


def test_only_bundled_and_published_releases_are_listed_as_pretrained():
    published = {name for name in weights.published_releases() if timm.is_model(name.split(".")[0])}
    assert set(timm.list_pretrained("rnas*")) == set(weights.bundled_releases()) | published
    assert len(weights.bundled_releases()) == len(RELEASES)


def test_release_folders_become_configurations(tmp_path, monkeypatch, donor):
    cards, recipes = tmp_path / "model_cards", tmp_path / "recipes"
    save_release(cards / "second", donor, "rslad_cifar10_linf8")
    save_release(cards / "first", donor, "clean_cifar10")
    recipes.mkdir()
    (recipes / "rnas_cl_m.rslad_cifar10_linf8.toml").write_text("")
    folder = resources.folder
    monkeypatch.setattr(resources, "folder", lambda name: folder(name) if name == "genotypes" else tmp_path / name)
    assert list(weights.bundled_releases()) == ["rnas_cl_s3.clean_cifar10", "rnas_cl_s3.rslad_cifar10_linf8"]
    found = weights.configurations({"rnas_cl_s3": weights.pixel_cfg(), "rnas_cl_m": weights.pixel_cfg()})
    assert list(found) == ["rnas_cl_s3.rslad_cifar10_linf8", "rnas_cl_s3.clean_cifar10", "rnas_cl_m"]
    cfg = found["rnas_cl_s3.rslad_cifar10_linf8"]
    assert cfg["file"] == str(cards / "second" / "model.safetensors")
    assert cfg["license"] == "cc0-1.0"
    assert "file" not in found["rnas_cl_m"]
    loaded = timm.create_model("rnas_cl_s3", pretrained=True, pretrained_cfg=cfg).eval()
    assert torch.equal(loaded(image()), donor(image()))
    with pytest.raises(NoWeightsError, match=r"Nearest with weights: rnas_cl_s3\.\w+, rnas_cl_s3") as refused:
        timm.create_model("rnas_cl_m", pretrained=True)
    assert "`rnas-zoo train recipes/rnas_cl_m.rslad_cifar10_linf8.toml`" in str(refused.value)
    with pytest.raises(NoWeightsError, match=r" With weights: rnas_cl_s3\.clean_cifar10, ") as refused:
        timm.create_model("rnas_e2rnas_cifar100", pretrained=True)
    assert "--arch rnas_e2rnas_cifar100" in str(refused.value)


def test_the_first_tag_is_the_robust_one_of_the_largest_eps():
    wanted = [
        "nfgsm_a_linf8",
        "pgd_a_linf8",
        "trades_a_linf4p5",
        "nfgsm_a_linf4",
        "nfgsm_a_linf2",
        "pgd_a_l20p5",
        "clean_a",
    ]
    names = [f"rnas_cl_s3.{tag}" for tag in wanted]
    assert sorted([*names[3:], *names[:3]], key=weights.recommendation) == names


# Weights on the Hub


ENTRY = {"repo": "owner/name", "commit": "0123456789" * 4, "digest": "ab" * 32}
ONLINE = "rnas_cl_s3.rslad_cifar10_linf8"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Writes published.json of a checkout without bundled releases; returns its path."""
    (tmp_path / "model_cards").mkdir()
    folder = resources.folder
    monkeypatch.setattr(resources, "folder", lambda name: folder(name) if name == "genotypes" else tmp_path / name)

    def write(models: object = None, schema: object = 1, text: str | None = None):
        path = tmp_path / "model_cards" / "published.json"
        path.write_text(json.dumps({"schema": schema, "models": models}) if text is None else text)
        return path

    return write


def cfgs() -> dict:
    return weights.configurations({"rnas_cl_s3": weights.pixel_cfg(), "rnas_cl_s5": weights.pixel_cfg()})


def test_published_releases_become_configurations_that_name_their_commit(registry):
    stated = {"tag": "x", "custom_load": True, "num_classes": 7, "input_size": [3, 64, 64], "license": "cc0-1.0"}
    registry({ONLINE: {**ENTRY, "pretrained_cfg": stated}, "rnas_cl_s3.clean_cifar10": ENTRY, "other.tag": ENTRY})
    found = cfgs()
    assert list(found) == [ONLINE, "rnas_cl_s3.clean_cifar10", "rnas_cl_s5"]
    cfg = PretrainedCfg(**found[ONLINE])
    assert cfg.hf_hub_id == f"owner/name@{ENTRY['commit']}"
    assert cfg.hf_hub_filename == "model.safetensors"
    assert weights.declared_digest(found[ONLINE]) == ENTRY["digest"]
    assert (cfg.num_classes, cfg.input_size, cfg.license) == (7, [3, 64, 64], "cc0-1.0")
    assert (cfg.tag, cfg.custom_load) == (None, False)
    assert PretrainedCfg(**found["rnas_cl_s3.clean_cifar10"]).num_classes == 10, "of the architecture"
    assert not PretrainedCfg(**found["rnas_cl_s5"]).has_weights
    with pytest.raises(NoWeightsError, match=r"Nearest with weights: rnas_cl_s3\.clean_cifar10, rnas_cl_s3\.rslad"):
        timm.create_model("rnas_cl_s5", pretrained=True, pretrained_cfg=found["rnas_cl_s5"])


def test_a_bundled_file_is_used_where_the_release_is_published_as_well(registry, tmp_path, donor):
    save_release(tmp_path / "model_cards" / "own", donor, "rslad_cifar10_linf8")
    registry({ONLINE: ENTRY})
    cfg = cfgs()[ONLINE]
    assert cfg["file"] == str(tmp_path / "model_cards" / "own" / "model.safetensors")
    assert "hf_hub_id" not in cfg
    assert weights.declared_digest(cfg) == weights.tensor_digest(donor.state_dict())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2, "models": {}}', '{"schema": 1, "models": 3}'])
def test_a_damaged_or_newer_list_is_ignored_with_a_warning(registry, text):
    path = registry(text=text)
    with pytest.warns(UserWarning, match="not offered by name") as warned:
        assert list(cfgs()) == ["rnas_cl_s3", "rnas_cl_s5"]
    assert all(str(path) in str(each.message) for each in warned)


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "name"},
        {"repo": "owner/name@main"},
        {"repo": None},
        {"commit": "main"},
        {"commit": 3},
        {"digest": "ab"},
        {"digest": None},
        {"pretrained_cfg": {"unknown": 1}},
        {"pretrained_cfg": [1]},
    ],
)
def test_an_entry_that_cannot_be_used_is_left_out_with_a_warning(registry, change):
    registry({ONLINE: {**ENTRY, **change}, "rnas_cl_s5.clean_cifar10": ENTRY})
    with pytest.warns(UserWarning, match=f"{ONLINE} is not offered by name"):
        assert list(cfgs()) == ["rnas_cl_s3", "rnas_cl_s5.clean_cifar10"]


def test_an_entry_names_no_weights_but_those_of_its_commit(registry):
    elsewhere = {"file": "/etc/passwd", "url": "http://x", "hf_hub_id": "a/b", "source": "local-dir", "state_dict": {}}
    registry({ONLINE: {**ENTRY, "pretrained_cfg": {**elsewhere, "hf_hub_filename": "x.bin"}}})
    cfg = PretrainedCfg(**cfgs()[ONLINE])
    assert (cfg.file, cfg.url, cfg.source, cfg.state_dict) == (None, None, None, None)
    assert (cfg.hf_hub_id, cfg.hf_hub_filename) == (f"owner/name@{ENTRY['commit']}", "model.safetensors")


# The digest


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
    found = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        dtype = draw(st.sampled_from(DTYPES))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        found[name] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    return found


def reference_digest(state: dict[str, torch.Tensor]) -> str:
    """The digest by its definition, through NumPy."""
    content = b""
    for name, tensor in sorted(state.items()):
        content += f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode()
        if tensor.dtype == torch.bfloat16:
            content += (tensor.float().numpy().view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            content += tensor.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


@reproducible(150)
@given(state=states(), data=st.data())
def test_the_digest_ignores_order_and_layout_and_sees_everything_else(state, data):
    digest = weights.tensor_digest(state)
    assert digest == reference_digest(state)
    assert weights.tensor_digest(dict(reversed(state.items()))) == digest
    name = data.draw(st.sampled_from(sorted(state)))
    tensor = state[name]
    spread = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    spread[..., 0] = tensor
    assert weights.tensor_digest({**state, name: spread[..., 0]}) == digest
    assert weights.tensor_digest({**state, name: torch.nn.Parameter(tensor, requires_grad=False)}) == digest

    others = [{key: item for key, item in state.items() if key != name}]
    others.append({**others[0], f"{name}x": tensor})
    others.append({**state, name: tensor.unsqueeze(0)})
    others.append({**state, name: tensor.to(data.draw(st.sampled_from([d for d in DTYPES if d != tensor.dtype])))})
    others.append({**state, f"{name}x": torch.zeros(0)})
    assert digest not in [weights.tensor_digest(other) for other in others]


@reproducible(100)
@given(state=states(), data=st.data())
def test_the_digest_sees_a_single_bit(state, data):
    filled = sorted(name for name, tensor in state.items() if tensor.numel() and tensor.dtype != torch.bool)
    assume(filled)
    name = data.draw(st.sampled_from(filled))
    flat = state[name].clone().reshape(-1).view(torch.uint8)
    place = data.draw(st.integers(0, flat.numel() - 1))
    flat[place] ^= 1 << data.draw(st.integers(0, 7))
    changed = {**state, name: flat.view(state[name].dtype).reshape(state[name].shape)}
    assert weights.tensor_digest(changed) != weights.tensor_digest(state)


def test_the_digest_of_a_known_state():
    state = {"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor(1.0)}
    text = b"a|torch.float32|()|\x00\x00\x80\x3fb|torch.uint8|(2,)|\x01\x02"
    assert weights.tensor_digest(state) == hashlib.sha256(text).hexdigest()
