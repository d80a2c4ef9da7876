"""The size an architecture is built at: the largest within limits, or the one nearest to given MACs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm

from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import named
from rnas_zoo.models.size import count_macs, count_parameters
from rnas_zoo.searching import fit

SIZE = (16, 16)


def built(found, stem="cifar", **changes):
    """Parameters and MACs of the network that timm really builds."""
    model = timm.create_model(fit.network(found, stem)[0], num_classes=7, **{**fit.model_args(found, stem), **changes})
    return count_parameters(model), count_macs(model, (3, *SIZE))


@pytest.mark.parametrize("name", ["vuln_h", "arnas", "cl_s3"])
def test_the_size_is_that_of_the_network_that_is_built(name):
    found = named(name)
    small = found if name == "cl_s3" else fit.sized(found, 4, 3)
    assert fit.size(small, 7, SIZE, "cifar_stride2") == built(small, "cifar_stride2")


@pytest.mark.parametrize(("limit", "unit"), [(200_000, 0), (2_000_000, 1)])
def test_no_larger_network_stays_within_the_limit(limit, unit):
    found = fit.fitted(named("vuln_l"), 7, SIZE, **{("max_params", "max_macs")[unit]: limit}, layers=8)
    channels = found.default["channels"]
    assert found.default["layers"] == 8
    assert built(found)[unit] <= limit < built(found, channels=channels + 1)[unit]
    assert found.structure == named("vuln_l").structure


def test_both_limits_hold_and_the_tighter_one_decides():
    wide = fit.fitted(named("vuln_l"), 7, SIZE, max_params=200_000, layers=8)
    both = fit.fitted(named("vuln_l"), 7, SIZE, max_params=200_000, max_macs=2_000_000, layers=8)
    assert both.default["channels"] < wide.default["channels"]
    assert both == fit.fitted(named("vuln_l"), 7, SIZE, max_macs=2_000_000, layers=8)


def test_depth_is_given_up_before_width_falls_below_sixteen(monkeypatch):
    monkeypatch.setattr(fit, "DEPTHS", (6, 5, 3))
    sizes = {depth: built(fit.sized(named("vuln_h"), 16, depth))[0] for depth in fit.DEPTHS}
    for limit, layers in ((sizes[6] + 1, 6), (sizes[6] - 1, 5), (sizes[5] - 1, 3)):
        found = fit.fitted(named("vuln_h"), 7, SIZE, max_params=limit).default
        assert (found["layers"], found["channels"] >= 16) == (layers, True)
    narrow = fit.fitted(named("vuln_h"), 7, SIZE, max_params=sizes[3] // 2).default
    assert (narrow["layers"], narrow["channels"] < 16) == (3, True)


def test_a_student_is_narrowed_until_it_fits_and_one_that_fits_is_left():
    found = named("cl_s3")
    params = built(found)[0]
    small = fit.fitted(found, 7, SIZE, max_params=params // 2)
    assert params // 4 < built(small)[0] <= params // 2
    widths = [[max(s.widths) for s in g.structure.stages] for g in (found, small)]
    assert all(new <= old for old, new in zip(*widths, strict=True))
    assert fit.fitted(found, 7, SIZE, max_params=params) == found


@pytest.mark.parametrize("name", ["vuln_h", "cl_s3"])
def test_impossible_limits_are_refused(name):
    with pytest.raises(UsageError, match=r"1,000 parameters and 5 MACs; raise the limit"):
        fit.fitted(named(name), 7, SIZE, max_params=1000, max_macs=5)
    with pytest.raises(UsageError, match="as small as 50 MACs"):
        fit.matched(named(name), 50, 7, SIZE)


def test_without_limits_nothing_changes():
    assert fit.fitted(named("vuln_h"), 7, SIZE) is not None
    assert fit.fitted(named("vuln_h"), 7, SIZE) == named("vuln_h")


@pytest.mark.parametrize("name", ["vuln_h", "arnas", "darts_v2", "cl_s3", "cl_s7"])
@pytest.mark.parametrize("macs", [800_000, 5_000_000])
def test_matched_networks_have_the_macs_asked_for(name, macs):
    found = fit.matched(named(name), macs, 7, SIZE, layers=5, stem="cifar")
    assert built(found)[1] == pytest.approx(macs, rel=0.05)


def test_matching_keeps_the_depth_asked_for_if_some_width_fits():
    target = built(fit.sized(named("vuln_h"), 21, 6))[1]
    assert fit.matched(named("vuln_h"), target, 7, SIZE, layers=6).default == {"channels": 21, "layers": 6}


def test_scaling_a_student_keeps_equal_widths_equal():
    found = fit.matched(named("cl_s5"), 1_000_000, 7, SIZE)
    for old, new in zip(named("cl_s5").structure.stages, found.structure.stages, strict=True):
        pairs = dict(zip(old.widths, new.widths, strict=True))
        assert new.widths == tuple(pairs[width] for width in old.widths)
        assert new.stride == old.stride


def test_cells_of_their_own_allow_one_depth():
    free = named("robnet_free")
    free = replace(free, structure=replace(free.structure, codes=free.structure.codes[:4]))
    assert not free.structure.share
    found = fit.fitted(free, 7, SIZE, max_params=100_000)
    assert found.default["layers"] == 4
    assert built(found)[0] <= 100_000 < built(found, channels=found.default["channels"] + 1)[0]


def test_configurations_state_the_architecture_without_its_provenance():
    found = fit.sized(named("vuln_h"), 4, 3)
    arguments = fit.model_args(found, "cifar_stride2")
    assert arguments["genotype"]["provenance"] == {}
    assert {key: arguments[key] for key in ("channels", "layers", "stem")} == {
        "channels": 4,
        "layers": 3,
        "stem": "cifar_stride2",
    }
