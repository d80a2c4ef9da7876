"""Curves: points where the numbers say, intervals around them, impossible numbers refused."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rnas_zoo.drawing.canvas import CURVE_COLORS
from rnas_zoo.drawing.curves import draw_curve
from rnas_zoo.errors import UsageError

from .svg import svg_texts


def test_curve_points_lie_where_the_numbers_say(tmp_path: Path) -> None:
    points = [(0, 1.0), (2, 0.75), (8, 0.0)]
    path = draw_curve({"ours": points}, tmp_path / "curve.svg", title="Robust $accuracy$")
    shuffled = draw_curve({"ours": points[::-1]}, tmp_path / "again.svg", title="Robust $accuracy$")
    assert path.read_bytes() == shuffled.read_bytes()
    assert {"ours", "Robust $accuracy$", "ε (of 255)", "0", "100"} <= set(svg_texts(path))
    color = CURVE_COLORS[0]
    lines = re.findall(rf'd="M ([^"]*)"[^>]*style="fill: none; stroke: {color}; stroke-width: 1.8', path.read_text())
    (line,) = [np.array(re.findall(r"[-\d.]+", found), float).reshape(-1, 2) for found in lines]
    np.testing.assert_allclose((line[:, 0] - line[0, 0]) / np.ptp(line[:, 0]), [0, 0.25, 1], atol=1e-4)
    np.testing.assert_allclose((line[:, 1] - line[0, 1]) / np.ptp(line[:, 1]), [0, 0.25, 1], atol=1e-4)


def test_curve_is_a_png_with_many_names(tmp_path: Path) -> None:
    series = {f"model {i}": [(0, 0.9), (8, 0.0)] for i in range(26)}
    with Image.open(draw_curve(series, tmp_path / "curve.png", title="many", eps_label="ε")) as image:
        image.verify()
        assert image.format == "PNG"


@pytest.mark.parametrize(
    "series",
    [{}, {"a": []}, {"a": [(0, 1.5)]}, {"a": [(-1, 0.5)]}, {"a": [(0, float("nan"))]}, {"a": [(0, 0.5, 1)]}],
)
def test_curve_refuses_impossible_points(series: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw_curve(series, tmp_path / "curve.png", title="")
    assert list(tmp_path.iterdir()) == []


def test_intervals_are_bars_around_the_points(tmp_path: Path) -> None:
    points = [(0, 0.9, 0.8, 1.0), (8, 0.4, 0.1, 0.5)]
    path = draw_curve({"ours": points}, tmp_path / "curve.svg", title="t", description='{"a": "b & c"}')
    root = ET.parse(path).getroot()
    (described,) = [element.text for element in root.iter("{http://purl.org/dc/elements/1.1/}description")]
    assert described == '{"a": "b & c"}'
    color = CURVE_COLORS[0]
    line = r'd="M [-\d.]+ ([-\d.]+) \nL [-\d.]+ ([-\d.]+) \n"'
    bars = re.findall(rf'{line}[^>]*style="fill: none; stroke: {color}; stroke-opacity', path.read_text())
    lengths = sorted(abs(float(bottom) - float(top)) for bottom, top in bars)
    assert lengths[1] / lengths[0] == pytest.approx(2.0, rel=1e-3)
    without = draw_curve({"ours": [point[:2] for point in points]}, tmp_path / "plain.svg", title="t")
    assert "stroke-opacity" not in without.read_text()


@pytest.mark.parametrize("point", [(0, 0.5, 0.6, 0.7), (0, 0.5, 0.1, 0.4), (0, 0.5, 0.1, 1.2)])
def test_an_interval_that_misses_its_accuracy_is_refused(point: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw_curve({"a": [point]}, tmp_path / "curve.svg", title="")
