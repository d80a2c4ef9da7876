"""Verify a model: run a protocol's attacks and judge every image they find."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__, data
from ..attacks import (
    APGD,
    APGDT,
    FABT,
    FGSM,
    PGD,
    AttackResult,
    Keys,
    Noise,
    Square,
    Threat,
    apgd,
    apgd_t,
    fab_t,
    fgsm,
    noise,
    pgd,
    square,
)
from ..engine.device import resolve_device
from ..engine.progress import Reporter, Silent
from ..errors import DataError, UnknownNameError, UsageError
from ..reference import Reference, Subject, subject
from . import evidence
from .judge import judge, margins

Attack = Callable[..., AttackResult]

# quick tries every attack on every image; standard is AutoAttack, whose attacks see what the ones before left over.
PROTOCOLS: dict[str, tuple[tuple[str, Attack, Any], ...]] = {
    "quick": (("noise", noise, Noise()), ("fgsm", fgsm, FGSM()), ("pgd20", pgd, PGD(steps=20))),
    "standard": (
        ("apgd-ce", apgd, APGD()),
        ("apgd-t", apgd_t, APGDT()),
        ("fab-t", fab_t, FABT()),
        ("square", square, Square()),
    ),
}
TWIN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        run: the evidence record (see `evidence`).
        verdicts: per-image arrays, keys `evidence.PER_IMAGE`.
        x_adv: the image that broke each input, else the last one tried; float32 (N, 3, H, W).
        predictions: class predicted for each clean and each adversarial image, (N,) each.
    """

    run: dict[str, Any]
    verdicts: dict[str, np.ndarray]
    x_adv: np.ndarray
    predictions: tuple[np.ndarray, np.ndarray]

    @property
    def clean_accuracy(self) -> float:
        return self.run["clean_accuracy"]

    @property
    def robust_accuracy(self) -> float:
        """Fraction of images classified correctly and broken by no attack: an upper bound on the true one."""
        return self.run["robust_accuracy"]

    def accuracy_under(self, attack: str) -> float:
        """See `evidence.accuracy_under`."""
        return evidence.accuracy_under(self.run, attack)


