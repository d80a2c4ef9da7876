"""Sanity flags: every one is explained, and nothing else is."""

import re

import pytest

from rnas_zoo.errors import UnknownNameError
from rnas_zoo.verification import flags


def test_every_code_has_a_section_and_every_section_a_code():
    headings = [line[3:] for line in flags.GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert headings == list(flags.FLAGS)
    assert len(headings) == len(set(headings)) == 17


@pytest.mark.parametrize("code", flags.FLAGS)
def test_a_section_says_what_was_seen_why_it_matters_and_what_to_do(code):
    text = flags.explain(code)
    rest = text
    for head in ("**Seen.**", "**Why it matters.**", "**What to do.**"):
        before, found, rest = rest.partition(head)
        assert found, head
        assert before.strip() or head == "**Seen.**"
    assert len(rest.split()) > 5
    assert "##" not in text
    assert flags.FLAGS[code].strip()
    assert len(flags.FLAGS[code]) < 100


def test_the_works_that_sections_cite_are_in_the_list_of_references():
    head, _, body = flags.GUIDE.read_text(encoding="utf-8").partition("\n## ")
    cited = set(re.findall(r"(Athalye|Carlini|Croce|Tramèr)[^.;()]{0,10}? (20\d\d)", body))
    assert len(cited) >= 6
    own = {("Carlini", "2017")}  # given with its number where it is cited
    listed = " ".join(head.split())
    for author, year in cited - own:
        assert re.search(rf"{author}[^·]*{year}", listed), (author, year)


def test_what_evidence_keeps_leads_to_the_section():
    text = flags.flag("black-box-wins", "Square broke 3 images: 4, 7, 9")
    assert text == "black-box-wins: Square broke 3 images: 4, 7, 9"
    assert flags.explain(text) == flags.explain("black-box-wins")


@pytest.mark.parametrize("call", [flags.explain, lambda code: flags.flag(code, "detail")])
def test_unknown_flags_suggest_near_ones(call):
    with pytest.raises(UnknownNameError, match=r"unknown flag 'logits-scale'\. Did you mean logit-scale"):
        call("logits-scale")


def test_the_guide_lies_in_the_package_and_is_not_ignored_by_git():
    import rnas_zoo

    assert flags.GUIDE.is_relative_to(rnas_zoo.__path__[0])
