"""Random cells: valid, of a seed, and every choice equally likely."""

from __future__ import annotations

from collections import Counter

from scipy.stats import chisquare

from rnas_zoo import genotype
from rnas_zoo.genotype import PRIMITIVES
from rnas_zoo.searching.methods.random import random_cells
from rnas_zoo.searching.run import search

from .small import config


def test_choices_are_uniform_and_inputs_differ():
    operations: Counter[str] = Counter()
    pairs: list[Counter[tuple[int, int]]] = [Counter() for _ in range(4)]
    for draw in range(400):
        for cell in random_cells(3, draw).cells:
            operations.update(edge.op for edge in cell.edges)
            for node in range(4):
                sources = sorted(edge.source for edge in cell.edges[2 * node : 2 * node + 2])
                pairs[node][tuple(sources)] += 1
    assert set(operations) == set(PRIMITIVES[1:])
    assert chisquare(list(operations.values())).pvalue > 1e-3
    for node, found in enumerate(pairs):
        inputs = 2 + node
        assert set(found) == {(a, b) for b in range(inputs) for a in range(b)}
        assert len(found) == 1 or chisquare(list(found.values())).pvalue > 1e-3


def test_a_seed_has_its_cells():
    assert random_cells(1) == random_cells(1)
    assert len({random_cells(seed) for seed in range(20)} | {random_cells(0, draw) for draw in range(20)}) == 39


def test_it_costs_nothing_and_is_written_like_any_other(small_data, tmp_path):
    found = search(config(small_data, "random", 0), tmp_path / "x.json", device="cpu")
    assert found.structure == random_cells(2)
    told = genotype.load(tmp_path / "x.json").provenance
    assert (told["cost"]["architecture_steps"], told["cost"]["image_passes"]) == (0, 0)
    assert told["config"]["total_steps"] == 1
