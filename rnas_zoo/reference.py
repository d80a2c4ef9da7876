"""A model reference, whatever it is, becomes something that maps images in [0, 1] to logits."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import models  # noqa: F401  (registers the architectures)
from .deploy.runtime import Session, SessionError
from .deploy.twin import twin
from .errors import (
    NoWeightsError,
    OnnxFileError,
    ProviderError,
    RnasZooError,
    UnknownNameError,
    UsageError,
    WeightsError,
    closest,
)
from .files import sha256_file
from .models.pixels import declared_image_size, in_pixels
from .models.weights import tensor_digest

Reference = str | Path | nn.Module


@dataclass(frozen=True)
class Subject:
    """What is verified, exported or asked for predictions.

    Attributes:
        name: how reports call it.
        kind: `torch` or `onnx`.
        file, sha256: the weight or model file and its checksum; for a module in memory no file, and the checksum of
            its tensors.
        network: differentiable, images (N, 3, H, W) in [0, 1] to logits (for ONNX the twin of the graph).
        judge: the logits that count (for ONNX the session's).
        image_size: height and width it takes, None if any.
        num_classes: number of logits.
    """

    name: str
    kind: str
    file: str | None
    sha256: str
    network: nn.Module
    judge: Callable[[Tensor], Tensor]
    image_size: tuple[int, int] | None
    num_classes: int


def list_models(filter: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of this package's models, or with `pretrained` the `architecture.tag` names whose weights can be had."""
    names = [
        name
        for module in ("rnas_cells", "rnas_students")
        for name in timm.list_models(module=module, pretrained=pretrained, include_tags=pretrained)
    ]
    return sorted(name for name in names if fnmatch.fnmatch(name, filter))


def load(
    ref: Reference, *, checkpoint: str | Path | None = None, device: str | torch.device = "cpu", untrained: bool = False
) -> nn.Module:
    """A network in evaluation mode that takes images (N, 3, H, W) in [0, 1].

    Args:
        ref: a timm name, a release folder, `hf-hub:owner/name[@rev]`, an .onnx file (its differentiable twin),
            `path/file.py:function` (runs that file), or a module.
        checkpoint: weights for a timm name, a .safetensors file.
        untrained: a name without weights gives the untrained network (seed 0) instead of an error.

    Raises:
        UnknownNameError, NoWeightsError, WeightsError, OnnxFileError: see their messages.
    """
    if isinstance(ref, nn.Module):
        return ref.to(device).eval()
    text = str(ref)
    if text.endswith(".onnx"):
        return twin(text).to(device)
    if ".py:" in text:
        return _from_python(text).to(device).eval()
    if text.startswith("hf-hub:") or Path(text).is_dir():
        network = _pretrained(text if text.startswith("hf-hub:") else _release_folder(Path(text)))
        return in_pixels(network).to(device).eval()
    if not timm.is_model(text.split(".")[0]):
        known = timm.list_models()
        raise UnknownNameError(
            f"unknown model {text!r}.{closest(text, known)} It is neither a timm name, a folder, an .onnx file, "
            "hf-hub:owner/name, nor file.py:function."
        )
    if checkpoint is not None:
        network = timm.create_model(text, num_classes=_checkpoint_classes(text, checkpoint))
        load_weights(network, checkpoint, text)
    elif untrained and not timm.is_model_pretrained(text):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(text)
    else:
        network = _pretrained(text)
    return in_pixels(network).to(device).eval()


def load_weights(network: nn.Module, path: str | Path, name: str) -> None:
    """Load a .safetensors file strictly.

    Raises:
        WeightsError: the file is missing, damaged, or does not fit the network.
    """
    state = read_tensors(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own, given = network.state_dict(), state
        for key in own:
            if key in given and own[key].shape != given[key].shape:
                problem = f"{key} is {tuple(given[key].shape)} there and {tuple(own[key].shape)} in {name}"
                break
        else:
            problem = f"{len(own.keys() - given.keys())} tensors are missing, {len(given.keys() - own.keys())} unknown"
        raise WeightsError(f"{path} does not hold weights of {name}: {problem}") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file; no other format is read.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weight file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file ({error}). Download it again.") from error


def _checkpoint_classes(name: str, path: str | Path) -> int:
    cfg: Any = timm.get_pretrained_cfg(name)
    key = cfg.classifier
    state = read_tensors(path)
    weight = state.get(f"{key}.weight")
    return int(weight.shape[0]) if weight is not None else int(cfg.num_classes)


def _pretrained(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except RnasZooError:
        raise
    except SafetensorError as error:
        raise WeightsError(f"{name}: its weight file is damaged or cut off ({error}). Download it again.") from error
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise UnknownNameError(f"{name}: {error}") from error
        if "No pretrained weights" in str(error):
            raise NoWeightsError(f"{name} has no pretrained weights; give --checkpoint FILE.safetensors") from error
        raise WeightsError(f"{name}: {error}") from error


def _release_folder(folder: Path) -> str:
    config = folder / "config.json"
    try:
        value = json.loads(config.read_text(encoding="utf-8"))
        value["architecture"], value["pretrained_cfg"]
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is not a release folder: it has no config.json") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{config}: damaged, or not written by timm ({error!r})") from error
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(f"{folder} has no model.safetensors")
    return f"local-dir:{folder}"


def _from_python(ref: str) -> nn.Module:
    path, _, function = ref.rpartition(":")
    name = f"rnas_zoo_file_{hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UnknownNameError(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise UnknownNameError(f"{path} defines no function {function!r}")
    network = getattr(module, function)()
    if not isinstance(network, nn.Module):
        raise UnknownNameError(f"{ref} returned {type(network).__name__}, expected a torch.nn.Module")
    return network


def _count_classes(logits: Callable[[Tensor], Tensor], size: tuple[int, int], device: torch.device | str) -> int:
    with torch.no_grad():
        found = logits(torch.full((1, 3, *size), 0.5, device=device))
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"the model must return logits (N, classes); for one image it returned {what}")
    return int(found.shape[1])


def torch_subject(
    network: nn.Module,
    name: str,
    *,
    file: str | None = None,
    device: str | torch.device = "cpu",
    image_size: tuple[int, int] | None = None,
) -> Subject:
    """A torch network as a subject; it is put into evaluation mode.

    Args:
        image_size: height and width of the images at hand, to count the classes with; the network's own by default.

    Raises:
        UsageError: the network returns something other than logits (N, classes).
    """
    network = network.to(device).eval()
    size = declared_image_size(network)
    digest = sha256_file(file) if file else tensor_digest(network.state_dict())
    classes = _count_classes(network, image_size or size or (32, 32), device)
    return Subject(name, "torch", Path(file).name if file else None, digest, network, network, size, classes)


def onnx_subject(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    provider: str = "cpu",
    image_size: tuple[int, int] | None = None,
) -> Subject:
    """An ONNX file as a subject: judged by onnxruntime, attacked through its twin.

    Args:
        image_size: as in `torch_subject`, for files that take any size.

    Raises:
        OnnxFileError: no valid model. ProviderError: the provider cannot be used.
    """
    try:
        session = Session(path, provider)
    except SessionError as error:
        raise (ProviderError if "Provider" in str(error) else OnnxFileError)(str(error)) from error

    shape = session.input_shape
    if len(shape) != 4 or (shape[1] not in (3, None) and not isinstance(shape[1], str)):
        raise OnnxFileError(f"{path} takes {shape}; expected images (N, 3, H, W)")

    def judge(x: Tensor) -> Tensor:
        if isinstance(shape[0], int) and shape[0] != len(x):
            raise UsageError(
                f"{path} takes batches of exactly {shape[0]}: use that batch size, or export it with a dynamic one"
            )
        return torch.from_numpy(session.logits(x.detach().cpu().numpy(), batch_size=max(1, len(x)))).to(x.device)

    size = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
    network = twin(path).to(device)
    classes = _count_classes(judge, size or image_size or (32, 32), device)
    return Subject(Path(path).name, "onnx", Path(path).name, sha256_file(path), network, judge, size, classes)


def subject(
    ref: Reference,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    untrained: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Subject:
    """Resolve any model reference; see `load` for its forms and errors, `torch_subject` for `image_size`."""
    if isinstance(ref, nn.Module):
        return torch_subject(ref, type(ref).__name__, device=device, image_size=image_size)
    text = str(ref)
    if text.endswith(".onnx"):
        return onnx_subject(text, device=device, image_size=image_size)
    network = load(text, checkpoint=checkpoint, device=device, untrained=untrained)
    folder = Path(text)
    file = str(checkpoint) if checkpoint else str(folder / "model.safetensors") if folder.is_dir() else None
    name = folder.name if folder.is_dir() else text
    return torch_subject(network, name, file=file, device=device, image_size=image_size)


def as_logits(subject: Subject, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of float32 images (N, 3, H, W) in [0, 1]."""
    device = next((p.device for p in subject.network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        return subject.judge(torch.from_numpy(images).to(device)).float().cpu().numpy()
