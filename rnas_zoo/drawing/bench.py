"""A picture of a report of `deploy.bench`: what a model is worth against how long it takes, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .canvas import CURVE_COLORS, check_suffix, save, spread, style
from .page import GREY, INK, PAPER, printable
from .searches import Point, front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"torch": "o", "torch.compile": "D", "onnxruntime": "s", "onnxruntime fp16": "v", "onnxruntime int8": "^"}
OTHER_MARKER = "P"
ROBUST, PARAMETERS = "robust accuracy (%)", "parameters"
ROW = 15.0
WIDTH, LEFT, PANEL, FOOT, HEAD = 518.4, 54.0, 250.0, 66.0, 34.0


@dataclass(frozen=True)
class Place:
    """One run: model, runtime, what it may be compared with, milliseconds, value and the interval around it.

    The value is None for a model without one.
    """

    model: str
    runtime: str
    group: str
    milliseconds: float
    value: float | None
    interval: tuple[float, float] | None = None


def places(report: Mapping[str, Any]) -> tuple[list[Place], str]:
    """The runs of a report and the name of their value: robust accuracy (%), or parameters if no run has any."""
    batch = str(report["batches"][0])
    runs = [(model, run) for model in report["models"] for run in model["runs"] if run["latency"]]
    judged = any(run["accuracy"] for _, run in runs)
    found = []
    for model, run in runs:
        accuracy = run["accuracy"]
        group, value, interval = "", None if judged else model["parameters"], None
        if judged and accuracy:
            group, value = f"{accuracy['threat']}, {accuracy['dataset']}", 100 * accuracy["robust"]
            interval = tuple(100 * edge for edge in accuracy["interval"])
        name = f"{model['model']} (untrained)" if model["untrained"] else model["model"]
        if judged and not accuracy and any(other["accuracy"] for other in model["runs"]):
            name = f"{name}, {run['runtime']}"
        found.append(Place(name, run["runtime"], group, 1000 * run["latency"][batch]["p50"], value, interval))
    return found, ROBUST if judged else PARAMETERS


def draw_bench(report: Mapping[str, Any], path: str | Path, *, title: str = "") -> Path:
    """Draw the robust accuracy of models against their latency at batch 1, a marker for each runtime.

    A dashed line joins the runs that no other beats in both, among those measured against one threat on one data set.
    Models without an accuracy have a row each below; if no model has one, the height is the number of parameters.

    Args:
        report: what `deploy.bench.bench` returned.
        path: a file ending in .svg or .png; it is replaced if it exists.
        title: the heading; the machine's part in the report by default.

    Returns:
        The path.

    Raises:
        UsageError: another suffix, or no run.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    found, label = places(report)
    if not found:
        raise UsageError("a picture of latencies needs at least one measured run, found none")
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}" if report["device"] == "cpu" else "CUDA"
    title = title or f"Latency of one image, {threads}"
    with style():
        return save(_figure(found, label, title), path, title, bbox_inches="tight", pad_inches=0.15)


def _figure(found: Sequence[Place], label: str, title: str) -> Figure:
    from matplotlib.figure import Figure

    colors = {name: CURVE_COLORS[i % len(CURVE_COLORS)] for i, name in enumerate(dict.fromkeys(p.model for p in found))}
    valued = [place for place in found if place.value is not None]
    bare = list(dict.fromkeys(place.model for place in found if place.value is None))
    height = max(260.0, ROW * (len(colors) - len(bare)) + 40) if valued else 0.0
    strip = ROW * len(bare) + 8 if bare else 0.0
    total = HEAD + height + strip + FOOT
    figure = Figure(figsize=(WIDTH / 72, total / 72), facecolor=PAPER)
    panels = []
    if valued:
        panels.append(figure.add_axes((LEFT / WIDTH, (FOOT + strip) / total, PANEL / WIDTH, height / total)))
        _values(panels[0], valued, colors, label, height)
    if bare:
        panels.append(figure.add_axes((LEFT / WIDTH, FOOT / total, PANEL / WIDTH, strip / total)))
        _rows(panels[-1], [place for place in found if place.value is None], bare, colors)
    for axes in panels:
        _times(axes, found, named=axes is panels[-1])
    _legend(figure, found, total)
    panels[0].set_title(
        printable(title), fontsize=12, fontweight="bold", color=INK, loc="left", pad=12, parse_math=False
    )
    panels[-1].set_xlabel("median milliseconds at batch 1", fontsize=10, color=INK)
    return figure


