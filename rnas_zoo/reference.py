"""A model reference, whatever it is, becomes something that maps images in [0, 1] to logits."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import models  # noqa: F401  (registers the architectures)
from .engine.progress import Reporter
from .engine.record import RUN, finished_training, is_run
from .errors import NoWeightsError, RnasZooError, UnknownNameError, WeightsError, closest
from .files import read_json
from .hub import client
from .hub.download import download
from .models.pixels import behind, in_pixels
from .preprocessing import Preprocessing
from .subject import Subject, as_logits, torch_subject, twin_error
from .subject_onnx import onnx_kind, onnx_network, onnx_subject

__all__ = [
    "Preprocessing",
    "Reference",
    "Subject",
    "as_logits",
    "load",
    "load_weights",
    "local_folder",
    "onnx_kind",
    "onnx_subject",
    "read_tensors",
    "subject",
    "torch_subject",
    "twin_error",
]

Reference = str | Path | nn.Module


def load(
    ref: Reference,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    untrained: bool = False,
    preprocessing: Preprocessing | None = None,
) -> nn.Module:
    """A network in evaluation mode that takes images (N, 3, H, W) in [0, 1].

    Args:
        ref: a timm name, a release folder, the folder of a finished training run, `hf-hub:owner/name[@rev]` (see
            `hub.download.fetch`), an .onnx file (its differentiable twin), `path/file.py:function` (runs that file), or
            a module.
        checkpoint: weights for a timm name, a .safetensors file.
        device: where the network is put.
        untrained: a name without weights gives the untrained network (seed 0) instead of an error.
        preprocessing: what the model expects of its input; takes precedence over the normalisation that the
            `pretrained_cfg` of a timm name, release folder or Hub model declares. A module and a function's network
            get nothing but what is given here.

    Raises:
        UnknownNameError, NoWeightsError, WeightsError, CheckpointError, HubError, DataError, OnnxFileError, UsageError:
            see their messages.

    Example:
        import rnas_zoo

        model = rnas_zoo.load("rnas_wrn10_1.pgd_digits_linf16")
    """
    if isinstance(ref, nn.Module):
        return behind(ref, preprocessing).to(device).eval()
    text, folder = str(ref), local_folder(ref)
    if folder is not None:
        return _released(folder, preprocessing).to(device).eval()
    if text.endswith(".onnx"):
        return onnx_network(text, preprocessing).to(device).eval()
    if ".py:" in text:
        return behind(_from_python(text), preprocessing).to(device).eval()
    if not timm.is_model(text.split(".")[0]):
        known = timm.list_models()
        raise UnknownNameError(
            f"unknown model {text!r}.{closest(text, known)} It is neither a timm name, a folder, an .onnx file, "
            "hf-hub:owner/name, nor file.py:function."
        )
    if checkpoint is not None:
        network = timm.create_model(text, num_classes=_checkpoint_classes(text, checkpoint))
        load_weights(network, checkpoint, text)
    elif untrained and "." not in text and not timm.is_model_pretrained(text):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(text)
    else:
        network = _pretrained(text)
    return in_pixels(network, preprocessing).to(device).eval()


def local_folder(ref: Reference, reporter: Reporter | None = None) -> Path | None:
    """The folder on this machine that a reference is, or that it names on the Hub, brought here by `hub.download`.

    None for references of other forms. What asks for a folder's files resolves its reference once, by this.

    Raises:
        See `hub.download.fetch`.
    """
    if isinstance(ref, nn.Module):
        return None
    if client.is_hub(ref):
        return download(str(ref), reporter=reporter)
    return Path(ref) if Path(ref).is_dir() else None


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
    except OSError as error:  # among them every error of the Hub's client
        raise WeightsError(
            f"{name}: its weights cannot be had ({str(error).splitlines()[0]}). Check the connection and the name, or "
            "give --checkpoint FILE.safetensors"
        ) from error
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise UnknownNameError(f"{name}: {error}") from error
        if "No pretrained weights" in str(error):
            raise NoWeightsError(f"{name} has no pretrained weights; give --checkpoint FILE.safetensors") from error
        raise WeightsError(f"{name}: {' '.join(str(error).split())}") from error


def _released(folder: Path, preprocessing: Preprocessing | None) -> nn.Module:
    """The network of a release folder or a training run; timm believes what config.json or run.json says of it."""
    of_a_run = is_run(folder)
    try:
        network = _trained(folder) if of_a_run else _pretrained(_release_folder(folder))
        return in_pixels(network, preprocessing)
    except (RnasZooError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever timm may raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        file = folder / (RUN if of_a_run else "config.json")
        raise WeightsError(f"{file}: no network can be built as it says ({cause})") from error


def _trained(folder: Path) -> nn.Module:
    info = finished_training(folder)
    name, arguments = info["config"]["architecture"], info["config"]["model_args"]
    overlay = {"input_size": (3, *info["image_size"])}
    network = timm.create_model(name, num_classes=len(info["classes"]), pretrained_cfg_overlay=overlay, **arguments)
    load_weights(network, folder / "model.safetensors", name)
    return network


def _release_folder(folder: Path) -> str:
    config = folder / "config.json"
    try:
        value = read_json(config)
        value["architecture"], value["pretrained_cfg"]
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} is not a release folder: it has no config.json; nor is it that of a training run, with a {RUN}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{config}: damaged, or not written by timm ({error!r})") from error
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise WeightsError(f"{folder} has no model.safetensors")
    arguments = value.get("model_args")
    most = max(weights.stat().st_size, 1 << 16)  # since the network is built before it is compared with the tensors
    for name, number in arguments.items() if isinstance(arguments, dict) else ():
        if isinstance(number, int) and number > most:
            raise WeightsError(f"{config}: {name} is {number}, more than {weights.name} has bytes")
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


def subject(
    ref: Reference,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    untrained: bool = False,
    image_size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """Resolve any model reference; see `load` for its forms, `preprocessing` and errors.

    An .onnx file without a differentiable twin is a subject that can be attacked through its scores only.

    Args:
        image_size: see `torch_subject`.
    """
    if isinstance(ref, nn.Module):
        return torch_subject(ref, type(ref).__name__, device=device, image_size=image_size, preprocessing=preprocessing)
    text = str(ref)
    if text.endswith(".onnx") and not client.is_hub(ref):
        return onnx_subject(text, device=device, image_size=image_size, preprocessing=preprocessing)
    folder = local_folder(ref)
    network = load(
        folder or text, checkpoint=checkpoint, device=device, untrained=untrained, preprocessing=preprocessing
    )
    file = str(checkpoint) if checkpoint else str(folder / "model.safetensors") if folder else None
    name = folder.name if folder and not client.is_hub(ref) else text
    return torch_subject(network, name, file=file, device=device, image_size=image_size)
