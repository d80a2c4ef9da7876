"""Every operation has a name in drawings and a look of its own."""

from __future__ import annotations

from rnas_zoo import genotype
from rnas_zoo.drawing.operations import FAMILIES, LABELS, family


def test_families_differ_without_colour() -> None:
    looks = [(look.width, look.dashes) for look in FAMILIES.values()]
    assert len(set(looks)) == len(looks)
    assert {family(op) for op in LABELS} == set(FAMILIES)
    assert set(LABELS) >= {*genotype.PRIMITIVES, *genotype.DENSE_OPERATIONS.values()}
