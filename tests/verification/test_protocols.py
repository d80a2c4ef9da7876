"""Protocols are the published ones, and what they can cost is counted."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
import torch
from torch import nn

from rnas_zoo.attacks import APGD, APGDT, FABT, PGD, AttackResult, Keys, MarginPGD, Square, Threat
from rnas_zoo.errors import UnknownNameError
from rnas_zoo.verification.evidence import EVERY_IMAGE
from rnas_zoo.verification.protocols import CHOICES, PROTOCOLS, UNROUNDED, Stage, parameters, stages

PASSES_OF_AUTOATTACK = 9_766  # forward and backward, of the authors' code, on an image nothing breaks
EVERY_STAGE = [
    pytest.param(stage, id=f"{protocol}-{stage.name}") for protocol, found in PROTOCOLS.items() for stage in found
]


def names(protocol: str) -> list[str]:
    return [stage.name for stage in stages(protocol)]


def test_standard_is_autoattack_with_its_published_parameters():
    assert names("standard") == ["apgd-ce", "apgd-t", "fab-t", "square"]
    found = parameters("standard")
    assert found["apgd-ce"] == {"loss": "ce", "steps": 100, "restarts": 1, "rho": 0.75}
    assert found["apgd-t"] == {"targets": 9, "steps": 100, "rho": 0.75}
    assert found["fab-t"] == {"targets": 9, "steps": 100, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
    assert found["square"] == {"queries": 5000, "p_init": 0.8}


def test_full_is_standard_with_longer_square_and_two_more_attacks():
    standard, full = parameters("standard"), parameters("full")
    assert names("full") == ["apgd-ce", "apgd-t", "fab-t", "pgd100", "margin-pgd-t", "square"]
    assert {name: full[name] for name in standard} == {**standard, "square": {"queries": 20_000, "p_init": 0.8}}
    assert (full["pgd100"]["steps"], full["pgd100"]["restarts"], full["pgd100"]["random_start"]) == (100, 5, True)
    assert (full["margin-pgd-t"]["steps"], full["margin-pgd-t"]["targets"]) == (100, 9)


def test_quick_is_pgd20_with_the_papers_step():
    config = parameters("quick")["pgd20"]
    assert (config["steps"], config["relative_step"], config["keep"]) == (20, 0.25, "last")


def passes(config: object) -> int:
    """Forward and backward passes on an image that nothing breaks, by each attack's description, ten classes."""
    match config:
        case APGD():
            return config.restarts * 2 * (config.steps + 1)
        case APGDT():
            return 1 + config.targets * 2 * (config.steps + 1)
        case FABT():
            return 1 + config.targets * 3 * config.steps
        case Square():
            return 1 + config.queries
        case MarginPGD():
            return max(config.targets, 1) * config.restarts * (2 * config.steps + 1) + bool(config.targets)
        case PGD():
            return config.restarts * (2 * config.steps + 1)
        case _:
            return 1 + sum(2 * count * (steps + 1) for count, steps in config.rungs)  # type: ignore[attr-defined]


def cost(protocol: str) -> int:
    return sum(passes(stage.config) for stage in stages(protocol))


def test_fast_costs_at_most_an_eighth_of_autoattack():
    assert cost("fast") == 2 * 26 + 1 + 2 * (9 * 11 + 3 * 31 + 101)
    assert cost("fast") <= PASSES_OF_AUTOATTACK / 8
    assert 0.99 * PASSES_OF_AUTOATTACK < cost("standard") <= PASSES_OF_AUTOATTACK


@pytest.mark.parametrize("name", ["apgd-ce", "halving-t"])
def test_what_fast_costs_is_what_it_asks(name):
    (stage,) = (stage for stage in stages("fast") if stage.name == name)
    result = stage.attack(model(10), images(2), torch.tensor([3, 3]), Threat("linf", 1e-6), stage.config, keys(2))
    assert result.forwards + result.backwards == 2 * passes(stage.config)


