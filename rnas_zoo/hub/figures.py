"""The figures of a release folder: the architecture, accuracy against ε, and images that an attack found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data, genotype
from ..attacks import Threat
from ..drawing.curves import draw_curve
from ..drawing.genotypes import draw_genotype
from ..drawing.pairs import draw_pairs
from ..files import write_json
from ..verification import evidence
from ..verification.run import Report
from ..verification.sweep import curve

CURVE_IMAGES = 128
CURVE_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
PICTURED = 6


def draw(
    folder: Path,
    shipped: Any,
    found: genotype.Genotype | None,
    test: data.ImageSet,
    report: Report,
    threat: Threat,
    classes: tuple[str, ...],
    device: str | torch.device,
) -> int:
    """Write architecture.svg, curve.png, curve.json and adversarial.png into the folder's `figures`.

    Args:
        folder: holds the config.json of the model already.
        shipped: the subject of the folder's weights.
        found: its genotype, None for a network without one.
        test: the images that `report` is about.
        threat: that of the report.

    Returns:
        How many images the curve was measured on.
    """
    figures = folder / "figures"
    if found:
        draw_genotype(found, figures / "architecture.svg")
    images = test.take(np.arange(min(CURVE_IMAGES, len(test))))
    points = curve(shipped, images, threat.norm, [threat.eps * factor for factor in CURVE_FACTORS], device=device)
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["rnas_zoo"]["name"]
    title = f"Accuracy against ε (protocol quick, first {len(images)} images)"
    draw_curve({name: [(eps * 255, accuracy) for eps, accuracy in points]}, figures / "curve.png", title=title)
    write_json(figures / "curve.json", {name: points})
    shown = picture_rows(report)
    draw_pairs(
        test.images[shown].astype(np.float32) / 255,
        report.x_adv[shown].transpose(0, 2, 3, 1),
        captions(report, shown, test.labels, classes),
        figures / "adversarial.png",
        title=f"Images that {report.run['protocol']} at {threat} found, and what the network says",
    )
    return len(images)


def picture_rows(report: Report) -> np.ndarray:
    """Positions of a few correctly classified images, half of them broken where there are enough."""
    correct = report.verdicts["clean_correct"]
    broken = np.flatnonzero(correct & (report.verdicts["broken_by"] != ""))
    robust = np.flatnonzero(evidence.standing(report.verdicts))
    first = broken[: max(PICTURED // 2, PICTURED - len(robust))]
    rows = np.concatenate([first, robust[: PICTURED - len(first)]])
    return np.sort(rows if len(rows) else np.arange(min(PICTURED, len(correct))))


def captions(report: Report, rows: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What the network says of each clean and adversarial image, marked right or wrong."""
    clean, adversarial = report.predictions

    def say(predicted: int, label: int) -> str:
        return f"{classes[predicted]} {'✓' if predicted == label else '✗'}"

    return [(say(clean[i], labels[i]), say(adversarial[i], labels[i])) for i in rows]
