"""The pages of the seed systems say what the code, the genotype files and the other pages say."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rnas_zoo import data
from rnas_zoo.reference import load
from rnas_zoo.searching import methods
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.grouped import SuperCell
from rnas_zoo.searching.run import configured
from rnas_zoo.searching.task import SearchTask

from ..searching.small import TEACHER

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CLAIMED_BY = {
    "rnas_cl": "RNAS-CL",
    "rnas_noise": "RNAS, noise examples",
    "arnas": "ARNAS",
    "e2rnas": "E2RNAS",
    "rnas_vuln": "RNAS beyond DARTS",
}
SYSTEMS = tuple(CLAIMED_BY)
FIGURES = {"clean": "clean", "FGSM": "fgsm", "PGD-20": "pgd20", "C&W": "cw", "AutoAttack": "aa", "MI-FGSM": "mi_fgsm"}
systems = pytest.mark.parametrize("system", SYSTEMS)


def page(system: str) -> str:
    return (DOCS / "systems" / f"{system}.md").read_text()


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of every table, cells without the blanks around them."""
    found: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            found.append([cell.strip() for cell in line[1:].rstrip().removesuffix("|").split("|")])
        elif found:
            yield found[0], found[2:]
            found = []


def rows(text: str, *header: str) -> list[list[str]]:
    """The rows of the one table whose header begins so."""
    (wanted,) = (body for head, body in tables(text) if head[: len(header)] == list(header))
    return wanted


def value(cell: str) -> object:
    """A number, list or truth value in JSON, else the text itself."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def plain(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting


def test_there_is_a_page_for_each_system_and_the_overview_links_to_all():
    assert {path.stem for path in (DOCS / "systems").glob("*.md")} == {*SYSTEMS, "README"}
    overview = (DOCS / "systems" / "README.md").read_text()
    assert [f"[`{system}`]({system}.md)" for system in SYSTEMS if f"]({system}.md)" in overview] == [
        f"[`{system}`]({system}.md)" for system in SYSTEMS
    ]


@systems
def test_settings_are_those_of_the_presets_and_none_is_missing(system):
    told = {row[0].strip("`"): row[1:3] for row in rows(page(system), "setting", "paper", "fast", "meaning")}
    settings = methods.find(system).Settings
    own = {field.name for field in dataclasses.fields(settings)}
    differing = set()
    for column, preset in enumerate(("paper", "fast")):
        config = configured("cifar10", system, preset)
        known = {**dataclasses.asdict(config), **dataclasses.asdict(settings(**config.settings))}
        for name, cells in told.items():
            assert value(cells[column]) == plain(known[name]), (name, preset)
        default = SearchConfig("cifar10")
        differing |= {
            field for field in default.__dataclass_fields__ if getattr(config, field) != getattr(default, field)
        }
    assert own | differing - {"method", "preset", "settings"} <= told.keys()


@pytest.mark.parametrize("name", [*SYSTEMS, "README"])
def test_code_links_name_what_is_defined_in_the_file(name):
    links = re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", page(name))
    assert links
    for dotted, target in links:
        scope: ast.AST = ast.parse((DOCS / "systems" / target).read_text())
        for part in dotted.split("."):
            scope = next(
                node
                for node in ast.iter_child_nodes(scope)
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part
            )


@systems
def test_architectures_are_the_genotypes_of_the_method(system):
    told = {}
    for cell, status, parameters, macs in rows(page(system), "genotype"):
        link = re.match(r"\[`(\w+)`\]\(([^)]+)\)", cell)
        assert link
        assert link[2] == f"../../genotypes/{link[1]}.json"
        told[link[1]] = (status, int(parameters.replace(",", "")), int(macs.replace(",", "")))
    files = {path.stem: json.loads(path.read_text()) for path in (ROOT / "genotypes").glob("*.json")}
    assert told == {
        name: (found["provenance"]["status"], found["check"]["params"], found["check"]["macs"])
        for name, found in files.items()
        if found["provenance"].get("method") == system
    }


@systems
def test_rows_of_the_comparison_are_quoted_as_they_stand(system):
    source = (DOCS / "methods.md").read_text()
    (header,) = (head for head, _ in tables(source) if head[0] == "architecture")
    quoted = rows(page(system), *header)
    assert all(row in rows(source, *header) for row in quoted)
    assert {system, "random"} <= {row[0] for row in quoted}


@systems
def test_claims_are_quoted_as_they_stand_and_none_is_left_out(system):
    paper, wanted = "", []
    for first, claim, measured in rows((DOCS / "claims.md").read_text(), "paper", "claim", "measured"):
        paper = first or paper
        if paper == CLAIMED_BY[system]:
            wanted.append([claim, measured])
    assert wanted
    assert rows(page(system), "claim", "measured") == wanted


@systems
def test_the_papers_figures_are_those_on_file(system):
    known = [
        (table["dataset"], row)
        for table in json.loads((DOCS / "papers.json").read_text())["tables"]
        for row in table["rows"]
    ]
    quoted = [
        (header, body)
        for header, body in tables(page(system))
        if header[:3] == ["data", "architecture", "called there"]
    ]
    assert bool(quoted) == (system in ("rnas_cl", "rnas_vuln"))  # the other papers' tables were not at hand
    for header, body in quoted:
        for dataset, architecture, called, *figures in body:
            numbers = {FIGURES[head]: float(figure) for head, figure in zip(header[3:], figures, strict=True)}
            assert any(
                (where, row["architecture"], row["called"]) == (dataset, architecture.strip("`"), called)
                and all(row.get(key) == number for key, number in numbers.items())
                for where, row in known
            ), called


def cheap_cell(cell: SuperCell, s0: Tensor, s1: Tensor, weights: Tensor, shares: Tensor | None = None) -> Tensor:
    """In the place of a cell: its shape, and a gradient for weights and α, but hardly any operation."""
    x = cell.preprocess1(F.avg_pool2d(s1, 2) if cell.reduction else s1)
    return x.repeat(1, 4, 1, 1) * weights.square().sum()


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_passes_of_a_step_are_those_a_search_counts(preset, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(SuperCell, "forward", cheap_cell)
    teacher = tmp_path / "teacher.py"
    teacher.write_text(TEACHER)
    tasks: dict[str, SearchTask] = {}
    for method, phase, *told in rows((DOCS / "systems" / "README.md").read_text(), "method", "phase"):
        wanted, method = told[preset == "fast"], method.strip("`")
        if method not in tasks:
            config = configured(
                str(small_data), method, preset, total_steps=100, batch_size=2, channels=2, layers=4,
                partial=1, stem="cifar_stride2", teacher=f"{teacher}:make" if method == "rnas_cl" else "",
            )  # fmt: skip
            known = load(config.teacher) if config.teacher else None
            tasks[method] = SearchTask(config, data.load(config.data), torch.device("cpu"), teacher=known)
            tasks[method].watch.looks = 0
        task = tasks[method]
        steps = [index for index in range(task.total_steps) if task.phase(index) == phase]
        assert bool(steps) == (wanted != "–"), (method, phase)
        if steps:
            before = task.passes.total
            task.step(steps[0])
            assert (task.passes.total - before) / 2 == int(wanted), (method, phase)
