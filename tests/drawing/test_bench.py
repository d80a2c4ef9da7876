"""The picture of latencies: who stands where, and that the same report gives the same bytes."""

from __future__ import annotations

import re

import pytest

from rnas_zoo.drawing.bench import PARAMETERS, ROBUST, draw_bench, places
from rnas_zoo.errors import UsageError

from ..contestants import report


def texts(path) -> set[str]:
    return set(re.findall(r">([^<>\n]+)</text>", path.read_text()))


def test_robust_accuracy_is_drawn_where_there_is_any(tmp_path):
    found, label = places(report())
    assert label == ROBUST
    assert {(p.model, p.runtime): (pytest.approx(p.milliseconds), p.value) for p in found} == {
        ("small", "torch"): (3.0, 35.0),
        ("small", "onnxruntime"): (0.5, 35.0),
        ("small", "onnxruntime int8"): (1.0, 34.0),
        ("large", "torch"): (5.0, 40.0),
        ("large", "onnxruntime"): (1.0, 40.0),
        ("plain (untrained)", "torch"): (4.0, None),
    }
    shown = texts(draw_bench(report(), tmp_path / "a.svg"))
    assert {ROBUST, "small (35.0)", "large (40.0)", "plain (untrained): no accuracy measured"} <= shown
    assert {"torch", "onnxruntime", "onnxruntime int8", "not beaten"} <= shown
    assert "torch.compile" not in shown


def test_models_measured_against_different_threats_are_told_apart(tmp_path):
    one = report()
    for run in one["models"][1]["runs"]:
        run["accuracy"]["threat"] = "L∞ 4/255"
    shown = texts(draw_bench(one, tmp_path / "a.svg"))
    assert {"small (35.0) L∞ 8/255, cifar10", "large (40.0) L∞ 4/255, cifar10"} <= shown


def test_an_int8_file_without_evidence_has_a_row_of_its_own(tmp_path):
    one = report()
    one["models"][0]["runs"][2]["accuracy"] = None
    shown = texts(draw_bench(one, tmp_path / "a.svg"))
    assert {"small (35.0)", "small, onnxruntime int8: no accuracy measured"} <= shown


def test_parameters_stand_in_where_nothing_was_measured(tmp_path):
    bare = report(slice(2, None))
    assert places(bare)[1] == PARAMETERS
    shown = texts(draw_bench(bare, tmp_path / "a.svg", title="Plain"))
    assert {PARAMETERS, "plain (untrained) (1,000)", "Plain"} <= shown
    assert "not beaten" not in shown
    bare["models"][0]["parameters"] = None
    assert "plain (untrained): no accuracy measured" in texts(draw_bench(bare, tmp_path / "b.svg"))


def test_the_same_report_gives_the_same_bytes(tmp_path):
    assert (
        draw_bench(report(), tmp_path / "a.svg").read_bytes() == draw_bench(report(), tmp_path / "b.svg").read_bytes()
    )
    assert draw_bench(report(), tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        draw_bench(report(), tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="at least one measured run"):
        draw_bench({**report(), "models": []}, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
