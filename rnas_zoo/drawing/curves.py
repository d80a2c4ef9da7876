"""Accuracy against the size of the perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .canvas import CURVE_COLORS, CURVE_MARKERS, check_suffix, quiet, save, spread, style
from .page import INK, PAPER, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curve(
    series: Mapping[str, Sequence[Sequence[float]]],
    path: str | Path,
    *,
    title: str,
    eps_label: str = "ε (of 255)",
    description: str | None = None,
) -> Path:
    """Draw accuracy against ε, one line per name, named at its end.

    Args:
        series: for each name (ε in units of 1/255, accuracy in 0..1), in any order; or, for all points of a name, also
            the two ends of the accuracy's interval, which is drawn as a bar.
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading.
        eps_label: the name of the horizontal axis.
        description: what an .svg file says of itself in its metadata.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, no points, a negative ε, or an accuracy outside 0..1.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    if not series:
        raise UsageError("a curve needs at least one series of (ε, accuracy) points, found none.")
    curves = {}
    for name, points in series.items():
        if {len(point) for point in points} not in ({2}, {4}):
            raise UsageError(f"series {name!r} needs (ε, accuracy) points, found {list(points)[:2]}.")
        curve = np.array(sorted(tuple(map(float, point)) for point in points))
        if not (np.isfinite(curve).all() and (curve >= 0).all() and (curve[:, 1:] <= 1).all()):
            raise UsageError(f"series {name!r}: ε must be finite and at least 0, accuracy between 0 and 1.")
        if curve.shape[1] == 4 and ((curve[:, 2] > curve[:, 1]) | (curve[:, 1] > curve[:, 3])).any():
            raise UsageError(f"series {name!r}: an accuracy must lie in its interval.")
        curves[name] = curve
    with style():
        figure = _curve_figure(curves, title, eps_label)
        return save(figure, path, title, description, bbox_inches="tight", pad_inches=0.15)


def _curve_figure(curves: Mapping[str, np.ndarray], title: str, eps_label: str) -> Figure:
    from matplotlib.figure import Figure

    height = max(300.0, 14.0 * len(curves) + 20)
    figure = Figure(figsize=(7.2, (height + 90) / 72), facecolor=PAPER)
    axes = figure.add_axes((54 / 518.4, 48 / (height + 90), 440 / 518.4, height / (height + 90)))
    axes.set(ylim=(0, 100), yticks=range(0, 101, 20))
    right = max(float(curve[-1, 0]) for curve in curves.values()) or 1.0
    axes.set_xlim(0, right)
    ends = spread([float(curve[-1, 1]) * height for curve in curves.values()], 13.0, height)
    for i, ((name, curve), end) in enumerate(zip(curves.items(), ends, strict=True)):
        color, marker = CURVE_COLORS[i % len(CURVE_COLORS)], CURVE_MARKERS[i % len(CURVE_MARKERS)]
        axes.plot(
            curve[:, 0], 100 * curve[:, 1], color=color, marker=marker, ms=5, lw=1.8, mec=PAPER, mew=0.7, clip_on=False,
            ls=("-", (0, (6, 2)), (0, (2, 1.5)))[i // len(CURVE_COLORS) % 3], zorder=3,
        )  # fmt: skip
        if curve.shape[1] == 4:
            below, above = curve[:, 1] - curve[:, 2], curve[:, 3] - curve[:, 1]
            axes.errorbar(
                curve[:, 0], 100 * curve[:, 1], yerr=(100 * below, 100 * above), fmt="none", ecolor=color,
                elinewidth=1.1, capsize=2.5, alpha=0.6, clip_on=False,
            )  # fmt: skip
        axes.plot(right * (1 + 16 / 440), 100 * end / height, color=color, marker=marker, ms=5, clip_on=False)
        axes.text(
            right * (1 + 24 / 440), 100 * end / height, printable(name, 48), color=color, fontsize=9, va="center",
            parse_math=False,
        )  # fmt: skip
    axes.set_title(printable(title), fontsize=12, fontweight="bold", color=INK, loc="left", pad=12, parse_math=False)
    axes.set_xlabel(printable(eps_label), fontsize=10, color=INK, parse_math=False)
    axes.set_ylabel("accuracy (%)", fontsize=10, color=INK)
    quiet(axes)
    return figure