def verify(
    model: Reference | Subject,
    x: np.ndarray | Tensor | None = None,
    y: np.ndarray | Tensor | None = None,
    *,
    data_name: str | None = None,
    threat: Threat | None = None,
    protocol: str = "quick",
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    positions: np.ndarray | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> Report:
    """Measure clean and robust accuracy of a model.

    Args:
        model: a torch module (its modes are left as found), any model reference (see `reference.load`), or a subject.
        x: images, float in [0, 1] as (N, 3, H, W), or uint8 as (N, H, W, 3).
        y: labels (N,).
        data_name: instead of x and y, a data set; its first `n` test images in official order are used.
        threat: L∞ 8/255 by default.
        protocol: `quick`: random-noise control, FGSM and PGD-20 (last iterate); `standard`: AutoAttack's APGD-CE,
            APGD-T, FAB-T and Square with their published parameters, each on the images still robust (L∞ only).
        seed: keys the attacks' draws, never the choice of images.
        positions: place of each image in its data set's official order, integers (N,); 0, 1, 2, … by default.

    Raises:
        DataError: images outside [0, 1] or of the wrong size, or labels the model has no class for.
        UsageError: an argument out of range, or a model that returns no logits.
        UnknownNameError: no such protocol.
    """
    threat, reporter = threat or Threat(), reporter or Silent()
    if protocol not in PROTOCOLS:
        raise UnknownNameError(f"unknown protocol {protocol!r}; this release has {', '.join(PROTOCOLS)}")
    if protocol == "standard" and threat.norm != "linf":
        raise UsageError("the protocol standard works under linf only in this release; use quick under l2")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    where = resolve_device(device)
    pixels, labels, dataset = _images(x, y, data_name, n)
    order = np.arange(len(labels)) if positions is None else np.asarray(positions)[: len(labels)].astype(np.int64)
    if order.shape != labels.shape:
        raise UsageError(f"needs one position per image, got {order.shape} for {len(labels)} images")
    with _modes_kept(model):
        if isinstance(model, Subject):
            chosen = model
        else:
            chosen = subject(model, checkpoint=checkpoint, device=where, image_size=pixels.shape[2:])
        _check_fit(chosen, pixels, labels, dataset["name"])
        begin = time.monotonic()
        reporter.start(f"verify {chosen.kind}", len(labels))
        found, totals, twin_error = _attack(
            chosen, pixels, labels, order, threat, protocol, seed, batch_size, where, reporter
        )
    count, clean, robust = len(labels), int(found.correct.sum()), int(found.robust.sum())
    flags = []
    if chosen.kind == "onnx" and twin_error > TWIN_TOLERANCE:
        flags.append(f"twin differs from the session by {twin_error:.2g} in its logits: the attacks may be too weak")
    if found.refused.any():
        flags.append(f"{int(found.refused.sum())} images gave non-finite logits or gradients: no verdict")
    run = {
        "subject": {"kind": chosen.kind, "file": chosen.file, "sha256": chosen.sha256},
        "dataset": {**dataset, "images_sha256": data.images_hash(found.hashes)},
        "norm": threat.norm,
        "eps": threat.eps_text,
        "protocol": protocol,
        "params": {name: asdict(config) for name, _, config in PROTOCOLS[protocol]},
        "seed": seed,
        "n": count,
        "refused": int(found.refused.sum()),
        "clean_accuracy": clean / count,
        "robust_accuracy": robust / count,
        "interval": list(evidence.clopper_pearson(robust, count)),
        "attacks": totals,
        "passes": sum(total["passes"] for total in totals.values()),
        "seconds": round(time.monotonic() - begin, 2),
        "flags": flags,
        "versions": {"rnas_zoo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return Report(run, found.per_image(), found.x_adv, (found.clean_class, found.adversarial_class))


@contextmanager
def _modes_kept(model: Reference | Subject) -> Iterator[None]:
    """A module given by the user has its training and evaluation modes restored after the block."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _attack(
    chosen: Subject,
    pixels: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    threat: Threat,
    protocol: str,
    seed: int,
    batch_size: int,
    device: torch.device,
    reporter: Reporter,
) -> tuple[_Verdicts, dict[str, dict[str, int]], float]:
    """Verdicts on all images, broken images and passes by attack, and how far network and judge differ."""
    found = _Verdicts(order, pixels)
    totals = {name: {"broken": 0, "passes": 0} for name, _, _ in PROTOCOLS[protocol]}
    twin_error = 0.0
    for first in range(0, len(labels), batch_size):
        rows = np.arange(first, min(first + batch_size, len(labels)))
        tile = np.resize(rows, batch_size)  # every forward has the same shape, whatever the number of images
        bx = torch.from_numpy(pixels[tile]).to(device, memory_format=torch.channels_last)
        by = torch.from_numpy(labels[tile]).to(device)
        keys = Keys(seed, torch.from_numpy(order[tile]).to(device))
        twin_error = max(twin_error, found.clean(chosen, bx, by, rows))
        for name, attack, config in PROTOCOLS[protocol] if threat.eps > 0 else ():
            # Square needs scores only, so it asks the model that counts.
            asked = chosen.judge if attack is square else chosen.network
            part: Any = slice(None) if protocol == "quick" else np.flatnonzero(found.robust[rows])
            left = rows if protocol == "quick" else rows[part]
            if not len(left):
                continue
            result = attack(asked, bx[part], by[part], threat, config, Keys(seed, keys.positions[part]))
            totals[name]["broken"] += found.attacked(chosen, name, bx[part], by[part], result, threat, left)
            share = len(left) / len(result.x_adv)
            totals[name]["passes"] += round((result.forwards + result.backwards) * share)
        robust = int(found.robust[: rows[-1] + 1].sum())
        reporter.advance(f"robust {robust}/{rows[-1] + 1}", by=len(rows))
    return found, totals, twin_error


class _Verdicts:
    """Per-image results, filled batch by batch."""

    def __init__(self, positions: np.ndarray, pixels: np.ndarray) -> None:
        self.positions, n = positions, len(positions)
        self.hashes = [data.pixel_hash(np.rint(image.transpose(1, 2, 0) * 255)) for image in pixels]
        self.correct, self.refused = np.zeros(n, bool), np.zeros(n, bool)
        self.broken_by = np.full(n, "", dtype="U16")
        self.step, self.margin, self.norm = np.full(n, -1), np.full(n, np.inf), np.zeros(n)
        self.clean_class, self.adversarial_class = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.x_adv = pixels.copy()

    @property
    def robust(self) -> np.ndarray:
        return self.correct & (self.broken_by == "") & ~self.refused

    @torch.no_grad()
    def clean(self, chosen: Subject, x: Tensor, y: Tensor, rows: np.ndarray) -> float:
        """Record the clean verdicts of a tile; return how far network and judge differ."""
        logits, k = chosen.judge(x).float(), len(rows)
        finite = torch.isfinite(logits).all(1)
        self.refused[rows] |= (~finite[:k]).cpu().numpy()
        self.clean_class[rows] = self.adversarial_class[rows] = logits.argmax(1)[:k].cpu().numpy()
        self.correct[rows] = ((logits.argmax(1) == y) & finite)[:k].cpu().numpy()
        self.margin[rows] = margins(torch.nan_to_num(logits), y)[:k].cpu().numpy()
        if chosen.network is chosen.judge:
            return 0.0
        return float((chosen.network(x).float() - logits)[:k].abs().max())

    def attacked(
        self,
        chosen: Subject,
        name: str,
        x: Tensor,
        y: Tensor,
        result: AttackResult,
        threat: Threat,
        rows: np.ndarray,
    ) -> int:
        """Judge one attack's images; return how many correctly classified images it broke."""
        verdict, k = judge(chosen.judge, x, result.x_adv, y, threat), len(rows)
        broken = verdict.broken[:k].cpu().numpy() & self.correct[rows]
        self.refused[rows] |= verdict.refused[:k].cpu().numpy()
        margin = verdict.margin[:k].cpu().numpy()
        unbroken = self.broken_by[rows] == ""
        new = broken & unbroken
        self.broken_by[rows[new]] = name
        self.step[rows[new]] = result.step[:k].cpu().numpy()[new]
        better = new | (unbroken & ~broken & (margin <= self.margin[rows]))
        self.margin[rows[better]] = margin[better]
        self.norm[rows[better]] = verdict.norm[:k].cpu().numpy()[better]
        self.x_adv[rows[better]] = result.x_adv[:k].cpu().numpy()[better]
        if better.any():
            with torch.no_grad():
                self.adversarial_class[rows[better]] = chosen.judge(result.x_adv).argmax(1)[:k].cpu().numpy()[better]
        return int(broken.sum())

    def per_image(self) -> dict[str, np.ndarray]:
        return {
            "position": self.positions,
            "pixels_sha256": np.array(self.hashes),
            "clean_correct": self.correct,
            "broken_by": self.broken_by,
            "step": self.step,
            "margin": self.margin.astype(np.float32),
            "norm": self.norm.astype(np.float32),
            "refused": self.refused,
        }


def _images(
    x: np.ndarray | Tensor | None, y: np.ndarray | Tensor | None, name: str | None, n: int | None
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Float32 NCHW pixels in [0, 1], int64 labels, and what the evidence calls them."""
    if n is not None and n < 1:
        raise UsageError(f"needs at least one image, got n={n}")
    if name is not None:
        test = data.load(name).test
        count = min(n or len(test), len(test))
        images = test.images[:count].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        return np.ascontiguousarray(images), test.labels[:count], {"name": Path(name).stem, "split": "test"}
    if x is None or y is None:
        raise UsageError("give images x and labels y, or the name of a data set")
    pixels = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers, got {labels.dtype}")
    labels = labels.astype(np.int64)
    if pixels.dtype == np.uint8:
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise DataError(f"uint8 images must be (N, H, W, 3), got {pixels.shape}")
        pixels = pixels.transpose(0, 3, 1, 2) / np.float32(255)
    pixels = np.ascontiguousarray(pixels, np.float32)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or labels.shape != pixels.shape[:1] or not len(labels):
        raise DataError(f"images must be (N, 3, H, W) with one label each, got {pixels.shape} and {labels.shape}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"images must lie in [0, 1], found values from {low:g} to {high:g}; divide by 255, and leave normalisation "
            "to the model"
        )
    return pixels[:n], labels[:n], {"name": "arrays", "split": "given"}


def _check_fit(chosen: Subject, pixels: np.ndarray, labels: np.ndarray, name: str) -> None:
    if int(labels.max()) >= chosen.num_classes or int(labels.min()) < 0:
        raise DataError(
            f"{chosen.name} has {chosen.num_classes} classes, but the labels of {name} go from {int(labels.min())} "
            f"to {int(labels.max())}"
        )
    if chosen.kind == "onnx" and chosen.image_size and pixels.shape[2:] != chosen.image_size:
        raise DataError(
            f"{chosen.name} takes images of {chosen.image_size[0]}x{chosen.image_size[1]}, {name} has "
            f"{pixels.shape[2]}x{pixels.shape[3]}"
        )


def curve(
    model: Reference | Subject,
    images: data.ImageSet,
    norm: str,
    sizes: list[float],
    *,
    protocol: str = "quick",
    seed: int = 0,
    device: str | torch.device = "auto",
) -> list[tuple[float, float]]:
    """Accuracy at each ε of `sizes` (ascending); an image broken at a smaller ε is broken at every larger one.

    Returns:
        Pairs of ε (pixels of [0, 1]) and robust accuracy; ε = 0 gives the clean accuracy.
    """
    if sizes != sorted(sizes):
        raise UsageError("the sizes of a curve must ascend")
    device = resolve_device(device)
    chosen = model if isinstance(model, Subject) else subject(model, device=device, image_size=images.images.shape[1:3])
    points: list[tuple[float, float]] = []
    left = np.arange(len(images))
    for eps in sizes:
        if len(left):
            part, threat = images.take(left), Threat(norm, eps)
            report = verify(
                chosen,
                part.images,
                part.labels,
                threat=threat,
                protocol=protocol,
                seed=seed,
                positions=left,
                device=device,
            )
            kept = report.verdicts["clean_correct"] & (report.verdicts["broken_by"] == "") & ~report.verdicts["refused"]
            left = left[kept]
        points.append((eps, len(left) / len(images)))
    return points
