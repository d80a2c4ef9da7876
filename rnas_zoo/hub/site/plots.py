"""The zoo page's plots as positions in a box of WIDTH x HEIGHT; plots.html.jinja draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...attacks import Threat
from ...intervals import clopper_pearson
from ..sections import LIMITS
from ..sections import read as read_part
from ..twin import TWIN
from .entries import Entry, Measured, threat_order

WIDTH, HEIGHT = 420.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 406.0, 12.0, 256.0
SIDES = ((12, 0), (-12, 0), (11, -10), (11, 10), (-11, -10), (-11, 10), (21, 0), (-21, 0))  # where a number may stand
TWO_STEPS = 0.72  # decades: at least two numbers of 1, 2, 5, 10, … lie in so wide a range
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its place on its axis and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A model in a plot: its number there, the point, the ends of its interval, and where its number stands."""

    number: int
    entry: Entry
    measured: Measured
    x: float
    y: float
    low: float
    high: float
    label: tuple[float, float]


@dataclass(frozen=True)
class Scatter:
    """Robust accuracy against parameters, under one threat model on one data set."""

    dataset: str
    threat: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.dataset}, {self.threat}"


@dataclass(frozen=True)
class Line:
    """Accuracy along ε of one model: by size, with its interval; the points of its line and of the band around it."""

    name: str
    entry: Entry | None
    values: Mapping[str, tuple[float, tuple[float, float]]]
    points: str
    band: str


@dataclass(frozen=True)
class Curves:
    """Accuracy against ε of a network with standard training (the last line) and of its robust twins."""

    norm: str
    protocol: str
    n: int
    sizes: tuple[str, ...]
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def scatters(entries: Sequence[Entry]) -> list[Scatter]:
    """One for each data set and threat model that at least two releases were attacked under, the largest first."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        for threat in entry.attacked:
            groups.setdefault((entry.result.dataset, threat), []).append(entry)
    found = [_scatter(dataset, threat, own) for (dataset, threat), own in groups.items() if len(own) > 1]
    return sorted(found, key=lambda plot: (-len(plot.dots), plot.dataset, *threat_order(plot.threat)))


def _scatter(dataset: str, threat: str, entries: Sequence[Entry]) -> Scatter:
    ranked = sorted(entries, key=lambda entry: (-entry.attacked[threat].accuracy, entry.result.name))
    sizes = [entry.result.parameters for entry in entries]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    margin = max(0.12 * (high - low), (TWO_STEPS - high + low) / 2)
    low, high = low - margin, high + margin
    top = _round_up(max(entry.attacked[threat].interval[1] for entry in entries))

    def across(size: float) -> float:
        return LEFT + (math.log10(size) - low) / (high - low) * (RIGHT - LEFT)

    points = []
    for entry in ranked:
        low_end, high_end = entry.attacked[threat].interval
        y = _height(entry.attacked[threat].accuracy, top)
        points.append((across(entry.result.parameters), y, _height(low_end, top), _height(high_end, top)))
    dots = [
        Dot(number, entry, entry.attacked[threat], *point, label)
        for number, (entry, point, label) in enumerate(zip(ranked, points, place_numbers(points), strict=True), 1)
    ]
    steps = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    inside = [step for step in steps if low <= math.log10(step) <= high]
    ticks = tuple(Tick(across(step), short(step)) for step in inside)
    return Scatter(dataset, threat, tuple(dots), ticks, _percent_ticks(top))


def place_numbers(points: Sequence[tuple[float, float, float, float]]) -> list[tuple[float, float]]:
    """Beside each point (x, y, ends of its interval) the first of SIDES that covers nothing, if there is one."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y, _, _ in points]
    taken += [(x - 2, min(a, b), x + 2, max(a, b)) for x, _, a, b in points]
    places = []
    for x, y, _, _ in points:
        options = [(x + dx, y + dy) for dx, dy in SIDES]
        boxes = [(a - 6, b - 6, a + 6, b + 6) for a, b in options]
        free = [i for i, box in enumerate(boxes) if _inside(box) and not any(_overlap(box, other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        places.append(options[chosen])
    return places


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= 0 and box[2] <= WIDTH and box[3] <= BOTTOM + 6


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def curves(entries: Sequence[Entry]) -> list[Curves]:
    """One for each network with standard training whose robust twins show its curve beside theirs."""
    groups: dict[tuple[Any, ...], list[tuple[Entry, dict[str, Any], dict[str, Any]]]] = {}
    for entry in entries:
        described = (read_part(entry.folder, LIMITS) or {}).get("curve")
        drawn = read_part(entry.folder, "figures/curve.json")
        twin = read_part(entry.folder, TWIN)
        if not (described and drawn and twin and twin.get("curve")):
            continue
        key = tuple(described[part] for part in ("norm", "protocol", "n"))
        if key == tuple(twin["curve"][part] for part in ("norm", "protocol", "n")):
            own = {**described, "points": next(iter(drawn.values()))}
            groups.setdefault((*key, twin["name"], twin["weights"]), []).append((entry, own, twin))
    return [_curves(group, entries) for group in groups.values()]


def _curves(group: Sequence[tuple[Entry, dict[str, Any], dict[str, Any]]], entries: Sequence[Entry]) -> Curves:
    first, twin = group[0][1], group[0][2]
    norm, n = first["norm"], first["n"]
    shown: list[tuple[str, Entry | None, Sequence[Any]]] = [(e.result.name, e, own["points"]) for e, own, _ in group]
    by_name: Mapping[str, Entry] = {entry.result.name: entry for entry in entries}
    shown.append((twin["name"], by_name.get(twin["name"]), twin["curve"]["points"]))
    sizes = sorted({eps for _, _, points in shown for eps, _ in points})
    top = _round_up(max(_interval(accuracy, n)[1] for _, _, points in shown for _, accuracy in points))

    def across(eps: float) -> float:
        return LEFT + eps / (max(sizes) or 1.0) * (RIGHT - LEFT)

    lines = []
    for name, entry, points in shown:
        around = [_interval(accuracy, n) for _, accuracy in points]
        line = [(across(eps), _height(accuracy, top)) for eps, accuracy in points]
        below, above = (
            [(x, _height(ends[side], top)) for (x, _), ends in zip(line, around, strict=True)] for side in (0, 1)
        )
        values = {
            Threat(norm, eps).eps_text: (accuracy, ends) for (eps, accuracy), ends in zip(points, around, strict=True)
        }
        lines.append(Line(name, entry, values, _path(line), _path([*above, *reversed(below)])))
    names = [Threat(norm, eps).eps_text for eps in sizes]
    ticks = [Tick(across(eps), name.removesuffix("/255")) for eps, name in zip(sizes, names, strict=True)]
    return Curves(norm, first["protocol"], n, tuple(names), tuple(lines), tuple(ticks), _percent_ticks(top))


def _interval(accuracy: float, n: int) -> tuple[float, float]:
    return clopper_pearson(round(accuracy * n), n)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _height(value: float, top: float) -> float:
    return BOTTOM - value / top * (BOTTOM - TOP)


def _round_up(value: float) -> float:
    """The next tenth, at least 0.1."""
    return max(1, math.ceil(10 * value - 1e-9)) / 10


def _percent_ticks(top: float) -> tuple[Tick, ...]:
    step = 10 if top <= 0.6 else 20
    return tuple(Tick(_height(value / 100, top), str(value)) for value in range(0, round(100 * top) + 1, step))


def short(number: int) -> str:
    """`50k`, `1M`."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)
