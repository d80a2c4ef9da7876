"""Pictures of searches: architecture parameters over time, and candidates by cost and robustness, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..genotype import PRIMITIVES
from .canvas import CURVE_COLORS, CURVE_MARKERS, check_suffix, quiet, save, spread, style
from .genotypes import ROLE_TITLES
from .layout import dense_pairs
from .operations import FAMILIES, LABELS, family
from .page import GREY, INK, PAPER, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = ("avg_pool_3x3", "sep_conv_5x5", "dil_conv_5x5")  # in the colour of their family's first
PER_ROW = 7
PANEL, GAP, HEAD = (92.0, 62.0), (14.0, 30.0), 26.0
MANY = 8  # choices, beyond which only the strongest is coloured


@dataclass(frozen=True)
class Point:
    """A candidate: its group (a colour), cost in millions of MACs, accuracy in 0..1 and the interval around it."""

    name: str
    group: str
    macs: float
    accuracy: float
    interval: tuple[float, float]


def draw_alphas(
    history: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    title: str,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Draw probabilities over time, a panel per decision; each panel names the choice that is strongest at the end.

    Args:
        history: `step` (T,) and, by name, softmax(α) (T, decisions, choices), as `alphas.npz` of a search has them.
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading.
        choices: names of the choices, by the names in `history`; numbers by default.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, no history, or shapes that do not fit.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    steps = np.asarray(history.get("step", ()))
    parts = {name: np.asarray(values, float) for name, values in history.items() if name != "step"}
    if steps.ndim != 1 or not len(steps) or not parts:
        raise UsageError("a history of α needs moments `step` and at least one array of probabilities")
    named = {}
    for name, values in parts.items():
        if values.ndim != 3 or len(values) != len(steps):
            raise UsageError(f"{name!r} must have the shape ({len(steps)}, decisions, choices), found {values.shape}")
        named[name] = list((choices or {}).get(name, range(values.shape[2])))
        if len(named[name]) != values.shape[2]:
            raise UsageError(f"{name!r} decides between {values.shape[2]} choices, but {len(named[name])} are named")
    with style():
        return save(_alphas_figure(steps, parts, named, title), path, title)


def _alphas_figure(
    steps: np.ndarray, parts: Mapping[str, np.ndarray], named: Mapping[str, Sequence[object]], title: str
) -> Figure:
    from matplotlib.figure import Figure

    (wide, high), (right, down) = PANEL, GAP
    rows = {name: -(-values.shape[1] // PER_ROW) for name, values in parts.items()}
    width = 34 + PER_ROW * (wide + right)
    height = 44 + sum(HEAD + count * (high + down) for count in rows.values()) + 34
    figure = Figure(figsize=(width / 72, height / 72), facecolor=PAPER)
    figure.text(10 / width, 1 - 18 / height, printable(title), fontsize=12, fontweight="bold", color=INK,
                va="center", parse_math=False)  # fmt: skip
    top = 44.0
    for name, values in parts.items():
        heading = ROLE_TITLES.get(name, (name, ""))[0]
        figure.text(10 / width, 1 - (top + 6) / height, printable(heading), fontsize=10.5, fontweight="bold",
                    color=INK, va="center", parse_math=False)  # fmt: skip
        ceiling = min(1.0, 1.1 * float(values.max()))
        for decision in range(values.shape[1]):
            row, column = divmod(decision, PER_ROW)
            left, above = 34 + column * (wide + right), top + HEAD + row * (high + down)
            axes = figure.add_axes((left / width, 1 - (above + high) / height, wide / width, high / height))
            label = _decision(decision, values.shape[1], name)
            _panel(axes, steps, values[:, decision], named[name], label)
            axes.set(xlim=(0, float(steps[-1])), ylim=(0, ceiling))
            axes.tick_params(colors=GREY, labelsize=6, length=2, labelleft=column == 0)
            last = decision + PER_ROW >= values.shape[1]
            axes.set_xticks([0, float(steps[-1])], ["0", f"{int(steps[-1]):,}"] if last else ["", ""])
        top += HEAD + rows[name] * (high + down)
    _legend(figure, named, width, height)
    return figure


def _panel(axes: Axes, steps: np.ndarray, values: np.ndarray, names: Sequence[object], label: str) -> None:
    strongest = int(values[-1].argmax())
    for choice in sorted(range(values.shape[1]), key=lambda choice: values[-1, choice]):
        color, line = _look(names, choice, strongest)
        thick = 2.0 if choice == strongest else 1.0
        axes.plot(steps, values[:, choice], color=color, ls=line, lw=thick, marker="o" if len(steps) == 1 else "", ms=3)
    name = str(names[strongest])
    short = LABELS.get(name, name)
    axes.set_title(printable(f"{label}: {short}", 26), fontsize=6.5, color=INK, pad=3, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(GREY)


def _decision(index: int, count: int, name: str) -> str:
    """Source and target state of an edge; else the number of the decision."""
    pairs = dense_pairs()
    if name in ROLE_TITLES and count == len(pairs):
        source, target = pairs[index]
        return f"{source}→{target}"
    return str(index)


def _look(names: Sequence[object], choice: int, strongest: int) -> tuple[str, object]:
    name = str(names[choice])
    if name in PRIMITIVES:
        return FAMILIES[family(name)].color, (0, (3, 1.5)) if name in DASHED else "-"
    if len(names) > MANY:
        return (CURVE_COLORS[0], "-") if choice == strongest else ("#d5dae0", "-")
    return CURVE_COLORS[choice % len(CURVE_COLORS)], "-"


def _legend(figure: Figure, named: Mapping[str, Sequence[object]], width: float, height: float) -> None:
    from matplotlib.lines import Line2D

    entries: dict[str, Line2D] = {}
    for names in named.values():
        for choice, name in enumerate(names):
            if name in PRIMITIVES:
                color, line = _look(names, choice, -1)
                entries[LABELS.get(str(name), str(name))] = Line2D([], [], color=color, ls=line, lw=2)
    if entries:
        figure.legend(entries.values(), entries, loc="lower left", ncols=len(entries), fontsize=7.5, frameon=False,
                      bbox_to_anchor=(6 / width, 4 / height), handlelength=2.6, labelcolor=GREY)  # fmt: skip


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is at most as costly and at least as accurate and better in one of both."""
    kept = [
        p
        for p in points
        if not any(
            q.macs <= p.macs and q.accuracy >= p.accuracy and (q.macs, q.accuracy) != (p.macs, p.accuracy)
            for q in points
        )
    ]
    return sorted(kept, key=lambda p: (p.macs, p.name))


