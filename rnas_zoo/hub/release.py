"""Release folders: a trained run becomes weights, genotype, recipe, ONNX file, evidence, pictures and a card."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import data, genotype
from ..attacks import Threat
from ..deploy.onnx_export import export
from ..engine import config as configuration
from ..engine.device import resolve_device
from ..engine.progress import Reporter, Silent
from ..engine.record import finished_training
from ..errors import UsageError
from ..files import atomic_folder, exclusive, make_readable, sha256_file, write_json, write_text
from ..models.base import PixelNet
from ..models.weights import DIGEST_NOTE, tensor_digest
from ..reference import as_logits, load_weights, read_tensors, subject
from ..training.config import TrainConfig, build_model, recipe_text
from ..verification import evidence
from ..verification.limits import limits
from ..verification.run import Report, verify
from . import card, figures, twin
from .int8 import ship_int8
from .sections import LABELS, LIMITS, TRAINING

CHECK_IMAGES = 64


def tag_of(config: TrainConfig) -> str:
    """`<objective>_<dataset>_<norm><eps>`, or `clean_<dataset>` for standard training.

    A data set brought to another size is `<dataset>-64`.
    """
    dataset = data.base_name(config.data).replace(".", "-")
    if config.image_size is not None:
        dataset += f"-{data.spelled(config.image_size)}"
    if config.objective == "clean":
        return f"clean_{dataset}"
    return f"{config.objective}_{dataset}_{config.norm}{config.threat.eps_text.removesuffix('/255').replace('.', 'p')}"


def shipped_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: tensors of two or more dimensions in fp16, statistics and vectors as they are."""
    return {
        name: (tensor.half() if tensor.ndim >= 2 and tensor.dtype == torch.float32 else tensor).contiguous()
        for name, tensor in state.items()
    }


