"""timm's own model contract, restated over every registered name (see timm's tests/test_models.py)."""

import math

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, load_checkpoint
from timm.models._features import FeatureInfo
from torchvision.models.feature_extraction import create_feature_extractor

import rnas_zoo  # noqa: F401  (registers the models)
from rnas_zoo import genotype as genotypes

MODULES = ("baselines", "rnas_cells", "rnas_students", "teachers")
NAMES = sorted({name for module in MODULES for name in timm.list_models(module=module)})
# What can break stands in every cell and in both kinds of transition: five narrow cells have them all. Every network is
# built and run at its published size by `test_default_cfg`.
SMALLER = {name: {"channels": 8, "layers": 5} for name in timm.list_models(module="rnas_cells")}
SMALLER["rnas_robnet_free"] = {"channels": 8}  # has one code per cell
# Together they have every class of module there is, see `test_what_is_traced_has_every_kind_of_module`.
TRACED = [
    "rnas_advrush",
    "rnas_cl_l",
    "rnas_cl_s3",
    "rnas_darts_v1",
    "rnas_e2rnas_svhn",
    "rnas_mobilenetv2",
    "rnas_ours_rnas_cl",
    "rnas_pc_darts",
    "rnas_resnet20",
    "rnas_robnet_large",
    "rnas_vuln_h",
    "rnas_wrn10_1",
]
TAGGED = sorted({name for module in MODULES for name in timm.list_models(module=module, include_tags=True)})


def small(name, **options):
    return timm.create_model(name, **SMALLER.get(name, {}), **options)


def shapes_of(name, **options):
    """A network at its published size whose weights are whatever the memory held."""
    with torch.device("meta"):
        return timm.create_model(name, **options).eval().to_empty(device="cpu")


def image(batch=1, size=32, channels=3):
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_every_genotype_is_registered():
    expected = {genotypes.model_name(name) for name in genotypes.names()} | {"rnas_cells", "rnas_students"}
    assert expected <= set(NAMES)
    cells = {n for n in genotypes.names() if genotypes.named(n).kind != "channels"}
    compact = cells - {"robnet_free", "robnet_large_v2"}  # one code per cell, and a copy of robnet_large
    assert {f"{genotypes.model_name(n)}_c16l8" for n in compact} <= set(NAMES)
    assert all(timm.is_model(name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_grad_checkpointing(name):
    model = small(name).eval()
    with torch.no_grad():
        y = model(image())
    assert y.shape == (1, 10)
    assert torch.isfinite(y).all()
    model.set_grad_checkpointing()
    z = model(image())
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_backward_reaches_every_parameter(name):
    model = small(name, num_classes=42).train()
    y = model(image(2))
    y.mean().backward()
    assert y.shape == (2, 42)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", TAGGED)
def test_default_cfg(name):
    architecture = name.split(".")[0]
    cfg = get_pretrained_cfg(name)
    model, bare = shapes_of(architecture), shapes_of(architecture, num_classes=0, global_pool="")
    keys = model.state_dict().keys()
    assert f"{cfg.classifier}.weight" in keys
    assert f"{cfg.first_conv}.weight" in keys
    assert model.num_classes >= 0
    assert model.head_hidden_size > 0
    x = torch.zeros(1, *cfg.input_size)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, *cfg.pool_size)
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model.forward_head(features).shape == (1, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert model.forward_head(features).shape == features.shape
        assert bare(x).shape == features.shape
    assert tuple(cfg.mean) == (0.0, 0.0, 0.0)
    assert tuple(cfg.std) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name):
    model = small(name, features_only=True).eval()
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    with torch.no_grad():
        maps = model(image())
    assert len(maps) == len(channels) >= 3
    for feature, chs, reduction in zip(maps, channels, reductions, strict=True):
        assert feature.shape[1] == chs
        assert feature.shape[2] <= math.ceil(32 / reduction) + 1
        assert torch.isfinite(feature).all()


@pytest.mark.parametrize("name", NAMES)
def test_forward_intermediates(name):
    model = small(name).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    with torch.no_grad():
        final, maps = model.forward_intermediates(image(), output_fmt="NCHW")
        assert [m.shape[1] for m in maps] == info.channels()
        torch.testing.assert_close(final, model.forward_features(image()), rtol=1e-4, atol=1e-5)
        only = model.forward_intermediates(image(), indices=1, intermediates_only=True)
        assert len(only) == 1
        torch.testing.assert_close(only[0], final, rtol=0, atol=0)
        early = model.forward_intermediates(image(), indices=[0], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], maps[0], rtol=0, atol=0)
    model.set_grad_checkpointing()
    again, _ = model.forward_intermediates(image())
    torch.testing.assert_close(again, final, rtol=1e-4, atol=1e-5)


def test_what_is_traced_has_every_kind_of_module():
    def kinds(names):
        with torch.device("meta"):
            return {(type(part), getattr(part, "stride", None)) for name in names for part in small(name).modules()}

    assert kinds(TRACED) == kinds(NAMES)


@pytest.mark.parametrize("name", TRACED)
def test_torchscript(name):
    model = small(name, scriptable=True).eval()
    scripted = torch.jit.script(model)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image()), model(image()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRACED)
def test_fx_forward_and_backward(name):
    model = small(name, num_classes=42).eval()
    graph = create_feature_extractor(model, ["head.fc"])
    with torch.no_grad():
        assert torch.equal(next(iter(graph(image()).values())), model(image()))
    graph.train()
    y = next(iter(graph(image(2)).values()))
    y.mean().backward()
    assert y.shape == (2, 42)
    assert [n for n, p in graph.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_cover_all_parameters(name):
    import re

    with torch.device("meta"):
        model = timm.create_model(name)
    groups = model.group_matcher(coarse=True)
    rest = [n for n in model.state_dict() if not any(re.match(pattern, n) for pattern in groups.values())]
    assert all(n.startswith("head.") for n in rest)
    assert model.get_classifier() is model.head.fc


@pytest.mark.parametrize("name", ["rnas_vuln_h_c16l8", "rnas_cl_s3"])
def test_pretrained_adapts_classes_and_channels(name, tmp_path):
    donor = timm.create_model(name)
    from safetensors.torch import save_file

    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    same = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), donor.state_dict().values(), strict=True))
    other = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=5)
    assert other(image(2, channels=1)).shape == (2, 5)
    headless = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    assert headless(image(2)).shape == (2, headless.num_features)
    features = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    assert len(features(image())) == 3
    load_checkpoint(donor, str(tmp_path / "model.safetensors"))
