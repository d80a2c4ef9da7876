"""Pictures of searches: what they show, and that the same input gives the same bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.drawing.searches import Point, draw_alphas, draw_pareto, front
from rnas_zoo.errors import UsageError
from rnas_zoo.genotype import PRIMITIVES


def history(strongest: dict[int, int], moments: int = 5) -> dict[str, np.ndarray]:
    """Fourteen edges that drift from uniform to one operation each (the edge's number modulo 8 unless given)."""
    final = np.full((14, 8), 0.05)
    for edge in range(14):
        final[edge, strongest.get(edge, edge % 8)] = 0.65
    weights = np.linspace(0, 1, moments)[:, None, None]
    return {"step": np.arange(1, moments + 1) * 10, "normal": (1 - weights) / 8 + weights * final}


def texts(path) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", path.read_text())


def test_every_edge_is_named_with_its_strongest_operation(tmp_path):
    path = draw_alphas(history({0: 4, 13: 3}), tmp_path / "a.svg", title="Run", choices={"normal": PRIMITIVES})
    shown = texts(path)
    assert {"Run", "Normal cell", "0→2: sep conv 3x3", "4→5: skip"} <= set(shown)
    edges = [text.split(":")[0] for text in shown if "→" in text]
    assert edges == [f"{source}→{node}" for node in range(2, 6) for source in range(node)]


def test_unnamed_choices_are_numbered_and_single_moments_are_drawn(tmp_path):
    widths = {"step": np.array([7]), "stage0": np.array([[[0.2, 0.8], [0.7, 0.3]]])}
    assert {"stage0", "0: 1", "1: 0"} <= set(texts(draw_alphas(widths, tmp_path / "a.svg", title="x")))
    named = draw_alphas(widths, tmp_path / "b.svg", title="x", choices={"stage0": ["16", "12"]})
    assert {"0: 12", "1: 16"} <= set(texts(named))


def test_the_same_input_gives_the_same_bytes(tmp_path):
    points = [Point("a-s0", "a", 3.0, 0.4, (0.3, 0.5)), Point("b-s0", "b", 2.0, 0.2, (0.1, 0.3))]
    for name in ("one", "two"):
        draw_alphas(history({}), tmp_path / f"alphas-{name}.svg", title="x")
        draw_pareto(points, tmp_path / f"pareto-{name}.svg", title="x")
    for kind in ("alphas", "pareto"):
        assert (tmp_path / f"{kind}-one.svg").read_bytes() == (tmp_path / f"{kind}-two.svg").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normal": None}, "at least one array"),
        ({"step": np.zeros(0)}, "moments `step`"),
        ({"normal": np.zeros((5, 14))}, r"found \(5, 14\)"),
        ({"normal": np.zeros((4, 14, 8))}, r"found \(4, 14, 8\)"),
        ({"normal": np.ones((5, 14, 3))}, "3 choices, but 8 are named"),
    ],
)
def test_histories_that_do_not_fit_are_refused(tmp_path, changes, words):
    wrong = {key: value for key, value in {**history({}), **changes}.items() if value is not None}
    with pytest.raises(UsageError, match=words):
        draw_alphas(wrong, tmp_path / "a.svg", title="x", choices={"normal": PRIMITIVES})
    assert list(tmp_path.iterdir()) == []


def test_every_candidate_is_named_with_its_accuracy(tmp_path):
    points = [Point(f"m{i}-s0", f"m{i}", 1.0 + i, i / 20, (0, 1)) for i in range(12)]
    shown = texts(draw_pareto(points, tmp_path / "p.svg", title="All"))
    assert {f"m{i}-s0 ({5 * i:.1f})" for i in range(12)} <= set(shown)
    assert draw_pareto(points[:1], tmp_path / "p.png", title="One").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "at least one point"),
        ([Point("a", "a", 0.0, 0.5, (0, 1))], "'a': MACs"),
        ([Point("a", "a", 1.0, 1.5, (0, 1))], "between 0 and 1"),
    ],
)
def test_points_out_of_range_are_refused(tmp_path, points, words):
    with pytest.raises(UsageError, match=words):
        draw_pareto(points, tmp_path / "p.svg", title="x")
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        draw_pareto(points, tmp_path / "p.pdf", title="x")


pairs = st.tuples(st.integers(1, 6), st.integers(0, 6))


@given(st.lists(pairs, min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(values):
    points = [Point(str(i), "", float(m), a / 6, (0, 1)) for i, (m, a) in enumerate(values)]
    kept = front(points)
    for point in points:
        beaten = any(
            (q.macs < point.macs and q.accuracy >= point.accuracy)
            or (q.macs <= point.macs and q.accuracy > point.accuracy)
            for q in points
        )
        assert (point in kept) != beaten
    costs, accuracies = [p.macs for p in kept], [p.accuracy for p in kept]
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
