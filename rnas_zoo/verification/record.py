"""The evidence record of a verification that ended: what was asked, what was found, and what speaks against it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from .. import __version__, data
from ..intervals import clopper_pearson
from . import sanity
from .driver import Driver, Plan
from .flags import flag
from .ledger import Ledger

TWIN_TOLERANCE = 1e-3


def record(
    plan: Plan,
    ledger: Ledger,
    driver: Driver,
    covered: np.ndarray,
    order: np.ndarray,
    hashes: list[str],
    dataset: dict[str, Any],
) -> dict[str, Any]:
    """The evidence record of the images covered, without its seconds.

    Args:
        covered: rows of the ledger that are settled, integers (M,).
        order: position of every row in its data set's official order, (N,).
        hashes: SHA-256 of the covered images' pixels, M of them.
        dataset: what is known of the images' data set.
    """
    chosen, count = plan.subject, len(covered)
    clean, robust = int(ledger.correct[covered].sum()), int(ledger.standing[covered].sum())
    refused = int(ledger.refused[covered].sum())
    totals = driver.totals(covered)
    flags = [*driver.flags, *_final_flags(plan, ledger, covered, refused, totals)]
    if count < len(order):
        flags.append(
            flag("partial", f"covers {count} of {len(order)} images, positions {order[covered[0]]} to "
                 f"{order[covered[-1]]}; the time budget ended")
        )  # fmt: skip
    return {
        "subject": {"kind": chosen.kind, "file": chosen.file, "sha256": chosen.sha256},
        "source": None if plan.source is None else {"name": plan.source.name, "sha256": plan.source.sha256},
        "preprocessing": chosen.preprocessing,
        "dataset": {**dataset, "images_sha256": data.images_hash(hashes)},
        "norm": plan.threat.norm,
        "eps": plan.threat.eps_text,
        "protocol": plan.protocol,
        "params": {stage.name: asdict(stage.config) for stage in plan.stages if stage.config is not None},
        "seed": plan.seed,
        "n": count,
        "refused": refused,
        "clean_accuracy": clean / count,
        "robust_accuracy": robust / count,
        "interval": list(clopper_pearson(robust, count)),
        "attacks": totals,
        "passes": sum(total["passes"] for total in totals.values()),
        "seconds": 0.0,
        "flags": flags,
        "versions": {"rnas_zoo": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _final_flags(
    plan: Plan, ledger: Ledger, covered: np.ndarray, refused: int, totals: dict[str, dict[str, int]]
) -> list[str]:
    flags = []
    if plan.subject.kind != "torch" and ledger.twin_error > TWIN_TOLERANCE:
        flags.append(
            flag("twin-differs", f"by {ledger.twin_error:.2g} in its logits: the white-box attacks may be too weak")
        )
    if refused:
        flags.append(flag("non-finite", f"{refused} images gave logits that are not finite: no verdict"))
    unstable = int(ledger.unstable[covered].sum())
    if unstable:
        flags.append(flag("not-repeatable", f"{unstable} images got another verdict when judged again"))
    blind = {stage.name for stage in plan.stages if stage.scores}
    found = {name: ledger.broken_each[name][covered] for name in totals}
    sighted = [broken for name, broken in found.items() if name not in blind]
    if plan.given is None and sighted:
        only = np.logical_or.reduce([found[name] for name in blind & found.keys()] or [sighted[0] & False])
        flags += sanity.black_box_wins(int((only & ~np.logical_or.reduce(sighted)).sum()), len(covered))
    return flags