def draw_pareto(points: Sequence[Point], path: str | Path, *, title: str, label: str = "PGD-10 accuracy (%)") -> Path:
    """Draw accuracy against multiply-accumulates; a line joins the front, every point is named.

    Args:
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading.
        label: the name of the vertical axis.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, no points, a cost that is not positive, or an accuracy outside 0..1.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    if not points:
        raise UsageError("a picture of candidates needs at least one point, found none")
    for point in points:
        if not (point.macs > 0 and 0 <= point.accuracy <= 1):
            raise UsageError(f"{point.name!r}: MACs must be positive and accuracy between 0 and 1")
    with style():
        return save(_pareto_figure(points, title, label), path, title, bbox_inches="tight", pad_inches=0.15)


def _pareto_figure(points: Sequence[Point], title: str, label: str) -> Figure:
    from matplotlib.figure import Figure

    height = max(280.0, 13.0 * len(points) + 20)
    figure = Figure(figsize=(7.2, (height + 90) / 72), facecolor=PAPER)
    axes = figure.add_axes((54 / 518.4, 48 / (height + 90), 330 / 518.4, height / (height + 90)))
    low, high = (100 * pick(p.interval[i] for p in points) for i, pick in ((0, min), (1, max)))
    bottom, top = max(0.0, low - 2), min(100.0, high + 2)
    costs = [p.macs for p in points]
    margin = 0.08 * (max(costs) - min(costs)) or 0.1 * max(costs)
    axes.set(xlim=(min(costs) - margin, max(costs) + margin), ylim=(bottom, top))
    kept = front(points)
    axes.plot([p.macs for p in kept], [100 * p.accuracy for p in kept], color=INK, lw=1.2, ls=(0, (4, 2)), zorder=2)
    groups = list(dict.fromkeys(p.group for p in points))
    ends = spread([(100 * p.accuracy - bottom) / (top - bottom) * height for p in points], 13.0, height)
    for point, end in zip(points, ends, strict=True):
        i = groups.index(point.group)
        color, marker = CURVE_COLORS[i % len(CURVE_COLORS)], CURVE_MARKERS[i % len(CURVE_MARKERS)]
        x, y, on_front = point.macs, 100 * point.accuracy, point in kept
        axes.plot([x, x], [100 * v for v in point.interval], color=color, lw=0.8, alpha=0.45, zorder=1)
        axes.plot(x, y, color=color, marker=marker, ms=8 if on_front else 6, mfc=color if on_front else PAPER, zorder=4)
        axes.annotate(
            printable(f"{point.name} ({y:.1f})", 40), (x, y), xytext=(1 + 14 / 330, end / height),
            textcoords="axes fraction", color=color, fontsize=8.5, va="center", parse_math=False,
            fontweight="bold" if on_front else "normal",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.5, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip
    axes.set_title(printable(title), fontsize=12, fontweight="bold", color=INK, loc="left", pad=12, parse_math=False)
    axes.set_xlabel("multiply-accumulates per image (millions)", fontsize=10, color=INK)
    axes.set_ylabel(label, fontsize=10, color=INK)
    quiet(axes)
    return figure
