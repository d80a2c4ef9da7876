"""Whether the files of a release folder are what they say; nothing is attacked in here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data
from ..arrays import read_arrays
from ..deploy.runtime import Session
from ..errors import CheckFailedError, DataError, OnnxFileError
from ..files import sha256_file
from ..models.weights import declared_digest, tensor_digest
from ..reference import load, read_tensors
from . import evidence
from .replay import replay

TOLERANCE = 1e-3


def check_files(folder: str | Path) -> list[str]:
    """What refutes a release folder by itself, in words; empty if its files are what they say.

    Checked are the tensors against the declared digest, the subjects of all evidence and export.json against the files,
    all evidence against its own records, and on the images of check.npz the golden logits and the ONNX file against
    the network: they may differ by 1e-3 times the largest golden logit (at least 1). The network must also answer the
    stored adversarial twins as recorded, and these may break no more images that are called robust than `replay`
    allows. Files that are absent, and the logits of int8 files, are not compared.

    Raises:
        DataError, WeightsError, OnnxFileError: no release folder, or a file that cannot be read.
    """
    folder = Path(folder)
    config = _json(folder / "config.json")
    problems = []
    tensors = read_tensors(folder / "model.safetensors")
    declared, found = declared_digest(config.get("pretrained_cfg") or {}), tensor_digest(tensors)
    intact = declared in (None, found)
    if not intact:
        problems.append(f"model.safetensors holds other tensors: digest {found[:12]}, declared is {str(declared)[:12]}")
    runs, verdicts = evidence.read(folder)
    stated = [("robustness.json", run["subject"]) for run in runs]
    if (folder / "export.json").is_file():
        export = _json(folder / "export.json")
        stated += [("export.json", part) for part in (export, *export.values()) if isinstance(part, dict)]
    for where, part in stated:
        path = folder / Path(str(part.get("file"))).name
        if path.is_file() and part.get("sha256") not in (None, sha256_file(path)):
            problems.append(f"{path.name} is not the file of {where}: its sha256 is {sha256_file(path)[:12]}")
    for run, table in zip(runs, verdicts, strict=True):
        try:
            evidence.check(run, table)
        except CheckFailedError as error:
            problems.append(f"{run['subject']['kind']} {run['protocol']}: {error}")
    if (folder / "check.npz").is_file():
        quantized = {run["subject"]["file"] for run in runs if run["subject"]["kind"] == "int8"}
        problems += _golden(folder, network := load(folder) if intact else None, quantized)
        problems += _replayed(folder, network, runs, verdicts) if network is not None else []
    return list(dict.fromkeys(problems))


def _golden(folder: Path, network: Any, quantized: set[str]) -> list[str]:
    """Logits of the network (None: not to be trusted) and of the ONNX files that differ from the golden ones."""
    pack = _pack(folder, "images", "logits")
    images, golden = pack["images"], pack["logits"]
    tolerance = TOLERANCE * _largest(golden)
    problems, reference, of = [], golden, "check.npz"
    if network is not None:
        reference, of = _answers(network, images), "the network"
        problems += _differ(of, reference, golden, "check.npz", tolerance)
    for path in sorted(folder.glob("*.onnx")):
        if path.name in quantized or ".int8" in path.suffixes:
            continue
        try:
            logits = Session(path, "cpu").answers(images)
        except Exception as error:  # onnxruntime has no common base of its errors
            raise OnnxFileError(f"{path} cannot be run: {str(error).partition(chr(10))[0]}") from error
        problems += _differ(path.name, logits, reference, of, tolerance)
    return problems


def _replayed(
    folder: Path, network: Any, runs: list[dict[str, Any]], verdicts: list[dict[str, np.ndarray]]
) -> list[str]:
    """What the network's answers to the adversarial twins contradict."""
    pack = _pack(folder, "images", "adversarial", "labels")
    logits = _answers(network, pack["adversarial"])
    problems = replay(pack["images"], pack["adversarial"], pack["labels"], logits, runs, verdicts)
    if (golden := pack.get("adversarial_logits")) is not None:  # older packs have none
        of = "check.npz on its adversarial images"
        problems += _differ("the network", logits, golden, of, TOLERANCE * _largest(golden))
    return problems


def _pack(folder: Path, *needed: str) -> dict[str, np.ndarray]:
    try:
        arrays = read_arrays(folder / "check.npz")
        for name in {"logits", "adversarial_logits"} & arrays.keys():
            if arrays[name].dtype.kind != "f" or arrays[name].ndim != 2:
                raise ValueError(f"{name} are {arrays[name].dtype} {arrays[name].shape}")
        for name in needed:
            array = arrays[name]
            if name in ("images", "adversarial") and (
                array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not len(array)
            ):
                raise ValueError(f"{name} are {array.dtype} {array.shape}")
            if name == "labels":
                classes = arrays["logits"].shape[1]
                if array.shape != arrays["images"].shape[:1] or ((array < 0) | (array >= classes)).any():
                    raise ValueError(f"labels are {array.shape}, for {classes} classes")
                arrays[name] = array.astype(np.int64)
            if name == "adversarial" and array.shape != arrays["images"].shape:
                raise ValueError(f"adversarial images are {array.shape}, the clean ones {arrays['images'].shape}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{folder / 'check.npz'}: damaged ({error!r}); download it again") from error
    return arrays


def _answers(network: Any, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(data.to_pixels(images)).float().numpy()


def _largest(golden: np.ndarray) -> float:
    """The largest finite logit, at least 1."""
    return float(np.abs(golden[np.isfinite(golden)]).max(initial=1))


def _differ(name: str, logits: np.ndarray, wanted: np.ndarray, of: str, tolerance: float) -> list[str]:
    if logits.shape != wanted.shape:
        return [f"{name} gives logits of shape {logits.shape}, those of {of} are {wanted.shape}"]
    difference = float(np.abs(logits - wanted).max())
    if difference <= tolerance:
        return []
    return [f"{name} differs by {difference:.3g} from {of}, at most {tolerance:.3g} is rounding"]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is no release folder: it has no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no readable JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object; download it again")
    return value