def model(classes: int) -> nn.Module:
    """Class 3 (or the last) always wins by far."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    with torch.no_grad():
        net[1].bias[min(3, classes - 1)] += 50.0
    return net.eval()


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def keys(n: int) -> Keys:
    return Keys(0, torch.arange(n))


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_every_attack_takes_its_configuration(stage: Stage):
    hints = typing.get_type_hints(stage.attack)
    assert list(hints) == ["model", "x", "y", "threat", "config", "keys", "return"]
    assert hints["return"] is AttackResult
    if stage.config is None:
        assert stage.name == "given"
        return
    assert isinstance(stage.config, hints["config"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.config.steps = 1


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_attacks_said_to_ask_for_scores_only_never_differentiate(stage: Stage):
    scores_only = stage.attack.__name__ in ("noise", "square")
    assert stage.scores == scores_only


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_rows_are_the_runs_an_attack_keeps_side_by_side(stage: Stage):
    config = stage.config
    side_by_side = isinstance(config, APGDT | FABT) or hasattr(config, "rungs")
    targets = config.rungs[0][0] if hasattr(config, "rungs") else getattr(config, "targets", 1)
    assert stage.rows == (targets if side_by_side else 1)


def test_protocols_are_named_and_written_down_once():
    assert set(CHOICES) <= set(PROTOCOLS)
    assert set(EVERY_IMAGE) <= set(PROTOCOLS)
    for protocol in PROTOCOLS:
        assert len(set(names(protocol))) == len(names(protocol)) > 0
        assert all(0 < len(name) <= 16 and "." not in name for name in names(protocol)), (
            "stored as U16 and in file names"
        )
        known = {stage.name: stage.config for stage in stages(protocol) if stage.config is not None}
        assert json.loads(json.dumps(parameters(protocol))).keys() == known.keys()
        for name, config in known.items():
            assert type(config)(**parameters(protocol)[name]) == config


@pytest.mark.parametrize(
    ("wrong", "near"), [("standart", "standard"), ("quik", "quick"), ("fst", "fast"), ("FULL", None), ("", None)]
)
def test_an_unknown_protocol_names_the_nearest_and_all(wrong, near):
    for function in (stages, parameters):
        with pytest.raises(UnknownNameError) as error:
            function(wrong)
        text = str(error.value)
        assert repr(wrong) in text
        assert ("Did you mean " + near in text) if near else ("Did you mean" not in text)
        assert text.endswith("Known: " + ", ".join(CHOICES))


# --- int8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "found"),
    [
        ("quick", "noise fgsm fgsm-fp pgd20 pgd20-fp square"),
        ("fast", "apgd-ce apgd-ce-fp halving-t halving-t-fp square"),
        ("standard", "apgd-ce apgd-ce-fp apgd-t apgd-t-fp fab-t fab-t-fp square"),
        (
            "full",
            "apgd-ce apgd-ce-fp apgd-t apgd-t-fp fab-t fab-t-fp pgd100 pgd100-fp margin-pgd-t margin-pgd-t-fp square",
        ),
    ],
)
def test_a_rounded_model_is_attacked_through_both_networks_and_by_square(protocol, found):
    rounded, plain = stages(protocol, True, True), {stage.name: stage for stage in stages(protocol)}
    assert [stage.name for stage in rounded] == found.split()
    assert all(len(stage.name) <= 16 for stage in rounded), "stored as U16"
    for stage in rounded[:-1]:
        own = plain[stage.name.removesuffix(UNROUNDED)]
        assert stage.unrounded == stage.name.endswith(UNROUNDED)
        assert dataclasses.replace(stage, name=own.name, unrounded=False) == own
    last = rounded[-1]
    assert (last.config, last.scores, last.unrounded) == (plain["square"].config if "square" in plain else
                                                          Square(queries=500), True, False)  # fmt: skip
    assert parameters(protocol, True, True) == {stage.name: dataclasses.asdict(stage.config) for stage in rounded}
    assert list(parameters(protocol, True, True)) == found.split()
    assert not any(stage.unrounded for stage in stages(protocol))
    float_activations = stages(protocol, True)
    assert [stage.name for stage in float_activations] == [n for n in found.split() if not n.endswith(UNROUNDED)]
    assert list(parameters(protocol, True)) == [stage.name for stage in float_activations]
