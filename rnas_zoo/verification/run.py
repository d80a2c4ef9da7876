"""Verify a model: run a protocol's attacks and judge every image they find."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..attacks import Threat
from ..engine import distribution
from ..engine.budget import TimeBudget
from ..engine.device import full_precision, resolve_device
from ..engine.progress import Reporter, Silent
from ..errors import BudgetReachedError, UsageError
from ..preprocessing import Preprocessing
from ..reference import Reference, Subject, subject
from . import evidence, images, sanity
from .driver import Driver, Plan
from .ledger import Ledger, hashes_of
from .protocols import parameters, stages
from .record import record
from .store import Store


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        run: the evidence record (see `evidence`).
        verdicts: per-image arrays, keys `evidence.PER_IMAGE`.
        x_adv: the image that broke each input, else the strongest one tried; float32 (N, 3, H, W).
        predictions: class predicted for each clean and each adversarial image, (N,) each.
        asked: images the verification was asked for; more than there are records if the time budget ended it.
    """

    run: dict[str, Any]
    verdicts: dict[str, np.ndarray]
    x_adv: np.ndarray
    predictions: tuple[np.ndarray, np.ndarray]
    asked: int

    @property
    def clean_accuracy(self) -> float:
        """Fraction of the unperturbed images classified correctly."""
        return self.run["clean_accuracy"]

    @property
    def robust_accuracy(self) -> float:
        """Fraction of images classified correctly and broken by no attack: an upper bound on the true one."""
        return self.run["robust_accuracy"]

    @property
    def partial(self) -> bool:
        """Whether the time budget ended before all images were settled."""
        return len(self.x_adv) < self.asked

    def accuracy_under(self, attack: str) -> float:
        """Accuracy under one attack of the protocol, and where each only sees what is left, those before it."""
        return evidence.accuracy_under(self.run, attack)


