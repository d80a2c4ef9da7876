"""What an exported file keeps of its model's accuracy, and what it costs to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..attacks import Threat
from ..engine.progress import Reporter
from ..reference import Reference
from ..verification.run import verify
from .bench import measure, summary
from .contestants import Settings
from .form import Form
from .runtime import Session

MAX_LOSS = {"clean": 0.005, "robust": 0.01}  # of accuracy, for an int8 file to be shipped
BATCHES = (1, 32)


def kept_accuracy(
    model: Reference,
    file: str | Path,
    data_name: str,
    *,
    image_size: tuple[int, int] | None = None,
    threat: Threat | None = None,
    protocol: str = "quick",
    n: int | None = 256,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Clean and robust accuracy of an exported file beside those of the model it was made of, on the CPU.

    Both are attacked on the same test images; the file through its own twin, an int8 file also without its rounding and
    by Square, so that `quick`, which has no Square for the model, makes int8 files look worse than they are.

    Returns:
        `{"dataset", "n", "threat", "protocol", "model": accuracies, "file": accuracies}`, accuracies being
        `{"clean", "robust", "interval"}`.

    Raises:
        See `verification.run.verify`.
    """
    threat = threat or Threat()
    asked: dict[str, Any] = {"data_name": data_name, "image_size": image_size, "threat": threat, "protocol": protocol}
    asked |= {"n": n, "seed": seed, "device": "cpu", "reporter": reporter}
    runs = [verify(model, checkpoint=checkpoint, **asked).run, verify(Path(file), **asked).run]
    found = [{"clean": r["clean_accuracy"], "robust": r["robust_accuracy"], "interval": r["interval"]} for r in runs]
    about = {"dataset": runs[0]["dataset"]["name"], "n": runs[0]["n"], "threat": str(threat), "protocol": protocol}
    return {**about, "model": found[0], "file": found[1]}


def lost(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much of clean and robust accuracy (fractions) is lost."""
    return {name: before[name] - after[name] for name in MAX_LOSS}


def within_budget(losses: Mapping[str, float]) -> bool:
    """Whether losses (see `lost`) are at most `MAX_LOSS`."""
    return all(losses[name] <= allowed + 1e-9 for name, allowed in MAX_LOSS.items())


def latency(
    files: Mapping[str, bytes], form: Form, size: tuple[int, int], *, seconds: float = 1.0, repeats: int = 200
) -> dict[str, Any]:
    """Median and 95th percentile of the time of onnxruntime, in turns, on as many CPU threads as torch is set to.

    Args:
        files: ONNX models by name, all of the same form.
        size: height and width of the images.
        seconds, repeats: at most so long, and so often, for each model and batch size.

    Returns:
        For each name and batch size (1, 32) `{"p50", "p95", "samples"}`, times in seconds, and `threads`.
    """
    threads = torch.get_num_threads()
    sessions = {name: Session(payload, "cpu", threads) for name, payload in files.items()}
    generator = np.random.default_rng(0)
    images = {batch: form.images(generator.integers(0, 256, (batch, *size, 3), np.uint8)) for batch in BATCHES}
    keys = [(name, batch) for name in sessions for batch in BATCHES]
    calls = [lambda s=sessions[name], x=images[batch]: s.logits(x) for name, batch in keys]  # type: ignore[misc]
    samples = measure(calls, Settings(seconds=seconds, repeats=repeats))
    found: dict[str, Any] = {name: {} for name in sessions}
    for (name, batch), each in zip(keys, samples, strict=True):
        found[name][str(batch)] = summary(each)
    return {**found, "threads": threads}
