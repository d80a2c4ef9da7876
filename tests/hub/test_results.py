"""Tables of results: generated from evidence, and the committed ones are what is generated."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm

import rnas_zoo
from rnas_zoo import resources
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.hub import results
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.verification import evidence
from rnas_zoo.verification.run import verify

ROOT = Path(rnas_zoo.__file__).parents[1]


def test_the_committed_tables_are_the_generated_ones():
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results.document(), "run `make results`"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.with_block(readme, results.block(), "README.md") == readme, "run `make results`"


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
    text = results.measured([found])
    assert "| model | trained for | clean | L∞ 4/255 | L∞ 16/255 |" in text
    low, high = clopper_pearson(round(6 * standard["robust_accuracy"]), 6)
    cell = f"{100 * standard['robust_accuracy']:.1f} %, {100 * low:.1f} % to {100 * high:.1f} %"
    assert text.count(f"| {cell} |") == 1
    assert "What robustness costs" not in results.measured([replace(found, sizes={"16/255": standard})])


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
    lines = results.measured(found).splitlines()
    assert lines[0] == "### cifar10"
    assert lines[4].startswith("| `other` | ")
    assert {line.count("|") for line in lines if line.startswith("|")} == {len(results.HEADER) + 1}
    assert "No release" in results.measured([])


def test_a_release_without_evidence_is_refused(release, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    (folder / "robustness.json").unlink()
    with pytest.raises(DataError, match="no evidence on its weights"):
        results.read(folder)


@pytest.mark.parametrize("text", ["", "<!-- results -->", "<!-- /results --> <!-- results -->"])
def test_a_file_without_both_markers_is_refused(text):
    with pytest.raises(UsageError, match=r"README\.md needs one <!-- results -->"):
        results.with_block(text, "new", "README.md")


def test_the_command_writes_the_document_and_between_the_markers(tmp_path):
    (tmp_path / "R.md").write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    results.main([str(tmp_path / "results.md"), str(tmp_path / "R.md")])
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == results.document()
    text = (tmp_path / "R.md").read_text(encoding="utf-8")
    assert text == f"before\n{results.block()}\nafter\n"
    assert "old" not in text
    with pytest.raises(UsageError, match="python -m"):
        results.main([])


PAPERS = json.loads((resources.folder("docs") / "papers.json").read_text(encoding="utf-8"))


def test_papers_figures_are_of_our_architectures_have_sources_and_are_marked():
    for table in PAPERS["tables"]:
        assert table["source"]
        assert table["protocol"]
        for row in table["rows"]:
            assert timm.is_model(row["architecture"])
            numbers = {key: value for key, value in row.items() if key in results.COLUMNS}
            assert row.keys() - numbers.keys() <= {"architecture", "called", "note"}
            assert all(0 < value < 100 for value in numbers.values())
            under = [numbers[key] for key in ("clean", "fgsm", "pgd20", "pgd100", "aa") if key in numbers]
            assert under == sorted(under, reverse=True)
            if "parameters_millions" in row:
                size = sum(p.numel() for p in timm.create_model(row["architecture"]).parameters()) / 1e6
                assert row["parameters_millions"] == pytest.approx(size, rel=0.1)
    assert "not measured by us" in results.reported()


def test_damaged_papers_are_refused(tmp_path):
    (tmp_path / "papers.json").write_text('{"tables": [{}]}')
    with pytest.raises(DataError, match=r"papers\.json: no readable file"):
        results.reported(tmp_path / "papers.json")
