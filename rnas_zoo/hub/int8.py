"""An int8 file for a release folder: made, attacked, and kept if it costs little accuracy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .. import data
from ..attacks import Threat
from ..deploy.onnx_export import write_model
from ..deploy.quantize import MAX_CLEAN_LOSS, quantize
from ..deploy.shipped import lost, within_budget
from ..engine.progress import Reporter, Silent
from ..errors import UsageError
from ..files import make_readable, write_json
from ..verification import evidence
from ..verification.run import verify
from . import card

FILE = "model.int8.onnx"


def ship_int8(
    folder: str | Path,
    data_name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    threat: Threat | None = None,
    protocol: str = "fast",
    n: int | None = 256,
    seed: int = 0,
    max_clean_loss: float = MAX_CLEAN_LOSS,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Add model.int8.onnx, its evidence and its report (in export.json) to a release folder, and write its card anew.

    What model.safetensors is compared with is evidence of the folder, measured now if it is not there yet.

    The file is calibrated on training images and attacked on test images (see `verification.protocols.stages`). If it
    loses more than half a point of clean or one point of robust accuracy to model.safetensors under the protocol,
    it is left out, and export.json says so.

    Args:
        data_name: the data set that the folder's evidence is about.
        protocol: not `quick`, whose Square attacks the int8 file only: the two would not be comparable.
        max_clean_loss: see `quantize`.

    Returns:
        The report of `quantize`, with `accuracy`: the two accuracies (fractions) of model.safetensors and of the file
        under the protocol, and `kept`.

    Raises:
        UsageError: no release folder with an ONNX file. CheckFailedError: see `quantize`.
    """
    folder, reporter, threat = Path(folder), reporter or Silent(), threat or Threat()
    if not (folder / "config.json").is_file() or not (folder / "export.json").is_file():
        raise UsageError(f"{folder} is no release folder with an ONNX file (config.json, export.json)")
    if protocol == "quick":
        raise UsageError("an int8 file is compared by fast, standard or full: quick attacks it by more than its model")
    dataset = data.load(data_name, image_size)
    asked: dict[str, Any] = {"data_name": data_name, "image_size": image_size, "threat": threat, "n": n, "seed": seed}
    asked |= {"device": "cpu", "reporter": reporter}
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / FILE
        chosen: dict[str, Any] = {"threat": threat, "seed": seed, "max_clean_loss": max_clean_loss}
        report = quantize(folder, file, dataset.train, reporter=reporter, **chosen)
        found = verify(file, protocol=protocol, **asked)
        run = found.run
        before = _same_run(folder, run)
        if before is None:
            measured = verify(folder, protocol=protocol, **asked)
            before = measured.run
            evidence.append(folder, measured.run, measured.verdicts)
        pair = [{"clean": each["clean_accuracy"], "robust": each["robust_accuracy"]} for each in (before, run)]
        losses = lost(*pair)
        about = {"threat": str(threat), "protocol": run["protocol"], "n": run["n"], "model": pair[0], "int8": pair[1]}
        report = {**report, "accuracy": about, "kept": within_budget(losses)}
        if report["kept"]:
            write_model(file.read_bytes(), folder / FILE)
            evidence.append(folder, run, found.verdicts)
        else:
            report = {name: value for name, value in report.items() if name not in ("file", "sha256")}
    exported = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    write_json(folder / "export.json", {**exported, "int8": report})
    card.write(folder)
    make_readable(folder)
    return report


def _same_run(folder: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The folder's evidence on model.safetensors for the same images, threat, protocol and seed."""
    same = ("dataset", "norm", "eps", "protocol", "seed", "n")
    runs = (each for each in evidence.read(folder)[0] if each["subject"]["kind"] == "torch")
    return next((each for each in runs if all(each[key] == run[key] for key in same)), None)
