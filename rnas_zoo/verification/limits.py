"""What a model is not robust to: other norms, larger perturbations, and corruptions that nobody chose against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import __version__, data
from ..attacks import Threat
from ..engine.device import resolve_device
from ..engine.progress import Reporter, Silent
from ..errors import UsageError
from ..intervals import clopper_pearson
from ..reference import Reference, Subject, subject
from . import evidence
from .corruptions import CORRUPTIONS, Corruption, corrupt
from .protocols import parameters
from .run import verify

SCHEMA = 1
LARGER = 1.5
OTHER = {"linf": Threat("l2", 0.5), "l2": Threat("linf", 8 / 255)}


def beyond(own: Threat) -> tuple[Threat, Threat]:
    """The threat models next to a model's own: the other norm (L2 0.5, or L∞ 8/255), and its own norm with 1.5 ε."""
    larger = own.eps * LARGER
    return OTHER[own.norm], Threat(own.norm, min(larger, 1.0) if own.norm == "linf" else larger)


def limits(
    model: Reference | Subject,
    images: data.ImageSet,
    own: Threat,
    *,
    protocol: str = "quick",
    seed: int = 0,
    batch_size: int = 128,
    places: np.ndarray | None = None,
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Accuracy of a model beyond the threat model it was made for, always on the same images.

    Args:
        model: what `verify` takes.
        images: the images; the first of the test set in official order, say.
        own: the threat model that is measured elsewhere; `beyond` names the others from it.
        protocol: of the attacks.
        seed: keys the attacks' draws and the noise.
        batch_size: rows a network is asked at once.
        places: positions of the images in their data set's official order; 0, 1, 2, … by default.

    Returns:
        A JSON object: what was measured on (`subject`, `n`, `images_sha256`, `seed`, `versions`) and `rows`. A row has
        `kind` (`clean`, `attack` or `corruption`), its exact parameters, `accuracy` and its exact 95 % `interval`.

    Raises:
        UsageError, DataError: as `verify`; no images.
    """
    if not len(images):
        raise UsageError("limits need at least one image")
    device, reporter = resolve_device(device), reporter or Silent()
    chosen = model if isinstance(model, Subject) else subject(model, device=device, image_size=images.images.shape[1:3])
    where = np.arange(len(images)) if places is None else np.asarray(places)
    rows: list[dict[str, Any]] = []
    for threat in beyond(own):
        reporter.say(f"limits: {protocol} at {threat}")
        report = verify(
            chosen,
            images.images,
            images.labels,
            threat=threat,
            protocol=protocol,
            seed=seed,
            batch_size=batch_size,
            positions=where,
            checks=False,
            device=device,
            reporter=reporter,
        )
        if not rows:
            rows.append({"kind": "clean", **_measured(int(report.verdicts["clean_correct"].sum()), len(images))})
        what = {"norm": threat.norm, "eps": threat.eps_text, "protocol": protocol, "params": parameters(protocol)}
        standing = int(evidence.standing(report.verdicts).sum())
        rows.append({"kind": "attack", **what, **_measured(standing, len(images))})
    for corruption in corruptions:
        changed = corrupt(images.images, corruption, seed=seed, positions=where)
        correct = count_correct(chosen, changed, images.labels, batch_size, device)
        rows.append({"kind": "corruption", **corruption.to_json(), **_measured(correct, len(images))})
    return {
        "schema": SCHEMA,
        "subject": {"kind": chosen.kind, "file": chosen.file, "sha256": chosen.sha256},
        "n": len(images),
        "images_sha256": data.images_hash([data.pixel_hash(image) for image in images.images]),
        "seed": seed,
        "versions": {"rnas_zoo": __version__, "torch": torch.__version__},
        "rows": rows,
    }


@torch.no_grad()
def count_correct(
    chosen: Subject, images: np.ndarray, labels: np.ndarray, batch_size: int, device: str | torch.device
) -> int:
    """How many of uint8 images (N, H, W, 3) get their label, and finite logits."""
    correct = 0
    for first in range(0, len(labels), batch_size):
        x = data.to_pixels(images[first : first + batch_size], torch.device(device))
        logits = chosen.judge(x).float()
        found = logits.argmax(1).cpu().numpy() == labels[first : first + batch_size]
        correct += int((found & torch.isfinite(logits).all(1).cpu().numpy()).sum())
    return correct


def per_class(verdicts: dict[str, np.ndarray], labels: np.ndarray, classes: int) -> list[dict[str, Any]]:
    """Clean and robust accuracy by class, from per-image verdicts (see `evidence`).

    Args:
        labels: of every image of the split in official order; the verdicts' positions choose from them.
        classes: number of classes.

    Returns:
        For each class n, `clean` and `robust` (None where it has no images) and the exact 95 % `interval` of `robust`.

    Raises:
        UsageError: verdicts of images that have no label.
    """
    position = verdicts["position"]
    if len(position) and int(position.max()) >= len(labels):
        raise UsageError(f"verdicts go to position {int(position.max())}, there are {len(labels)} labels")
    own, standing = labels[position], evidence.standing(verdicts)
    correct = verdicts["clean_correct"].astype(bool)
    found = []
    for index in range(classes):
        mine = own == index
        n, robust = int(mine.sum()), int(standing[mine].sum())
        found.append(
            {
                "n": n,
                "clean": int(correct[mine].sum()) / n if n else None,
                "robust": robust / n if n else None,
                "interval": list(clopper_pearson(robust, n)) if n else None,
            }
        )
    return found


def _measured(successes: int, n: int) -> dict[str, Any]:
    return {"n": n, "accuracy": successes / n, "interval": list(clopper_pearson(successes, n))}