def verify(
    model: Reference | Subject,
    x: np.ndarray | Tensor | None = None,
    y: np.ndarray | Tensor | None = None,
    *,
    data_name: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    threat: Threat | None = None,
    protocol: str = "standard",
    n: int | None = None,
    indices: np.ndarray | None = None,
    seed: int = 0,
    batch_size: int = 128,
    positions: np.ndarray | None = None,
    checkpoint: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    transfer_from: Reference | Subject | None = None,
    adversarial: np.ndarray | Tensor | None = None,
    resume: str | Path | None = None,
    time_budget: float | None = None,
    declared: float | None = None,
    checks: bool = True,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> Report:
    """Measure clean and robust accuracy of a model.

    Args:
        model: a torch module in evaluation mode, any model reference (see `reference.load`), or a subject.
        x: images, float in [0, 1] as (N, 3, H, W), or uint8 as (N, H, W, 3).
        y: labels (N,).
        data_name: instead of x and y, a data set; its first `n` test images in official order are used.
        image_size: one number, or height and width, that the data set's images are brought to (see `data.load`).
        indices: positions of other images instead of the first `n`.
        threat: L∞ 8/255 by default.
        protocol: see `protocols.PROTOCOLS`: `standard` is AutoAttack with its published parameters, `fast` finds
            nearly as much with a tenth of its passes, `quick` is noise, FGSM and PGD-20, `full` is more than standard.
        seed: keys the attacks' draws, never the choice of images.
        batch_size: rows a network is asked at once.
        positions: place of each image in its data set's official order, integers (N,); 0, 1, 2, … by default.
        checkpoint: weights for a timm name, a .safetensors file.
        preprocessing: what a foreign model expects of its input.
        transfer_from: attack this model instead, and judge what breaks it by `model` (protocol `transfer`).
        adversarial: images somebody else found, as x; they are judged and nothing is attacked (protocol `given`).
        resume: folder where finished pieces are kept, and read from if there are any.
        time_budget: seconds; the report then covers the images settled by then.
        declared: clean accuracy stated elsewhere; far less means wrong preprocessing.
        checks: whether to look for signs that the result would mislead (see flags.md).
        device: where networks run; `auto` takes a GPU if there is one.
        reporter: hears of attacks and their progress; silent by default.

    Raises:
        DataError: images outside [0, 1] or of the wrong size, or labels the model has no class for.
        UsageError: an argument out of range, a model that returns no logits or is in training mode.
        FlaggedError: the clean accuracy says that nothing measured on top would mean anything.
        CheckpointError: `resume` belongs to another verification.
        BudgetReachedError: the time budget ended before any image was settled.
        UnknownNameError: no such protocol.

    Example:
        import rnas_zoo

        threat = rnas_zoo.Threat("linf", "16/255")
        name = "rnas_wrn10_1.pgd_digits_linf16"
        report = rnas_zoo.verify(name, data_name="digits", threat=threat, protocol="standard", n=256)
        print(report.clean_accuracy, report.robust_accuracy)
    """
    threat, reporter = threat or Threat(), reporter or Silent()
    if threat.per_image:
        raise UsageError("a verification has one eps; attack functions take one per image")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    protocol = _protocol(protocol, transfer_from, adversarial)
    stages(protocol)
    with sanity.modes_kept(model), sanity.modes_kept(transfer_from), distribution.group(), full_precision():
        where = resolve_device(device)
        pixels, labels, rows, dataset = images.gather(x, y, data_name, n, indices, image_size)
        order = rows if positions is None else np.asarray(positions)[: len(labels)].astype(np.int64)
        if order.shape != labels.shape:
            raise UsageError(f"needs one position per image, got {order.shape} for {len(labels)} images")
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        options: dict[str, Any] = {"device": where, "image_size": size}
        chosen = _subject(model, checkpoint=checkpoint, preprocessing=preprocessing, **options)
        source = None if transfer_from is None else _subject(transfer_from, **options)
        images.check_fit(chosen, pixels, labels, dataset["name"])
        own = source is None and adversarial is None
        int8 = own and chosen.kind == "int8"
        more = (int8 or (own and chosen.score_only is not None), int8 and chosen.rounds)
        attacks = stages(protocol, *more)
        begin, hashes = time.monotonic(), hashes_of(pixels)
        identity = {
            "subject": chosen.sha256,
            "images_sha256": data.images_hash(hashes),
            "labels": data.images_hash([str(label) for label in labels]),
            "norm": threat.norm,
            "eps": threat.eps_text,
            "protocol": protocol,
            "params": parameters(protocol, *more),
            "seed": seed,
            "preprocessing": chosen.preprocessing,
            "source": source.sha256 if source else None,
        }
        plan = Plan(
            chosen,
            source,
            threat,
            attacks,
            protocol,
            seed,
            batch_size,
            where,
            given=None if adversarial is None else _given(adversarial, pixels, n, indices),
            declared=declared,
            checks=checks,
        )
        ledger = Ledger(pixels, [stage.name for stage in attacks])
        driver = Driver(
            plan,
            ledger,
            pixels,
            labels,
            order,
            store=Store(resume, identity) if resume else None,
            budget=TimeBudget(time_budget, begin) if time_budget else None,
            reporter=reporter,
        )
        driver.run()
        covered = driver.covered()
        if not len(covered):
            again = f"; the same command with --resume {resume} continues" if resume else ""
            raise BudgetReachedError(f"the time budget ended before any image was settled{again}")
        run = record(plan, ledger, driver, covered, order, [hashes[row] for row in covered], dataset)
        run["seconds"] = round(time.monotonic() - begin, 2)
        return Report(
            run,
            ledger.per_image(order, hashes, covered),
            ledger.x_adv[covered],
            (ledger.clean_class[covered], ledger.adversarial_class[covered]),
            len(labels),
        )


def _protocol(name: str, transfer_from: object, adversarial: object) -> str:
    if transfer_from is not None and adversarial is not None:
        raise UsageError("either attack another model (transfer_from) or judge given images (adversarial), not both")
    if adversarial is not None:
        return "given"
    if name == "given":
        raise UsageError("the protocol given judges images somebody else found: adversarial, or --adversarial FILE.npz")
    if name == "transfer" and transfer_from is None:
        raise UsageError("the protocol transfer needs the model to attack: transfer_from, or --transfer-from REF")
    return "transfer" if transfer_from is not None else name


def _subject(model: Reference | Subject, **options: Any) -> Subject:
    return model if isinstance(model, Subject) else subject(model, **options)


def _given(
    adversarial: np.ndarray | Tensor, pixels: np.ndarray, n: int | None, indices: np.ndarray | None
) -> np.ndarray:
    found = np.asarray(adversarial.detach().cpu() if isinstance(adversarial, Tensor) else adversarial)
    found = images.gather(found, np.zeros(len(found), int), None, None)[0]
    if len(found) != len(pixels):
        found = found[: len(pixels)] if indices is None else found[indices][:n]
    if found.shape != pixels.shape:
        raise UsageError(f"adversarial images are {found.shape}, the clean ones {pixels.shape}")
    return found
