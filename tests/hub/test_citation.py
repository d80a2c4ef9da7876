"""Papers: every architecture of ours has one, told as the genotype tells it."""

import re

import pytest

import rnas_zoo
from rnas_zoo import genotype
from rnas_zoo.errors import DataError
from rnas_zoo.hub import citation

GENERIC = {"rnas_cells", "rnas_students"}


def test_a_paper_becomes_bibtex_of_what_is_known_of_it():
    paper = {"key": "k", "methods": ["m"], "author": "A and B", "title": "T: U", "booktitle": "UAI", "year": 2024}
    assert citation.bibtex({**paper, "eprint": "2301.08092"}) == (
        "@inproceedings{k,\n  author = {A and B},\n  title = {T: U},\n  booktitle = {UAI},\n  year = {2024},\n"
        "  eprint = {2301.08092},\n  archivePrefix = {arXiv}\n}"
    )
    assert citation.bibtex({"key": "k", "title": "T", "note": "N"}) == "@misc{k,\n  title = {T},\n  note = {N}\n}"


@pytest.mark.parametrize("name", genotype.names())
def test_every_genotype_has_the_paper_it_names(name):
    found = genotype.named(name)
    paper = citation.reference("rnas_cells", found)
    assert paper is not None
    told = found.provenance.get("paper")
    if told is None:
        assert citation.sentence(found) == "The architecture was found by our implementation of this paper's method:"
        return
    assert paper["title"] in told
    assert str(paper.get("year", "")) in told
    assert re.findall(r"arXiv ([\d.]+\d)", told) == ([paper["eprint"]] if "eprint" in paper else [])
    names = [name for name in paper.get("author", "").split(" and ") if name and name != "others"]
    assert told.startswith(", ".join(names))


def test_every_hand_designed_architecture_has_a_paper_and_no_paper_is_nobody_s():
    used = [citation.reference("rnas_cells", genotype.named(name)) for name in genotype.names()]
    searched = {f"rnas_{name.removesuffix('_cifar10')}" for name in genotype.names()}
    for name in rnas_zoo.list_models():
        base = re.sub(r"_(c\d+l\d+|s\d)$", "", name)
        if name not in GENERIC and name not in searched and base not in searched:
            paper = citation.reference(name, None)
            assert paper is not None, name
            used.append(paper)
    assert all(paper in used for paper in citation.references())
    assert citation.reference("resnet18", None) is None
    keys = [paper["key"] for paper in citation.references()]
    assert len(keys) == len(set(keys))


def test_damaged_papers_are_refused(tmp_path):
    (tmp_path / "papers.json").write_text('{"tables": []}')
    with pytest.raises(DataError, match=r"papers\.json: no readable file"):
        citation.references(tmp_path / "papers.json")