def _values(axes: Axes, found: Sequence[Place], colors: Mapping[str, str], label: str, height: float) -> None:
    """Every run at its time and value; each model is named at the right."""
    values = [edge for place in found for edge in (place.interval or (place.value or 0.0,))]
    if label == PARAMETERS:
        from matplotlib.ticker import NullFormatter

        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.6, max(values) * 1.6)
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(max(-1.0, min(values) - 3), min(101.0, max(values) + 3))
    axes.set_ylabel(label, fontsize=10, color=INK)
    groups = list(dict.fromkeys(place.group for place in found))
    for group in filter(None, groups):
        own = [place for place in found if place.group == group]
        best = front([Point(p.model, group, p.milliseconds, p.value or 0.0, (0, 0)) for p in own])  # cost: their time
        axes.plot([p.macs for p in best], [p.accuracy for p in best], color=INK, lw=1.1, ls=(0, (4, 2)), zorder=2)
    fastest = []
    for name in dict.fromkeys(place.model for place in found):
        own = [place for place in found if place.model == name]
        _runs(axes, own, [place.value or 0.0 for place in own], colors[name])
        fastest.append(min(own, key=lambda place: place.milliseconds))
    low, high = (axes.transData.transform((1, edge))[1] for edge in axes.get_ylim())
    shares = [(axes.transData.transform((1, place.value or 0.0))[1] - low) / (high - low) for place in fastest]
    for place, share, spot in zip(fastest, shares, spread([height * s for s in shares], ROW, height), strict=True):
        value = f"{place.value:.1f}" if label == ROBUST else f"{place.value:,.0f}"
        text = f"{place.model} ({value}){f' {place.group}' if len(groups) > 1 else ''}"
        _name(axes, text, colors[place.model], share, spot / height)


def _rows(axes: Axes, found: Sequence[Place], names: Sequence[str], colors: Mapping[str, str]) -> None:
    """Models without a value, one below the other."""
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_yticks([])
    axes.axhline(-0.8, color="#c5cad1", lw=1.0)
    for row, name in enumerate(names):
        own = [place for place in found if place.model == name]
        _runs(axes, own, [float(row)] * len(own), colors[name])
        share = (len(names) - 0.4 - row) / (len(names) + 0.4)
        _name(axes, f"{name}: no accuracy measured", colors[name], share, share)


def _runs(axes: Axes, own: Sequence[Place], heights: Sequence[float], color: str) -> None:
    axes.plot([place.milliseconds for place in own], heights, color=color, lw=0.8, alpha=0.4, zorder=1)
    for place, height in zip(own, heights, strict=True):
        marker = MARKERS.get(place.runtime, OTHER_MARKER)
        axes.plot(place.milliseconds, height, color=color, marker=marker, ms=7, mec=PAPER, mew=0.6, zorder=4)
        if place.interval:
            axes.plot([place.milliseconds] * 2, place.interval, color=color, lw=0.8, alpha=0.45, zorder=1)


def _name(axes: Axes, text: str, color: str, share: float, spot: float) -> None:
    """A name to the right of the axes at height `spot`, with a line to the height `share`, both of 0..1."""
    axes.annotate(
        printable(text, 70), (1.0, share), xytext=(1 + 14 / PANEL, spot), xycoords="axes fraction",
        textcoords="axes fraction", color=color, fontsize=8, va="center", parse_math=False,
        arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.5, "shrinkA": 1, "shrinkB": 1},
    )  # fmt: skip


def _times(axes: Axes, found: Sequence[Place], *, named: bool) -> None:
    """The axis of milliseconds, the same in every panel; numbers only where `named`."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    times = [place.milliseconds for place in found]
    low, high = min(times) / 1.3, max(times) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= 9 else [step for step in ticks if _is_ten(step)]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(which="both", colors=GREY, labelsize=8, length=0, labelbottom=named)
    axes.grid(color="#e6e9ed", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_visible(named)
    axes.spines["bottom"].set_color(GREY)


def _is_ten(step: float) -> bool:
    return f"{step:e}"[0] == "1"


def _legend(figure: Figure, found: Sequence[Place], total: float) -> None:
    from matplotlib.lines import Line2D

    entries = {
        runtime: Line2D([], [], color=GREY, marker=MARKERS.get(runtime, OTHER_MARKER), ls="", ms=6)
        for runtime in dict.fromkeys(place.runtime for place in found)
    }
    if any(place.group for place in found):
        entries["not beaten"] = Line2D([], [], color=INK, lw=1.1, ls=(0, (4, 2)))
    figure.legend(entries.values(), entries, loc="lower left", bbox_to_anchor=(LEFT / WIDTH, 8 / total),
                  ncols=len(entries), fontsize=8, frameon=False, labelcolor=GREY, borderpad=0,
                  handletextpad=0.4, columnspacing=1.2)  # fmt: skip
