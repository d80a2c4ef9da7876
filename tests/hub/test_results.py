"""Rows of the tables of results: what a release folder's own evidence says."""

import json
import shutil
from dataclasses import replace

import pytest
import timm

from rnas_zoo import resources
from rnas_zoo.errors import DataError
from rnas_zoo.hub import results, results_page
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.verification import evidence
from rnas_zoo.verification.run import verify


def test_a_release_s_row_is_its_evidence(release):
    found = results.read(release)
    runs = [run for run in evidence.read(release)[0] if run["subject"]["kind"] == "torch"]
    config = json.loads((release / "config.json").read_text())
    network = timm.create_model("rnas_cells", **config["model_args"])
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    cells = dict(zip(results.HEADER[:8], found.cells()[:8], strict=True))
    assert cells["model"] == "`rnas_cells.pgd_digits_linf16`"
    assert cells["training"] == "pgd-1"
    assert cells["threat"] == "L∞ 16/255"
    assert cells["clean"] == f"{100 * runs[0]['clean_accuracy']:.1f} %"
    pgd = round(runs[0]["clean_accuracy"] * 40) - runs[0]["attacks"]["pgd20"]["broken"]
    assert cells["PGD-20"] == f"{100 * pgd / 40:.1f} %"
    assert cells["images"] == "40"
    assert found.cells()[8:11] == ["–", "–", "–"]
    training = json.loads((release / "training.json").read_text())
    assert found.cells()[11].startswith(f"{training['cpu_seconds'] / 60:,.1f} CPU min, a CPU (")


def test_adaptive_runs_count_only_under_the_threat_trained_against_and_the_strongest_wins(release, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    (folder / "training.json").unlink()

    def add(protocol, eps, n):
        from rnas_zoo.attacks import Threat

        report = verify(folder, data_name="digits", threat=Threat("linf", eps), protocol="quick", n=n, device="cpu")
        run = {**report.run, "protocol": protocol, "attacks": {}}
        evidence.append(folder, run, report.verdicts)
        return run

    add("standard", "4/255", 8)
    assert results.read(folder).strongest is None
    fast = add("fast", "16/255", 12)
    cells = results.read(folder).cells()
    assert cells[8] == f"{100 * fast['robust_accuracy']:.1f} % (`fast`)"
    standard = add("standard", "16/255", 6)
    cells = results.read(folder).cells()
    assert cells[8] == f"{100 * standard['robust_accuracy']:.1f} %"
    assert cells[10:] == ["6", "–"]
    assert cells[7] == "40"
    found = results.read(folder)
    assert list(found.sizes) == ["4/255", "16/255"]
    assert found.sizes["16/255"]["protocol"] == "standard"
    text = results_page.measured([found])
    assert "| model | trained for | clean | L∞ 4/255 | L∞ 16/255 |" in text
    low, high = clopper_pearson(round(6 * standard["robust_accuracy"]), 6)
    cell = f"{100 * standard['robust_accuracy']:.1f} %, {100 * low:.1f} % to {100 * high:.1f} %"
    assert text.count(f"| {cell} |") == 1
    assert "What robustness costs" not in results_page.measured([replace(found, sizes={"16/255": standard})])


def test_tables_are_by_data_set(release, tmp_path, monkeypatch):
    cards = tmp_path / "model_cards"
    shutil.copytree(release, cards / "b")
    other = shutil.copytree(release, cards / "a")
    config = json.loads((other / "config.json").read_text())
    config["rnas_zoo"] |= {"dataset": "cifar10", "name": "other"}
    (other / "config.json").write_text(json.dumps(config))
    folder = resources.folder
    monkeypatch.setattr(resources, "folder", lambda name: cards if name == "model_cards" else folder(name))
    found = results.collect()
    assert [result.dataset for result in found] == ["cifar10", "digits"]
    lines = results_page.measured(found).splitlines()
    assert lines[0] == "### cifar10"
    assert lines[4].startswith("| `other` | ")
    assert {line.count("|") for line in lines if line.startswith("|")} == {len(results.HEADER) + 1}
    assert "No release" in results_page.measured([])


def test_a_release_without_evidence_is_refused(release, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    (folder / "robustness.json").unlink()
    with pytest.raises(DataError, match="no evidence on its weights"):
        results.read(folder)