def package(
    run: str | Path,
    out: str | Path,
    *,
    threat: Threat | None = None,
    protocol: str = "quick",
    onnx_protocol: str | None = None,
    n: int | None = 256,
    seed: int = 0,
    with_onnx: bool = True,
    with_int8: bool = False,
    with_limits: bool = True,
    limits_protocol: str = "quick",
    sizes: Sequence[float | str] = (),
    sizes_protocol: str = "fast",
    overwrite: bool = False,
    device: str | torch.device = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Build a release folder from a finished training run.

    Everything is measured on the files that are shipped: weights are rounded first, reloaded, then attacked, and the
    ONNX file is attacked as well, each by protocol `quick` and then by a stronger one if asked for. The folder appears
    only when it is complete; until then `OUT.work` keeps what has been measured, and the same call goes on from there.

    Args:
        run: folder of a finished `train` run.
        out: the release folder.
        threat: the run's own by default.
        protocol: how robust accuracy is measured: `quick`, `fast`, `standard` or `full` (see `verify`).
        onnx_protocol: of the ONNX file; that of the weights by default.
        n: test images, the first in official order; None takes all.
        seed: keys the attacks' draws.
        with_onnx: make model.onnx and attack it too.
        with_int8: also make an int8 file and keep it if it costs little accuracy (see `int8.ship_int8`).
        with_limits: also measure on the same images what the model is not robust to (`verification.limits`), by the
            attacks of `limits_protocol`.
        sizes: further ε of the threat's norm that the weights are attacked with on the same images, by
            `sizes_protocol`; the threat's own is left out.
        overwrite: `out` may be there already.
        device: where it is measured; `auto` takes a GPU if there is one.
        reporter: hears of stages and their progress; silent by default.

    Returns:
        name, folder, and the evidence runs.

    Raises:
        CheckpointError: no finished training run.
        OutputExistsError: `out` exists and `overwrite` is false.
        OutputNotWritableError: another process packages to `out`, or it cannot be written.
    """
    reporter = reporter or Silent()
    info = finished_training(run)
    config = configuration.from_dict(TrainConfig, info["config"], f"{run}/run.json")
    threat, device = threat or config.threat, resolve_device(device)
    dataset = data.load(config.data, config.image_size)
    name, work = f"{config.architecture}.{tag_of(config)}", Path(f"{out}.work")
    with atomic_folder(out, overwrite=overwrite) as folder, _workplace(work):
        found = _write_model(Path(run), config, dataset, name, folder)
        write_text(folder / "recipe.toml", recipe_text(config))
        write_json(folder / TRAINING, training_cost(info))
        if found:
            write_text(folder / "genotype.json", found.dumps())
        options: dict[str, Any] = {
            "data_name": config.data,
            "image_size": config.image_size,
            "threat": threat,
            "n": n,
            "seed": seed,
            "device": device,
            "reporter": reporter,
        }
        shipped = replace(subject(folder, device=device), name=name)
        report = _verified(folder, shipped, ("quick", protocol), work, options)
        for eps in sizes:
            if (other := Threat(threat.norm, eps)).eps_text != threat.eps_text:
                _verified(folder, shipped, (sizes_protocol,), work, {**options, "threat": other})
        test = dataset.test.take(np.arange(report.run["n"]))
        _write_check(folder, shipped, test, report)
        if with_onnx:
            reporter.say("exporting to ONNX")
            report_onnx = export(
                folder,
                folder / "model.onnx",
                labels=list(dataset.classes),
                images=test.images,
                metadata={"threat_model": str(threat), "model": name, "dataset": dataset.name},
            )
            write_json(folder / "export.json", report_onnx)
            _verified(folder, folder / "model.onnx", ("quick", onnx_protocol or protocol), work, options)
        drawn = figures.draw(folder, shipped, found, test, report, threat, dataset.classes, device)
        labels, called = dataset.test.labels.astype(np.uint16), report.run["dataset"]["name"]
        np.savez_compressed(folder / LABELS, labels=labels, dataset=np.array(called))
        if with_limits:
            asked: dict[str, Any] = {"protocol": limits_protocol, "seed": seed, "device": device, "reporter": reporter}
            measured = limits(shipped, test, threat, **asked)
            described = {"norm": threat.norm, "protocol": "quick", "n": drawn}
            write_json(folder / LIMITS, {**measured, "curve": described})
        if beside := twin.find(folder):
            twin.attach(folder, beside)
        if with_onnx and with_int8:
            reporter.say("rounding to int8")
            said = {name: value for name, value in options.items() if name != "device"}
            ship_int8(folder, **said)
        card.write(folder)
        make_readable(folder)
    shutil.rmtree(work, ignore_errors=True)
    runs, _ = evidence.read(out)
    return {"name": name, "folder": str(out), "runs": runs}


@contextmanager
def _workplace(work: Path) -> Iterator[None]:
    """Hold the folder of what has been measured so far; it is left only where it holds something."""
    with exclusive(work, wait=False):
        try:
            yield
        finally:
            with suppress(OSError):
                work.rmdir()


def _verified(folder: Path, shipped: Any, protocols: Sequence[str], work: Path, options: dict[str, Any]) -> Report:
    """Evidence by each protocol, appended to the folder's; the last report."""
    file = shipped if isinstance(shipped, Path) else folder / "model.safetensors"
    weights = sha256_file(file)
    for each in dict.fromkeys(protocols):
        asked = f"{weights} {each} {options['threat']} {options['n']} {options['seed']}"
        pieces = work / f"{file.name}-{each}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
        report = verify(shipped, protocol=each, resume=pieces, **options)
        evidence.append(folder, report.run, report.verdicts)
    return report


def training_cost(info: Mapping[str, Any]) -> dict[str, Any]:
    """What training cost, from a run's run.json: `seconds` on the clock, `cpu_seconds` (first process),
    `device`, `processes`, `threads` of the CPU, `steps`, and `image_passes` (forward and backward ones of images
    through the network). None stands for what the run did not count.
    """
    return {
        "seconds": info["seconds"],
        "cpu_seconds": info.get("cpu_seconds"),
        "device": info["device"],
        "processes": info.get("processes", 1),
        "threads": info.get("torch_threads"),
        "steps": info["steps_done"],
        "image_passes": info.get("image_passes"),
    }


def _write_model(
    run: Path, config: TrainConfig, dataset: data.Dataset, name: str, folder: Path
) -> genotype.Genotype | None:
    """config.json and model.safetensors; returns the network's genotype, None for a teacher."""
    built: Any = build_model(replace(config, drop_path=0.0), dataset.num_classes)
    load_weights(built, run / "model.safetensors", config.architecture)
    found = getattr(built, "genotype", None)
    if not isinstance(built, PixelNet):
        raise UsageError(f"{config.architecture} is no searched architecture and no teacher of this package")
    network: Any = built
    tensors = shipped_tensors(network.state_dict())
    height, width = dataset.image_size
    with torch.no_grad():
        pooled = network.eval().forward_features(torch.zeros(1, 3, height, width)).shape[2:]
    network.pretrained_cfg = {
        **network.pretrained_cfg,
        "tag": name.partition(".")[2],
        "num_classes": dataset.num_classes,
        "input_size": (3, height, width),
        "pool_size": tuple(pooled),
        "notes": (DIGEST_NOTE + tensor_digest(tensors),),
    }
    arguments = {**config.model_args, **({"genotype": found.to_json()} if found else {})}
    timm.models.save_for_hf(
        network,
        str(folder),
        model_config={"label_names": list(dataset.classes), "rnas_zoo": {"name": name, "dataset": dataset.name}},
        model_args=arguments,
        safe_serialization=True,
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    read_tensors(folder / "model.safetensors")
    return found


def _write_check(folder: Path, shipped: Any, test: data.ImageSet, report: Report) -> None:
    """check.npz: clean images, their adversarial twins rounded to 8 bits, labels, and golden logits of both."""
    k = min(CHECK_IMAGES, len(test))
    arrays = {"images": test.images[:k], "adversarial": np.rint(report.x_adv[:k].transpose(0, 2, 3, 1) * 255)}
    arrays = {name: images.astype(np.uint8) for name, images in arrays.items()}
    for name, images in (("logits", arrays["images"]), ("adversarial_logits", arrays["adversarial"])):
        pixels = images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        arrays[name] = as_logits(shipped, np.ascontiguousarray(pixels))
    np.savez_compressed(folder / "check.npz", **arrays, labels=test.labels[:k])
