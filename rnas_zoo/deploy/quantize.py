"""int8 files: static quantization whose settings are chosen by robust accuracy, and what it costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..attacks import PGD, Keys, Threat, pgd
from ..engine.progress import Reporter, Silent
from ..errors import CheckFailedError, UsageError
from ..files import sha256_file
from ..reference import Reference, local_folder
from .form import Form, dress
from .int8_graph import SETTINGS, Setting, quantized
from .metadata import describe, known_facts
from .onnx_export import BATCHES, checked_output, comparison_images, export, network_and_size, write_model
from .runtime import Session
from .shipped import latency
from .twin import twin

if TYPE_CHECKING:
    import onnx

CALIBRATION, SELECTION, ATTACKED = 256, 512, 256  # images
SMALLEST = 32  # images that calibrate or select at least
MAX_CLEAN_LOSS = 0.01
STEPS = 10
AS_FAST = 1.05  # times the float file's time: closer than two timings of one file are


@dataclass(frozen=True)
class Trial:
    """A setting and what the selection images say of it.

    Attributes:
        bytes: size of the file.
        clean: accuracy of the session.
        robust: accuracy on adversarial images made against the float network and through the rounding; None where the
            clean accuracy was too low to go on.
    """

    setting: Setting
    bytes: int
    clean: float
    robust: float | None


def quantize(
    model: Reference,
    out: str | Path,
    images: data.ImageSet,
    *,
    form: Form | None = None,
    threat: Threat | None = None,
    settings: tuple[Setting, ...] = SETTINGS,
    max_clean_loss: float = MAX_CLEAN_LOSS,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    labels: list[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write a model as one int8 .onnx file.

    The first images calibrate, the next ones select: of the settings within the budget of clean accuracy the one that
    is most accurate on adversarial images is kept, among equals the smallest file. Weights are rounded by every
    setting; activations, by QuantizeLinear and DequantizeLinear around every operator, by most.

    Args:
        images: training images of the size the network takes; test images must not be among them.
        threat: of the adversarial images, L∞ 8/255 by default.
        max_clean_loss: fraction of the selection images that may be lost.

    Returns:
        Report: file, sha256, bytes, float_bytes, form, setting, trials, images used, `latency` beside the float32 file
        (see `shipped.latency`), which one is `better`, and on how many of 512 images its class is the float model's.

    Raises:
        CheckFailedError: every setting loses more; nothing is written. UsageError: too few images or another size.
    """
    out, form, threat = checked_output(out, overwrite), form or Form(), threat or Threat()
    if form.precision != "float32":
        raise UsageError("int8 files are made of float32 ones: leave the precision out")
    model = local_folder(model) or model
    network, size = network_and_size(model, checkpoint, images.images)
    reporter = reporter or Silent()
    calibration, selection = _shares(images, size)
    facts = known_facts(model, checkpoint, labels, metadata)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        source = Path(folder) / "float.onnx"
        base = export(network, source, form=Form(opset=form.opset), images=images.images)
        floats = source.read_bytes()
        chooser = _Chooser(network, selection, threat, seed)
        budget = chooser.clean - max_clean_loss
        trials: list[tuple[Trial, onnx.ModelProto]] = []
        reporter.start("quantize", len(settings))
        for setting in settings:
            proto = quantized(source, calibration, setting)
            trials.append((chooser.trial(setting, proto, budget), proto))
            reporter.advance(f"clean {trials[-1][0].clean:.1%}")
    tried = [trial for trial, _ in trials]
    kept = [pair for pair in trials if pair[0].robust is not None]
    if not kept:
        best = max(trial.clean for trial in tried)
        raise CheckFailedError(
            f"this network does not quantize well: its clean accuracy on {len(selection)} images falls from "
            f"{chooser.clean:.1%} to {best:.1%} at best, more than the {max_clean_loss:.1%} allowed "
            "(--max-clean-loss); nothing was written"
        )
    top = max(trial.robust or 0.0 for trial, _ in kept)
    equals = [pair for pair in kept if pair[0].robust == top]
    chosen, proto = min(equals, key=lambda pair: pair[0].bytes)
    times = latency({"float32": floats, "int8": proto.SerializeToString()}, Form(), size)
    dress(proto, form, size)
    describe(proto, network, size, form, facts, precision="int8")
    payload = proto.SerializeToString(deterministic=True)
    same = _agreement(network, payload, comparison_images(images.images, size), form)
    write_model(payload, out)
    return {
        "file": out.name,
        "sha256": sha256_file(out),
        "bytes": len(payload),
        "float_bytes": base["bytes"],
        "opset": form.opset,
        "input": form.input,
        "output": form.output,
        "precision": "int8",
        "resize": form.resize,
        "setting": asdict(chosen.setting),
        "calibration_images": len(calibration),
        "selection": {
            "images": len(selection),
            "attacked": chooser.attacked,
            "threat": str(threat),
            "attack": f"PGD-{STEPS} through the float network and through the rounding",
            "float_clean": chooser.clean,
            "float_robust": chooser.robust,
            "clean": chosen.clean,
            "robust": chosen.robust,
        },
        "trials": [{**asdict(trial.setting), **_without_setting(trial)} for trial in tried],
        "latency": times,
        "better": _better(base["bytes"], len(payload), times),
        **same,
    }


