"""The whole line on scikit-learn's handwritten digits: search → train → ONNX → evidence → release folder → table."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm

from . import data
from .attacks import Threat
from .deploy.runtime import Session
from .drawing.curves import draw_curve
from .drawing.genotypes import draw_genotype
from .engine.progress import Reporter
from .errors import CheckFailedError, DataError, InterruptedRunError
from .files import write_json, write_text
from .genotype import Genotype
from .hub import card
from .hub.release import package
from .models.size import count_macs, count_parameters
from .reference import load
from .searching.config import SearchConfig
from .searching.run import search
from .training.config import TrainConfig
from .training.run import train
from .verification import evidence
from .verification.run import verify

# At 16/255 the perturbation is still faint on these high-contrast 8x8 digits scaled to 32x32, yet a network trained
# normally loses most of its accuracy; at 8/255 it would keep half of it, at 32/255 strokes begin to drown.
THREAT = Threat("linf", "16/255")  # type: ignore[arg-type]
LAYERS, STEM = 4, "cifar_stride2"
MAX_MACS = 2_000_000
LEAST_ADVANTAGE = 0.20
TEST_IMAGES, AUTOATTACK_IMAGES = 256, 32
SHARES = {"search": 0.45, "robust": 0.42, "control": 0.13}

SEARCH = SearchConfig(
    data="digits",
    eps=THREAT.eps_text,
    attack_steps=1,
    warmup=0.2,
    channels=4,
    layers=3,
    stem=STEM,
    batch_size=32,
    # Adam moves α by about its learning rate a step; the papers' 3e-4 is meant for thousands of steps, not a hundred.
    arch_learning_rate=2e-2,
)


def width_for(found: Genotype, max_macs: int) -> int:
    """The largest number of channels whose network stays within `max_macs`."""
    channels = 2
    while _macs(found, channels + 1) <= max_macs:
        channels += 1
    return channels


def _macs(found: Genotype, channels: int) -> int:
    return count_macs(timm.create_model("rnas_cells", genotype=found, channels=channels, layers=LAYERS, stem=STEM))


def run(out: Path, *, seconds: float, reporter: Reporter) -> dict[str, Any]:
    """Run what is not done yet of the demo in folder `out`; returns its summary.

    Args:
        seconds: for search and the two trainings together; exporting and verifying come on top.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM; the same call continues.
        CheckFailedError: the robust network is not at least 20 points better than the control.
    """
    finished = out / "summary.json"
    if finished.is_file():
        return _read_summary(finished)
    try:
        return _run(out, seconds, reporter)
    except InterruptedRunError as error:
        raise InterruptedRunError("stopped; the same command continues where it was", error.exit_code - 128) from error


def _run(out: Path, seconds: float, reporter: Reporter) -> dict[str, Any]:
    begin = time.monotonic()
    reporter.say("1/4 searching a cell on the digits (adversarial DARTS)")
    found = search(
        SEARCH, out / "found.json", resume=True, fit_seconds=seconds * SHARES["search"], device="cpu", reporter=reporter
    )
    draw_genotype(found, out / "cells.png")
    channels = width_for(found, MAX_MACS)
    robust = TrainConfig(
        architecture="rnas_cells",
        model_args={"genotype": found.to_json(), "channels": channels, "layers": LAYERS, "stem": STEM},
        data="digits",
        objective="pgd",
        eps=THREAT.eps_text,
        attack_steps=3,
        batch_size=64,
    )
    for number, name, config in ((2, "robust", robust), (3, "control", replace(robust, objective="clean"))):
        kind = "adversarially (PGD-3)" if name == "robust" else "normally, as the control"
        reporter.say(f"{number}/4 training the found network {kind}")
        train(
            config,
            out / f"{name}.run",
            resume=True,
            fit_seconds=seconds * SHARES[name],
            device="cpu",
            reporter=reporter,
            name=f"train {name}",
        )
    reporter.say("4/4 packaging: weights, ONNX, attacks on both, pictures, card")
    models = {name: _release(out, name, reporter) for name in ("robust", "control")}
    curves = {name: json.loads((out / name / "figures" / "curve.json").read_text(encoding="utf-8")) for name in models}
    series = {
        label: [(eps * 255, accuracy) for eps, accuracy in next(iter(curves[name].values()))]
        for name, label in (("robust", "adversarially trained"), ("control", "normally trained"))
    }
    draw_curve(series, out / "curve.png", title="Accuracy against ε: one network, trained two ways")
    summary = {"schema": 1, "threat": str(THREAT), "models": models, "seconds": round(time.monotonic() - begin, 1)}
    advantage = models["robust"]["pgd20"] - models["control"]["pgd20"]
    if advantage < LEAST_ADVANTAGE:
        raise CheckFailedError(
            f"the robust network is only {100 * advantage:.1f} points better than the control under PGD-20; "
            f"remove {out} and give --time-budget more time"
        )
    write_json(out / "summary.json", summary)
    return summary


def _release(out: Path, name: str, reporter: Reporter) -> dict[str, Any]:
    """The release folder of one network, and its row of the table."""
    folder = out / name
    if not folder.exists():
        package(
            out / f"{name}.run",
            folder,
            threat=THREAT,
            n=TEST_IMAGES,
            with_limits=False,
            device="cpu",
            reporter=reporter,
        )
    runs = {(run["subject"]["kind"], run["protocol"]): run for run in evidence.read(folder)[0]}
    if ("torch", "standard") not in runs:
        reporter.say(f"    AutoAttack on {AUTOATTACK_IMAGES} images of the {name} network")
        report = verify(
            folder,
            data_name="digits",
            threat=THREAT,
            protocol="standard",
            n=AUTOATTACK_IMAGES,
            resume=out / f"{name}.autoattack",
            device="cpu",
            reporter=reporter,
        )
        evidence.append(folder, report.run, report.verdicts)
        write_text(folder / "README.md", card.render(folder))
        runs["torch", "standard"] = report.run
    network = load(folder)
    export = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    torch_run, onnx_run, standard = runs["torch", "quick"], runs["onnx", "quick"], runs["torch", "standard"]

    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network),
        "clean": torch_run["clean_accuracy"],
        "pgd20": evidence.accuracy_under(torch_run, "pgd20"),
        "robust": torch_run["robust_accuracy"],
        "interval": torch_run["interval"],
        "pgd20_onnx": evidence.accuracy_under(onnx_run, "pgd20"),
        "autoattack": standard["robust_accuracy"],
        "autoattack_interval": standard["interval"],
        "autoattack_images": standard["n"],
        "images": torch_run["n"],
        "onnx_parity": max(export["parity"].values()),
        "onnx_ms_per_image": onnx_milliseconds(folder / "model.onnx"),
    }


def onnx_milliseconds(path: Path, repeats: int = 50) -> float:
    """Median milliseconds for one image on the CPU with one thread."""
    session = Session(path, provider="cpu", threads=1)
    image = data.load("digits").test.images[:1].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    session.logits(image)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        session.logits(image)
        times.append(time.perf_counter() - begin)
    return round(1000 * float(np.median(times)), 3)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["models"]["robust"], summary["models"]["control"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); remove {path.parent} and run the demo again") from error
    return summary


def render(summary: dict[str, Any], out: Path) -> str:
    """The closing table, and what to type next."""
    robust, control = summary["models"]["robust"], summary["models"]["control"]
    threat = summary["threat"]

    def row(label: str, show: Any) -> str:
        return f"{label:<34}{show(robust):>18}{show(control):>18}"

    lines = [
        f"{'':<34}{'robust (PGD-3)':>18}{'control (clean)':>18}",
        "-" * 70,
        row("parameters", lambda m: f"{m['parameters']:,}"),
        row("multiply-accumulates per image", lambda m: f"{m['macs']:,}"),
        row("clean accuracy", lambda m: f"{100 * m['clean']:.1f} %"),
        row(f"under PGD-20, {threat}", lambda m: f"{100 * m['pgd20']:.1f} %"),
        row("  the same, on the ONNX file", lambda m: f"{100 * m['pgd20_onnx']:.1f} %"),
        row("noise, FGSM and PGD-20 together", lambda m: f"{100 * m['robust']:.1f} %"),
        row("  its 95 % interval", lambda m: f"{100 * m['interval'][0]:.0f} to {100 * m['interval'][1]:.0f} %"),
        row(
            f"AutoAttack, first {robust['autoattack_images']} images",
            lambda m: f"{100 * m['autoattack']:.1f} %",
        ),
        row(
            "  its 95 % interval",
            lambda m: "{:.0f} to {:.0f} %".format(*(100 * bound for bound in m["autoattack_interval"])),
        ),
        row("ONNX: logits differ from torch by", lambda m: f"{m['onnx_parity']:.0e}"),
        row("ONNX: ms per image, one thread", lambda m: f"{m['onnx_ms_per_image']:.2f}"),
        "",
        f"First {robust['images']} test images of the digits; {summary['seconds']:.0f} s in this session.",
        "PGD-20 and AutoAttack give upper bounds: stronger attacks may lower the robust accuracy.",
        f"Look at: {out}/curve.png, {out}/cells.png, {out}/robust/figures/adversarial.png, {out}/robust/README.md",
        "Type next:",
        f"  rnas-zoo verify {out}/robust --against-card --protocol quick",
        f"  rnas-zoo verify {out}/robust --data digits --eps 8/255,16/255,24/255 --protocol fast --n 64",
        f"  rnas-zoo verify {out}/control/model.onnx --data digits --eps 16/255 --protocol quick",
        "  rnas-zoo list",
        "  rnas-zoo draw rnas_arnas -o arnas.svg",
    ]
    return "\n".join(lines)
