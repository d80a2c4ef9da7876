"""The ways to run a model that `bench` lets compete: torch, torch.compile, and onnxruntime on its files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..engine.device import resolve_device
from ..errors import ImageSizeError, UsageError
from ..files import sha256_file
from ..hub import results
from ..hub.client import is_hub
from ..hub.sections import threat_name
from ..models.pixels import declared_image_size
from ..models.size import count_macs, count_parameters
from ..reference import load, local_folder
from ..subject_onnx import onnx_kind, onnx_network
from ..verification import evidence
from .graph import to_onnx
from .metadata import is_untrained, release_of
from .runtime import Session
from .session_errors import translated

BATCHES = (1, 32)
RUNTIMES = {"float32": "onnxruntime", "float16": "onnxruntime fp16", "int8": "onnxruntime int8"}

Size = tuple[int, int]
Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What is measured, and how long.

    Attributes:
        seconds: time for one cell (a model, a runtime, a batch size); ten calls are timed in any case.
        repeats: the most calls timed for one cell.
        compile: let torch.compile compete as well; it takes a minute and more to build for each model.
        image_size: height and width of the images; None leaves what each model declares, else 32x32.
        device: see `engine.device.resolve_device`.

    Raises:
        UsageError: no time or no calls.
    """

    seconds: float = 2.0
    repeats: int = 1000
    compile: bool = True
    image_size: Size | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.repeats >= 1):
            raise UsageError(f"needs time and calls, got {self.seconds:g} seconds and {self.repeats} repeats")


def as_they_are(images: np.ndarray) -> np.ndarray:
    """The same images."""
    return images


