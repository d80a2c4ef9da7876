"""The door to search methods: names, files of one's own, entry points, and settings."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from rnas_zoo import genotype
from rnas_zoo.errors import UnknownNameError, UsageError
from rnas_zoo.searching import methods
from rnas_zoo.searching.methods import METHODS, Method
from rnas_zoo.searching.run import configured, search

from .small import TINY, config, differences, left_behind, search_in_parts

# Follows the smoothed sign of the validation gradient, and derives cells of skip connections at its weak edges.
MINE = '''"""A method of one's own."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import Cells, Edge
from rnas_zoo.searching.methods import Method


@dataclass(frozen=True)
class Numbers:
    smoothing: float = 0.5
    label: str = "sign"
    replaced: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing must lie in [0, 1), got {self.smoothing}")


class SignSearch(Method):
    Settings: ClassVar[type] = Numbers
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"epochs": 3}, "fast": {"attack": "clean"}}

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.state = {"sign": torch.zeros(()), "epochs": torch.zeros(())}

    def weight_loss(self, search, x, y, keys):
        return F.cross_entropy(search.net(x), y, label_smoothing=0.1)

    def arch_step(self, search, train, validation, keys):
        x, y = validation
        loss = F.cross_entropy(search.net(search.attack(x, y, keys)), y)
        gradients = search.gradients(loss, search.alphas)
        share = self.settings.smoothing
        self.state["sign"].mul_(share).add_((1 - share) * gradients[0].sign().mean())
        search.update([g.sign() + self.state["sign"] for g in gradients])
        return {"validation_loss": loss.detach(), "sign": self.state["sign"].clone()}

    def after_epoch(self, search):
        self.state["epochs"] += 1
        return {"epochs": self.state["epochs"]}

    def derive(self, search):
        found = search.net.derive()
        count = self.settings.replaced
        cells = [replace(c, edges=(*(Edge("skip_connect", e.source) for e in c.edges[:count]), *c.edges[count:]))
                 for c in found.cells]
        return Cells(found.kind, tuple(cells))


class Other:
    pass


def function():
    pass
'''


@pytest.fixture
def mine(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}:SignSearch"


def test_a_file_of_ones_own_searches_resumes_and_says_so(small_data, tmp_path, monkeypatch, mine):
    settings = config(small_data, mine, 6, attack="clean", settings={"smoothing": 0.25, "replaced": 3})
    found = search(settings, tmp_path / "whole.json", device="cpu")
    parts = search_in_parts(monkeypatch, settings, tmp_path / "parts.json", 1, 4)
    assert parts.structure == found.structure
    whole = left_behind(tmp_path / "whole.json")
    assert differences(whole, left_behind(tmp_path / "parts.json")) == []
    assert [edge.op for edge in found.structure["normal"].edges[:3]] == ["skip_connect"] * 3
    state = whole["checkpoint"]["task"]["method"]
    assert state["epochs"] == 6
    assert state["sign"] != 0
    row = json.loads(whole["record"].splitlines()[-1])
    assert {"validation_loss", "sign", "train_loss", "epochs", "entropy"} <= set(row)
    told = genotype.load(tmp_path / "whole.json").provenance
    assert (told["method"], told["status"]) == (mine, "ours")
    assert told["config"]["settings"] == {"smoothing": 0.25, "replaced": 3}
    assert told["found"]["epochs"] == 6


def test_presets_of_ones_own(mine):
    assert configured("digits", mine, "paper").epochs == 3
    found = configured("digits", mine, **TINY, settings={"label": "x"})
    assert (found.attack, found.settings) == ("clean", {"label": "x"})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"smothing": 0.5}, r"settings of .*SignSearch: unknown field 'smothing'.*Did you mean smoothing"),
        ({"smoothing": "0.5"}, "smoothing = '0.5' has the wrong type, expected float"),
        ({"replaced": 1.5}, "replaced = 1.5 has the wrong type, expected int"),
        ({"smoothing": 2}, r"smoothing must lie in \[0, 1\), got 2"),
    ],
)
def test_settings_are_checked(mine, settings, text):
    with pytest.raises(UsageError, match=text):
        methods.build(mine, settings)
    assert methods.build(mine, {"smoothing": 0}).settings.smoothing == 0.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("{folder}/none.py:SignSearch", "there is no file .*none.py"),
        ("{folder}:SignSearch", "unknown method"),
        ("{folder}/mine.py:SignSerch", "no class 'SignSerch'.*Did you mean SignSearch"),
        ("{folder}/mine.py:function", "no class 'function'"),
        ("{folder}/mine.py:Other", "must be a subclass of rnas_zoo.searching.methods.Method"),
        ("{folder}/mine.py:Numbers", "must be a subclass"),
        ("{folder}/broken.py:X", r"broken.py cannot be run \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("{folder}/invalid.py:X", r"invalid.py cannot be run \(SyntaxError"),
    ],
)
def test_files_that_are_no_methods_are_refused(tmp_path, mine, name, text):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "invalid.py").write_text("class X(\n")
    with pytest.raises((UsageError, UnknownNameError), match=text):
        methods.find(name.format(folder=tmp_path))


def test_files_of_one_name_are_told_apart(tmp_path, mine):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.py").write_text(MINE.replace("smoothing: float = 0.5", "smoothing: float = 0.75"))
    first, second = methods.find(mine), methods.find(f"{tmp_path / 'b' / 'mine.py'}:SignSearch")
    assert (first().settings.smoothing, second().settings.smoothing) == (0.5, 0.75)
    assert first.__module__ != second.__module__


class Installed(Method):
    """What another package offers."""


def offer(monkeypatch, **points) -> None:
    found = [SimpleNamespace(name=name, load=load) for name, load in points.items()]
    monkeypatch.setattr(methods, "entry_points", lambda group: found if group == "rnas_zoo.methods" else [])


def test_installed_packages_offer_methods(small_data, tmp_path, monkeypatch):
    def broken():
        raise ImportError("no module named x")

    offer(monkeypatch, installed=lambda: Installed, wrong=lambda: dict, broken=broken, darts=broken)
    assert methods.find("installed") is Installed
    assert (
        search(config(small_data, "installed", 1), tmp_path / "x.json", device="cpu").provenance["method"]
        == "installed"
    )
    with pytest.raises(UsageError, match="'wrong' must be a subclass"):
        methods.find("wrong")
    with pytest.raises(UsageError, match=r"'broken' cannot be loaded \(ImportError: no module named x\)"):
        methods.find("broken")
    assert methods.find("darts") is METHODS["darts"], "our own names cannot be taken"
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'instaled'.*Did you mean installed.*path/to/file.py:Class"
    ):
        methods.find("instaled")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stands_under_its_name_and_keeps_the_contract(name):
    method = methods.build(name, {})
    assert type(method) is methods.find(name)
    assert set(method.presets) == {"paper", "fast"}
    assert method.settings == method.Settings()
    assert method.__doc__
    assert all(isinstance(value, torch.Tensor) for value in method.state.values())
    for preset in method.presets:
        assert configured("digits", name, preset).method == name
