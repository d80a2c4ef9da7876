"""Files for contributors: issue forms that GitHub takes, a citation of the papers, a changelog of this version."""

import json
import re
from pathlib import Path

import pytest
import yaml

import rnas_zoo

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
# GitHub's syntax for form schema: attributes each type of element needs, and all it knows.
ELEMENTS = {
    "markdown": ({"value"}, set()),
    "input": ({"label"}, {"description", "placeholder", "value"}),
    "textarea": ({"label"}, {"description", "placeholder", "value", "render"}),
    "dropdown": ({"label", "options"}, {"description", "multiple", "default"}),
    "checkboxes": ({"label", "options"}, {"description"}),
}

pytestmark = pytest.mark.skipif(
    not (ROOT / ".github").is_dir(), reason="waits for a checkout: run the tests from a clone"
)


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def asked(form):
    return {element["id"]: element for element in read(form)["body"] if element["type"] != "markdown"}


def test_there_is_a_form_for_models_bugs_and_refuted_claims():
    assert [form.stem for form in FORMS] == ["bug", "new_model", "refuted_claim"]
    assert read(".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": True}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_has_the_keys_that_github_wants(form):
    found = read(form)
    assert set(found) <= {"name", "description", "title", "labels", "body"}
    assert all(isinstance(found[key], str) and len(found[key]) > 2 for key in ("name", "description"))
    identities, labels = [], []
    for element in found["body"]:
        needed, known = ELEMENTS[element["type"]]
        attributes = element["attributes"]
        assert set(element) <= {"type", "id", "attributes", "validations"}
        assert needed <= set(attributes) <= needed | known
        assert set(element.get("validations", {})) <= {"required"}
        if element["type"] != "markdown":
            identities.append(element["id"])
            labels.append(attributes["label"])
            assert all(isinstance(text, str) for text in attributes.values() if not isinstance(text, list))
        if element["type"] == "dropdown":
            assert all(isinstance(option, str) for option in attributes["options"])
            assert len(set(attributes["options"])) == len(attributes["options"])
        if element["type"] == "checkboxes":
            assert all(set(option) <= {"label", "required"} for option in attributes["options"])
    assert len(set(identities)) == len(identities) > 0
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", identity) for identity in identities)


def test_a_new_model_states_its_claim_and_what_it_rests_on():
    fields = asked(".github/ISSUE_TEMPLATE/new_model.yml")
    wanted = {
        "paper", "architecture", "weights", "licence", "norm", "eps", "dataset", "protocol", "n", "clean_accuracy",
        "robust_accuracy", "training_data", "extra_data", "verification",
    }  # fmt: skip
    assert {name for name, each in fields.items() if each.get("validations", {}).get("required")} >= wanted
    assert all(option["required"] for option in fields["properties"]["attributes"]["options"])


def test_forms_offer_the_norms_and_protocols_there_are():
    from rnas_zoo.attacks.threat import NORMS
    from rnas_zoo.verification.protocols import CHOICES

    fields = asked(".github/ISSUE_TEMPLATE/new_model.yml")
    assert tuple(fields["norm"]["attributes"]["options"]) == NORMS
    offered = {option.split()[0] for option in fields["protocol"]["attributes"]["options"]} - {"another"}
    assert offered == set(CHOICES) - {"quick"}


def paper_of(reference):
    """A reference of the citation as docs/papers.json writes it."""
    names = " and ".join(author["family-names"] for author in reference["authors"] if "family-names" in author)
    links = [link["value"].rpartition("/")[2] for link in reference.get("identifiers", ())]
    found = {
        "author": names,
        "title": reference["title"],
        "booktitle": reference.get("conference", {}).get("name"),
        "year": reference.get("year"),
        "eprint": links[0] if links else None,
        "note": reference.get("notes"),
        "url": reference.get("repository-code"),
    }
    return {key: value for key, value in found.items() if value}


def test_the_citation_names_the_five_papers_as_the_list_of_papers_does():
    cff = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0"
    assert cff["version"] == rnas_zoo.__version__
    assert cff["authors"] == [{"name": "The rnas_zoo developers"}]
    assert all({"type", "title", "authors"} <= set(reference) for reference in cff["references"])
    papers = json.loads((ROOT / "docs" / "papers.json").read_text(encoding="utf-8"))["references"]
    seeds = [
        each
        for each in papers
        if {"rnas_cl", "rnas_vuln", "rnas_noise", "arnas", "e2rnas"} & set(each.get("methods", ()))
    ]
    assert len(seeds) == 5
    expected = [{key: value for key, value in each.items() if key not in ("key", "methods")} for each in seeds]
    assert [paper_of(reference) for reference in cff["references"]] == expected


def test_the_newest_entry_of_the_changelog_is_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$", text, re.M)
    assert versions[0][0] == rnas_zoo.__version__
    assert len(re.findall(r"^## ", text, re.M)) == len(versions)
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_the_licence_is_one_everywhere():
    assert read("CITATION.cff")["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert 'license = "MIT"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_source_distribution_has_them():
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="waits for hatchling: pip install -e .[test]")
    builder = sdist.SdistBuilder(str(ROOT))
    files = {file.distribution_path.replace("\\", "/") for file in builder.recurse_included_files()}
    assert {"CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs/reference/api.md"} <= files
    assert {"docs/reference.py", "tests/docs/test_community.py", "Makefile"} <= files
