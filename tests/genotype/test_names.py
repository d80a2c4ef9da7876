"""What users name a genotype by: bundled names, models, paths, objects and text."""

from __future__ import annotations

import re

import pytest

from rnas_zoo import genotype
from rnas_zoo.errors import GenotypeError, UnknownNameError

from .objects import NAMES, raw


def test_names_lists_every_file_once():
    assert genotype.names() == NAMES
    assert len(NAMES) >= 22


@pytest.mark.parametrize("name", NAMES)
def test_named_takes_the_name_with_and_without_prefix(name):
    assert genotype.named(name) == genotype.named(f"rnas_{name}") == genotype.named(genotype.model_name(name))
    assert genotype.named(name).to_json() == raw(name)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("arnas", "rnas_arnas"),
        ("ours_arnas_cifar10", "rnas_ours_arnas"),
        ("ours_rnas_cl_digits", "rnas_ours_rnas_cl_digits"),
        ("e2rnas_cifar10", "rnas_e2rnas_cifar10"),
    ],
)
def test_models_of_our_own_searches_do_without_cifar10_in_their_name(name, model):
    assert genotype.model_name(name) == model


@pytest.mark.parametrize(
    ("name", "near"), [("vuln_hh", "vuln_h"), ("rnas_arnass", "arnas"), ("robnet_large_v3", "robnet_large_v2")]
)
def test_unknown_names_suggest_near_ones(name, near):
    with pytest.raises(UnknownNameError, match="Did you mean") as refused:
        genotype.named(name)
    assert name in str(refused.value)
    assert near in re.split(r"[ ,?]+", str(refused.value))


def test_names_without_near_ones_suggest_none():
    with pytest.raises(UnknownNameError) as refused:
        genotype.named("zzzzzzzzzzzzz")
    assert "Did you mean" not in str(refused.value)


def test_resolve_takes_every_form(tmp_path):
    expected = genotype.named("darts_v2")
    file = tmp_path / "mine.json"
    file.write_text(expected.dumps(), encoding="utf-8")
    assert genotype.resolve(expected) is expected
    for form in (expected.to_json(), "darts_v2", "rnas_darts_v2", file, str(file)):
        assert genotype.resolve(form) == expected
    cells = raw("darts_v2")["cells"]
    fields = ", ".join(
        f"{role}={[tuple(edge) for edge in cell['edges']]!r}, {role}_concat={cell['concat']!r}"
        for role, cell in cells.items()
    )
    script = tmp_path / "genotypes.py"
    script.write_text(f"DARTS = Genotype({fields})\n", encoding="utf-8")
    for form in (f"Genotype({fields})", f"  Genotype({fields})\n", f"{script}:DARTS"):
        assert genotype.resolve(form).structure == expected.structure


@pytest.mark.parametrize("spec", ["", "no such thing", "rnas_", 7])
def test_resolve_refuses_unknown_names(spec):
    with pytest.raises(UnknownNameError):
        genotype.resolve(spec)


def test_resolve_refuses_a_missing_path(tmp_path):
    with pytest.raises(GenotypeError, match="no such genotype file"):
        genotype.resolve(str(tmp_path / "absent"))
