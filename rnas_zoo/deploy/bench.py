"""How long models take: torch and onnxruntime measured in turns in one process, once their answers agree."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from .. import __version__
from ..engine.device import resolve_device
from ..engine.progress import Reporter, Silent
from ..errors import CheckFailedError, UnknownNameError, UsageError, closest
from .contestants import BATCHES, Model, Settings, of_network, pictures, resolve

BASELINES = ("resnet18", "mobilenetv3_small_050")
TOLERANCES = {"cpu": 1e-3, "cuda": 2e-2}  # on CUDA both sides round to TF32, ten bits of mantissa
ROUNDS = 10
SETTLE = 0.02  # seconds: longer than the threads of the contestant before keep a core busy


def bench(
    refs: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    baselines: Sequence[str] = BASELINES,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Latency of models in torch and onnxruntime, beside timm's, on as many threads as torch is set to.

    Args:
        refs: references of `reference.load`; a name without weights is measured untrained, that of a bundled release
            by its files. A release folder brings model.onnx, model.int8.onnx and its evidence; of other networks a
            graph is exported in memory. An .onnx file competes by itself.
        baselines: timm names, measured untrained with the first model's image size and number of classes.

    Returns:
        The report of `compete`.

    Raises:
        CheckFailedError: see `compete`.
        UnknownNameError, WeightsError, OnnxFileError, ProviderError, ImageSizeError, DataError, UsageError: a model,
            its files, its evidence or a setting that cannot be used.
    """
    settings, news = settings or Settings(), reporter or Silent()
    device = resolve_device(settings.device)
    if device.index:
        raise UsageError(f"bench takes the first CUDA device: CUDA_VISIBLE_DEVICES={device.index} and --device cuda")
    if not refs:
        raise UsageError("bench needs at least one model")
    for name in baselines:
        if not timm.is_model(name):
            raise UnknownNameError(f"unknown baseline {name!r}.{closest(name, timm.list_models())} It is no timm name.")
    models = []
    for ref in refs:
        news.say(f"preparing {ref}")
        models.append(resolve(ref, settings))
    first, size = models[0].contestants[0], models[0].image_size
    classes = first.call(first.prepare(pictures(1, size))).shape[1]
    for name in baselines:
        news.say(f"preparing {name}, untrained")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(name, num_classes=classes).eval()
        models.append(of_network(name, network, settings, size, untrained=True))
    return compete(models, settings, reporter=news)


def compete(
    models: Sequence[Model],
    settings: Settings,
    *,
    clock: Callable[[], float] = time.perf_counter,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare the contestants' logits, then measure them in turns.

    Returns:
        `{"device", "threads", "cpu_share", "seconds", "repeats", "batches", "versions", "models": [{"model",
        "untrained", "image_size", "parameters", "macs", "runs": [run, …]}, …]}`; a run is `{"runtime", "bytes",
        "accuracy", "difference", "latency": {"1": {"p50", "p95", "samples"}, "32": …}, "images_per_second",
        "speedup", "note"}`, times in seconds. `cpu_share` is the CPU time of this process in a second of measuring:
        below 1, others had their share, and times contain waiting. `difference` is the largest one to a logit of
        torch's, `images_per_second` follows from the median at the largest batch, `speedup` is torch's median over
        this one at batch 1. What there is not is None; a runtime that cannot run a model has the reason as its `note`.

    Raises:
        CheckFailedError: a contestant that claims to be torch's function is not.
    """
    news, device = reporter or Silent(), resolve_device(settings.device).type
    differences = [compare(model, TOLERANCES[device]) for model in models]
    calls: list[Callable[[], object]] = []
    for model in models:
        for contestant in model.contestants:
            for batch in BATCHES:
                images = contestant.prepare(pictures(batch, model.image_size))
                calls.append(lambda call=contestant.call, images=images: call(images))  # type: ignore[misc]
    news.start("measuring", min(ROUNDS, settings.repeats) * len(calls))
    begin, computed = time.perf_counter(), time.process_time()
    samples = iter(measure(calls, settings, clock, news.advance))
    share = (time.process_time() - computed) / (time.perf_counter() - begin)
    found = [
        {
            "model": model.name,
            "untrained": model.untrained,
            "image_size": list(model.image_size),
            "parameters": model.parameters,
            "macs": model.macs,
            "runs": _runs(model, difference, samples),
        }
        for model, difference in zip(models, differences, strict=True)
    ]
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "cpu_share": share if device == "cpu" else None,
        "seconds": settings.seconds,
        "repeats": settings.repeats,
        "batches": list(BATCHES),
        "versions": _versions(),
        "models": found,
    }


def _runs(model: Model, difference: dict[str, float], samples: Iterator[Sequence[float]]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for contestant in model.contestants:
        latency = {str(batch): summary(next(samples)) for batch in BATCHES}
        single, largest = (latency[str(batch)]["p50"] for batch in (BATCHES[0], BATCHES[-1]))
        if contestant is model.contestants[0]:
            eager = single if contestant.runtime == "torch" else None
        runs.append(
            {
                "runtime": contestant.runtime,
                "bytes": contestant.bytes,
                "accuracy": contestant.accuracy,
                "difference": difference.get(contestant.runtime),
                "latency": latency,
                "images_per_second": BATCHES[-1] / largest,
                "speedup": eager / single if eager else None,
                "note": None,
            }
        )
    nothing = dict.fromkeys(runs[0])
    return runs + [{**nothing, "runtime": runtime, "note": reason} for runtime, reason in model.failed.items()]


def compare(model: Model, tolerance: float) -> dict[str, float]:
    """The largest difference of each contestant's logits to those of torch, over all batch sizes, by runtime.

    Raises:
        CheckFailedError: one that claims to be exact differs by more than `tolerance` (of the largest logit, or of 1).
    """
    first, *others = model.contestants
    found: dict[str, float] = {}
    if first.runtime != "torch":
        return found
    for batch in BATCHES:
        images = pictures(batch, model.image_size)
        wanted = first.call(first.prepare(images))
        for other in others:
            logits = other.call(other.prepare(images))
            error = float(np.abs(logits - wanted).max()) if logits.shape == wanted.shape else math.inf
            if other.exact and not error <= tolerance * max(1.0, float(np.abs(wanted).max())):
                raise CheckFailedError(
                    f"{model.name}: at batch {batch} the logits of {other.runtime} differ from torch's by {error:.3g} "
                    f"(allowed {tolerance:g}): they are two models, whose times say nothing about each other. Export "
                    "the model again"
                )
            found[other.runtime] = max(error, found.get(other.runtime, 0.0))
    return found


def measure(
    calls: Sequence[Callable[[], object]],
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds that each call took, again and again: the calls take turns, so that a machine that slows down slows all.

    A turn begins with calls that are not counted, at least one.
    """
    rounds = min(ROUNDS, settings.repeats)
    share = settings.seconds / rounds
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(1, rounds + 1):
        due = math.ceil(settings.repeats * number / rounds)
        for call, own in zip(calls, samples, strict=True):
            begin = clock()
            call()
            while clock() - begin < min(SETTLE, share):
                call()
            spent = 0.0
            while len(own) < due and spent < share:
                begin = clock()
                call()
                own.append(clock() - begin)
                spent += own[-1]
            advance()
    return samples


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (linearly interpolated) and number of samples."""
    p50, p95 = np.percentile(samples, [50, 95])
    return {"p50": float(p50), "p95": float(p95), "samples": len(samples)}


def _versions() -> dict[str, str]:
    import onnxruntime

    return {
        "rnas_zoo": __version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
