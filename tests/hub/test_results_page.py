"""The page of results: the committed tables and picture are what the evidence renders to."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import timm

import rnas_zoo
from rnas_zoo import resources
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.hub import results, results_page
from rnas_zoo.intervals import clopper_pearson

ROOT = Path(rnas_zoo.__file__).parents[1]


def described(path: Path) -> dict:
    """The numbers that a picture says it shows."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{path} has no description"
    return json.loads(unescape(found[1]))


def test_the_committed_tables_are_the_generated_ones():
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results_page.document(results.collect()), (
        "run `make results`"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results_page.with_block(readme, results_page.block(results.collect()), "README.md") == readme, (
        "run `make results`"
    )


def test_the_committed_picture_shows_the_evidence():
    shown, found = described(ROOT / "docs" / results_page.PICTURE), results_page.costs(results.collect())
    assert list(shown) == list(found), "run `make results`"
    for way, points in found.items():  # scipy's versions differ in the last digit of the intervals
        np.testing.assert_allclose(shown[way], points, rtol=1e-12, err_msg="run `make results`")
    assert len(shown) >= 2
    for way, points in shown.items():
        sizes, accuracies = [point[0] for point in points], [point[1] for point in points]
        assert sizes == sorted(set(sizes))
        assert sizes[0] == 0
        assert accuracies == sorted(accuracies, reverse=True), f"{way}: larger perturbations cannot help"
        for _, accuracy, low, high in points:
            assert clopper_pearson(round(1000 * accuracy), 1000) == pytest.approx((low, high))


@pytest.mark.parametrize("text", ["", "<!-- results -->", "<!-- /results --> <!-- results -->"])
def test_a_file_without_both_markers_is_refused(text):
    with pytest.raises(UsageError, match=r"README\.md needs one <!-- results -->"):
        results_page.with_block(text, "new", "README.md")


def test_the_command_writes_the_document_and_between_the_markers(tmp_path):
    (tmp_path / "R.md").write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    results_page.main([str(tmp_path / "results.md"), str(tmp_path / "R.md")])
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == results_page.document(results.collect())
    text = (tmp_path / "R.md").read_text(encoding="utf-8")
    assert text == f"before\n{results_page.block(results.collect())}\nafter\n"
    assert "old" not in text
    assert described(tmp_path / results_page.PICTURE) == results_page.costs(results.collect())
    with pytest.raises(UsageError, match="python -m"):
        results_page.main([])


PAPERS = json.loads((resources.folder("docs") / "papers.json").read_text(encoding="utf-8"))


def test_papers_figures_are_of_our_architectures_have_sources_and_are_marked():
    for table in PAPERS["tables"]:
        assert table["source"]
        assert table["protocol"]
        for row in table["rows"]:
            assert timm.is_model(row["architecture"])
            numbers = {key: value for key, value in row.items() if key in results_page.COLUMNS}
            assert row.keys() - numbers.keys() <= {"architecture", "called", "note"}
            assert all(0 < value < 100 for value in numbers.values())
            under = [numbers[key] for key in ("clean", "fgsm", "pgd20", "pgd100", "aa") if key in numbers]
            assert under == sorted(under, reverse=True)
            if "parameters_millions" in row:
                size = sum(p.numel() for p in timm.create_model(row["architecture"]).parameters()) / 1e6
                assert row["parameters_millions"] == pytest.approx(size, rel=0.1)
    assert "not measured by us" in results_page.reported()


def test_damaged_papers_are_refused(tmp_path):
    (tmp_path / "papers.json").write_text('{"tables": [{}]}')
    with pytest.raises(DataError, match=r"papers\.json: no readable file"):
        results_page.reported(tmp_path / "papers.json")