def _better(before: int, after: int, times: Mapping[str, Any]) -> str:
    """Which of the two files to take, in words."""
    size = f"int8 has {after / before:.2f} times the size"
    ratio = times["int8"]["1"]["p50"] / times["float32"]["1"]["p50"]
    if ratio <= AS_FAST:
        return f"int8 ({size} and takes {ratio:.2f} times the time at batch 1)"
    return f"float32, unless size counts ({size} but takes {ratio:.2f} times the time at batch 1)"


class _Chooser:
    """What the selection images say of a quantized graph, beside the float network."""

    def __init__(self, network: torch.nn.Module, images: data.ImageSet, threat: Threat, seed: int) -> None:
        self.images, self.threat, self.seed = images, threat, seed
        self.attacked = min(ATTACKED, len(images))
        self._x = data.to_pixels(images.images[: self.attacked])
        self._y = torch.from_numpy(images.labels[: self.attacked])
        with torch.no_grad():
            classes = torch.cat([network(part) for part in data.to_pixels(images.images).split(64)]).argmax(1)
        self.clean = float((classes.numpy() == images.labels).mean())
        self._found = self._attack(network)
        with torch.no_grad():
            self.robust = float((network(self._found).argmax(1) == self._y).float().mean())

    def _attack(self, network: torch.nn.Module) -> Tensor:
        keys = Keys(self.seed, torch.arange(len(self._y)))
        return pgd(network, self._x, self._y, self.threat, PGD(steps=STEPS), keys).x_adv

    def trial(self, setting: Setting, proto: onnx.ModelProto, budget: float) -> Trial:
        payload = proto.SerializeToString(deterministic=True)
        session = Session(payload, "cpu", torch.get_num_threads())

        def right(x: np.ndarray) -> np.ndarray:
            return session.logits(x).argmax(1) == self.images.labels[: len(x)]

        clean = right(Form().images(self.images.images))
        if clean.mean() < budget - 1e-9:
            return Trial(setting, len(payload), float(clean.mean()), None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            path.write_bytes(payload)
            own = self._attack(twin(path))
        standing = clean[: self.attacked] & right(self._found.numpy()) & right(own.numpy())
        return Trial(setting, len(payload), float(clean.mean()), float(standing.mean()))


def _shares(images: data.ImageSet, size: tuple[int, int]) -> tuple[np.ndarray, data.ImageSet]:
    """Images that calibrate, and those that select; of a small set two thirds select."""
    if images.images.shape[1:3] != size:
        found = "x".join(map(str, images.images.shape[1:3]))
        raise UsageError(f"the images are {found}, the model takes {size[0]}x{size[1]}: give --image-size")
    first = min(CALIBRATION, len(images) // 3)
    if first < SMALLEST:
        raise UsageError(f"int8 needs at least {3 * SMALLEST} training images, got {len(images)}")
    rest = images.take(np.arange(first, min(first + SELECTION, len(images))))
    return images.images[:first], rest


def _agreement(network: torch.nn.Module, payload: bytes, pixels: np.ndarray, form: Form) -> dict[str, Any]:
    """On how many images uint8 (N, H, W, 3) the finished file has the float network's class.

    Raises:
        CheckFailedError: its outputs are not finite, or it cannot take other batch sizes.
    """
    session = Session(payload, "cpu", torch.get_num_threads())
    with torch.no_grad():
        wanted = torch.cat([network(part) for part in data.to_pixels(pixels).split(64)])
    for batch in BATCHES:
        found = session.logits(form.images(pixels[:batch]))
        if found.shape != wanted[:batch].shape or not np.isfinite(found).all():
            raise CheckFailedError(f"the int8 model fails at batch {batch}: outputs {found.shape}; nothing was written")
    classes = session.logits(form.images(pixels)).argmax(1)
    return {"images": len(pixels), "same_class": int((classes == wanted.argmax(1).numpy()).sum())}


def _without_setting(trial: Trial) -> dict[str, Any]:
    return {"bytes": trial.bytes, "clean": trial.clean, "robust": trial.robust}