@dataclass(frozen=True)
class Contestant:
    """One way to run a model.

    Attributes:
        runtime: `torch`, `torch.compile` or one of RUNTIMES.
        call: from what `prepare` returns to logits (N, classes), both in the memory of the host.
        prepare: images (N, 3, H, W) in [0, 1] as this runtime takes them; not timed.
        exact: it claims to be torch's function; else its difference is only reported.
        bytes: size of its file, None if it has none.
        accuracy: what was measured of it: data set, threat, protocol, n, clean, robust, interval; None if nothing was.
    """

    runtime: str
    call: Call
    prepare: Call = as_they_are
    exact: bool = True
    bytes: int | None = None
    accuracy: dict[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    """A model, who runs it (torch first, if at all), and by runtime the reason why another one cannot."""

    name: str
    image_size: Size
    contestants: tuple[Contestant, ...]
    untrained: bool = False
    parameters: int | None = None
    macs: int | None = None
    failed: Mapping[str, str] = field(default_factory=dict)


def pictures(n: int, size: Size) -> np.ndarray:
    """Images (n, 3, H, W), float32, of random multiples of 1/255, the same in every call."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (n, 3, *size)).astype(np.float32) / np.float32(255)


def resolve(ref: str | Path, settings: Settings) -> Model:
    """The contestants of a reference of `reference.load`; see `bench.bench` for which and for errors."""
    text = str(ref)
    if text.endswith(".onnx") and not is_hub(text):
        return _of_file(Path(text), settings)
    folder = local_folder(text) if is_hub(text) else release_of(text)
    network = load(folder or text, untrained=True)
    size = settings.image_size or declared_image_size(network) or (32, 32)
    name = folder.resolve().name if folder and not is_hub(text) else text
    return of_network(name, network, settings, size, untrained=is_untrained(text), folder=folder)


def of_network(
    name: str,
    network: nn.Module,
    settings: Settings,
    size: Size,
    *,
    untrained: bool = False,
    folder: Path | None = None,
) -> Model:
    """The contestants of a network on the CPU in evaluation mode.

    Args:
        folder: its release folder, whose ONNX files run instead of one exported here.

    Raises:
        ImageSizeError: it does not take images of that size.
    """
    device, failed = resolve_device(settings.device), {}
    try:
        macs = count_macs(network, (3, *size))
    except RuntimeError as error:
        raise ImageSizeError(f"{name} does not take images of {size[0]}x{size[1]} ({_line(error)})") from error
    run = _run_of_folder(folder) if folder else None
    accuracy, shipped = _accuracy(run), None
    graphs: list[tuple[Path | bytes, str]] = []
    if folder and (folder / "model.onnx").is_file():
        graphs.append((folder / "model.onnx", "float32"))
    else:
        try:
            graphs.append((to_onnx(network, torch.from_numpy(pictures(2, size))).SerializeToString(), "float32"))
        except Exception as error:  # whatever the exporter raises
            failed[RUNTIMES["float32"]] = _line(error)
    if folder:
        shipped = (folder / "model.safetensors").stat().st_size
        if (folder / "model.int8.onnx").is_file():
            graphs.append((folder / "model.int8.onnx", "int8"))
    found = [Contestant("torch", torch_call(network.to(device), device), bytes=shipped, accuracy=accuracy)]
    if settings.compile:
        try:
            call = _compiled(network, device, size)
            found.append(Contestant("torch.compile", call, bytes=shipped, accuracy=accuracy))
        except Exception as error:  # whatever the compiler raises, a missing C++ compiler among it
            failed["torch.compile"] = _line(error)
    for source, precision in graphs:
        own = accuracy if precision == "float32" else _accuracy(_run_of_file(source, threat_name(run) if run else None))
        found.append(_of_session(source, _session(source, settings), precision, size, own))
    return Model(name, size, tuple(found), untrained, count_parameters(network), macs, failed)


def _of_file(path: Path, settings: Settings) -> Model:
    """An ONNX file by itself: there is no torch model to measure or to compare it with."""
    session = _session(path, settings)
    size = settings.image_size or session.image_size or _declared_size(session)
    accuracy = _accuracy(_run_of_file(path, session.metadata.get("threat_model")))
    found = _of_session(path, session, _precision(path, session), size, accuracy)
    try:
        double = onnx_network(path)
        parameters, macs = count_parameters(double) or None, count_macs(double, (3, *size)) or None
    except Exception:  # many files have no counterpart in torch; they are measured all the same
        parameters = macs = None
    name = "/".join(path.parts[-2:])
    return Model(name, size, (found,), session.metadata.get("weights") == "untrained", parameters, macs)


def _declared_size(session: Session) -> Size:
    """What a file that takes any size was trained at, as far as it says so."""
    try:
        _, height, width = json.loads(session.metadata["input_size"])
        return int(height), int(width)
    except (KeyError, ValueError, TypeError):
        return 32, 32


def _session(source: Path | bytes, settings: Settings) -> Session:
    with translated():
        return Session(source, resolve_device(settings.device).type, threads=torch.get_num_threads())


def _of_session(
    source: Path | bytes, session: Session, precision: str, size: Size, accuracy: dict[str, Any] | None
) -> Contestant:
    if session.image_size and session.image_size != size:
        height, width = session.image_size
        name = "the exported model" if isinstance(source, bytes) else source
        raise ImageSizeError(f"{name} takes images of {height}x{width} only, not {size[0]}x{size[1]}")

    def prepare(images: np.ndarray) -> np.ndarray:
        pixels = (images * 255).round() if session.input_type is np.uint8 else images
        pixels = pixels.transpose(0, 2, 3, 1) if session.channels_last else pixels
        return np.ascontiguousarray(pixels, session.input_type)

    length = len(source) if isinstance(source, bytes) else source.stat().st_size
    runtime = RUNTIMES.get(precision, f"onnxruntime {precision}")
    return Contestant(runtime, session.logits, prepare, precision == "float32", length, accuracy)


def _precision(path: Path, session: Session) -> str:
    """`float32`, `float16` or `int8`: what a file says of itself, else what it is made of."""
    if "precision" in session.metadata:
        return session.metadata["precision"]
    import onnx

    if onnx_kind(path) == "int8":
        return "int8"
    graph = onnx.load(str(path), load_external_data=False).graph
    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
    return "float16" if half else "float32"


def torch_call(network: Callable[..., Any], device: torch.device) -> Call:
    """A torch network as a call; it returns when the logits are in the memory of the host."""

    def call(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images).to(device)).cpu().numpy()

    return call


def _compiled(network: nn.Module, device: torch.device, size: Size) -> Call:
    """The network compiled for each batch size, here and now."""
    import torch._dynamo

    # Networks of one class share a count of compilations, beyond which torch runs them eagerly and hardly says so.
    limits = torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with limits:
            call = torch_call(torch.compile(network, dynamic=False), device)
            for batch in BATCHES:
                call(pictures(batch, size))
    finally:
        logging.disable(before)
    return call


def _run_of_folder(folder: Path) -> dict[str, Any] | None:
    """The run on its torch weights that a release folder is judged by."""
    if not (folder / "robustness.json").is_file():
        return None
    found = results.read(folder)
    return found.strongest or found.pgd20


def _run_of_file(path: Path | bytes, threat: str | None) -> dict[str, Any] | None:
    """The strongest run on exactly these bytes in the evidence beside them; against one threat, if it is given."""
    if isinstance(path, bytes) or not (path.parent / "robustness.json").is_file():
        return None
    runs, digest = evidence.read_runs(path.parent / "robustness.json"), sha256_file(path)
    mine = [r for r in runs if r["subject"].get("sha256") == digest and threat in (None, threat_name(r))]
    return max(mine, key=evidence.rank, default=None)


def _accuracy(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "dataset": run["dataset"]["name"],
        "threat": threat_name(dict(run)),
        "protocol": run["protocol"],
        "n": run["n"],
        "clean": run["clean_accuracy"],
        "robust": run["robust_accuracy"],
        "interval": list(run["interval"]),
    }


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
