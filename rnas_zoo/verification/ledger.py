"""Per-image results of a verification, filled piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..attacks import AttackResult, Threat
from ..reference import Subject, twin_error
from .judge import judge, margins
from .store import Part

CLEAN = "clean"


class Ledger:
    """What is known of each of N images.

    Attributes:
        done: for the clean verdict and each attack, whether it is finished on an image, (N,).
        broken_each, passes: for each attack the correctly classified images it broke, and the passes it spent on each
            (those of a piece shared equally), (N,).
        twin_error: largest difference of logits between the network attacked and the judge.
        unstable: images whose verdict was another one when they were judged again.
    """

    def __init__(self, pixels: np.ndarray, attacks: Sequence[str]) -> None:
        n = len(pixels)
        self.correct, self.refused = np.zeros(n, bool), np.zeros(n, bool)
        self.broken_by, self.route = np.full(n, "", "U16"), np.full(n, "", "U16")
        self.step, self.margin, self.norm = np.full(n, -1), np.full(n, np.inf), np.zeros(n)
        self.clean_margin = np.full(n, np.nan)
        self.clean_class, self.adversarial_class = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.x_adv = pixels.copy()
        self.done = {name: np.zeros(n, bool) for name in (CLEAN, *attacks)}
        self.broken_each = {name: np.zeros(n, bool) for name in attacks}
        self.passes = {name: np.zeros(n) for name in attacks}
        self.twin_error, self.unstable = 0.0, np.zeros(n, bool)

    @property
    def standing(self) -> np.ndarray:
        """Classified correctly and broken by nothing so far, (N,)."""
        return self.done[CLEAN] & self.correct & (self.broken_by == "") & ~self.refused

    def settled(self, attacks: Sequence[str], every: bool) -> np.ndarray:
        """Images whose verdict is final: nothing is left to do on them, (N,)."""
        tried = np.logical_and.reduce([self.done[name] for name in attacks]) if attacks else True
        return self.done[CLEAN] & (tried if every else (tried | ~self.standing))

    def apply(self, stage: str, part: Part) -> None:
        """Take in a piece made by `clean_part` or `attack_part`."""
        rows = part["rows"]
        self.done[stage][rows] = True
        self.refused[rows] |= part["refused"]
        if stage == CLEAN:
            self.correct[rows] = part["correct"]
            self.clean_margin[rows] = self.margin[rows] = part["margin"]
            self.clean_class[rows] = self.adversarial_class[rows] = part["predicted"]
            self.twin_error = max(self.twin_error, float(part["twin_error"]))
            return
        broken = part["broken"] & self.correct[rows]
        unbroken = self.broken_by[rows] == ""
        new = broken & unbroken
        self.broken_by[rows[new]], self.route[rows[new]] = stage, str(part["route"])
        self.step[rows[new]] = part["step"][new]
        better = new | (unbroken & ~broken & (part["margin"] <= self.margin[rows]))
        for own, key in ((self.margin, "margin"), (self.norm, "norm"), (self.adversarial_class, "predicted")):
            own[rows[better]] = part[key][better]
        self.x_adv[rows[better]] = part["x_adv"][better]
        self.unstable[rows] |= part["unstable"]
        self.broken_each[stage][rows] = broken
        self.passes[stage][rows] = part["passes"]

    def per_image(self, positions: np.ndarray, hashes: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """The records of some of the images, keys `evidence.PER_IMAGE`."""
        return {
            "position": positions[rows],
            "pixels_sha256": np.array([hashes[row] for row in rows]),
            "clean_correct": self.correct[rows],
            "clean_margin": self.clean_margin[rows].astype(np.float32),
            "broken_by": self.broken_by[rows],
            "route": self.route[rows],
            "step": self.step[rows],
            "margin": self.margin[rows].astype(np.float32),
            "norm": self.norm[rows].astype(np.float32),
            "refused": self.refused[rows],
        }


def hashes_of(pixels: np.ndarray) -> list[str]:
    """Checksum of every image (N, 3, H, W) in [0, 1] as it would be stored with 8 bits."""
    return [data.pixel_hash(np.rint(image.transpose(1, 2, 0) * 255)) for image in pixels]


@torch.no_grad()
def clean_part(subject: Subject, x: Tensor, y: Tensor, rows: np.ndarray) -> Part:
    """Clean verdicts on images x (M, 3, H, W), and how far the logits of an ONNX file's twin are from its session's."""
    logits = subject.judge(x).float()
    finite = torch.isfinite(logits).all(1)
    error = twin_error(subject, x) if subject.kind != "torch" and subject.network is not None else 0.0
    return {
        "rows": rows,
        "correct": ((logits.argmax(1) == y) & finite).cpu().numpy(),
        "refused": (~finite).cpu().numpy(),
        "margin": margins(torch.nan_to_num(logits), y).cpu().numpy(),
        "predicted": logits.argmax(1).cpu().numpy(),
        "twin_error": np.array(error),
    }


@torch.no_grad()
def attack_part(
    subject: Subject, threat: Threat, x: Tensor, y: Tensor, result: AttackResult, rows: np.ndarray, route: str
) -> Part:
    """Judge the images one attack found for x (M, 3, H, W), twice."""
    x_adv = on_grid(result.x_adv, x, threat) if subject.grid else result.x_adv
    logits = subject.judge(x_adv).float()
    verdict = judge(lambda _: logits, x, x_adv, y, threat)
    again = judge(subject.judge, x, x_adv, y, threat)
    return {
        "rows": rows,
        "x_adv": x_adv.contiguous().cpu().numpy(),
        "broken": verdict.broken.cpu().numpy(),
        "refused": verdict.refused.cpu().numpy(),
        "margin": verdict.margin.cpu().numpy(),
        "norm": verdict.norm.cpu().numpy(),
        "step": torch.where(verdict.broken, result.step.clamp_min(0), -1).cpu().numpy(),
        "predicted": logits.argmax(1).cpu().numpy(),
        "unstable": (verdict.broken != again.broken).cpu().numpy(),
        "passes": np.full(len(rows), (result.forwards + result.backwards) / len(rows)),
        "route": np.array(route),
    }


def on_grid(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Images rounded to multiples of 1/255 inside the ball around x, whose pixels are such multiples already."""
    delta = (x_adv - x) * 255
    if threat.norm == "linf":
        bound = float(np.floor(threat.eps * 255 + 1e-6))
        return ((x * 255).round() + delta.round().clamp(-bound, bound)).clamp(0, 255) / 255
    inward, nearest = delta.trunc(), delta.round()
    found = torch.where((delta - nearest).abs() < 1e-4, nearest, inward)  # 2.99998 levels are 3: pixels are floats
    over = found.flatten(1).norm(dim=1) > 255 * threat.eps * (1 + 1e-6)
    found = torch.where(over[:, None, None, None], inward, found)
    return ((x * 255).round() + found).clamp(0, 255) / 255
