"""Which weights exist, and whether a weight file is the one its configuration names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from .. import resources
from ..errors import NoWeightsError, WeightsError

DIGEST_NOTE = "tensors-sha256:"
SOURCES = {"file", "url", "state_dict", "hf_hub_id"}


def pixel_cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's configuration of a network that takes 32x32 RGB in [0, 1] without outside normalisation."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": "stem.0",
        "classifier": "head.fc",
        "license": "mit",
        **kwargs,
    }


def tensor_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def declared_digest(pretrained_cfg: Mapping[str, Any]) -> str | None:
    """The digest a pretrained configuration declares in its notes, if any."""
    for note in pretrained_cfg.get("notes") or ():
        if note.startswith(DIGEST_NOTE):
            return note.removeprefix(DIGEST_NOTE)
    return None


def check_digest(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """timm's checkpoint filter: refuse tensors that are not the ones `model.pretrained_cfg` declares.

    Raises:
        WeightsError: the digests differ.
    """
    declared = declared_digest(model.pretrained_cfg)
    found = tensor_digest(state_dict) if declared else None
    if found != declared:
        raise WeightsError(
            f"the weights of {model.pretrained_cfg.get('architecture')} are not the published ones: tensor digest "
            f"{found[:12] if found else None}, expected {str(declared)[:12]}. Download them again."
        )
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state_dict.items()}


def bundled_releases() -> dict[str, Path]:
    """Release folders that ship with the package: `architecture.tag` to folder."""
    found = {}
    for config in sorted(resources.folder("model_cards").glob("*/config.json")):
        value = json.loads(config.read_text(encoding="utf-8"))
        tag = value["pretrained_cfg"].get("tag", "")
        found[f"{value['architecture']}.{tag}" if tag else value["architecture"]] = config.parent
    return found


def recommendation(name: str) -> tuple[bool, bool, float, str]:
    """A key that sorts `architecture.tag` names by what we recommend, the first of which is timm's default.

    Robust weights come before those of standard training, L∞ before L2, and the larger ε first.
    """
    tag = name.partition(".")[2]
    threat = re.search(r"_(linf|l2)([\dp]+)$", tag)
    eps = float(threat[2].replace("p", ".")) if threat else 0.0
    return tag.startswith("clean_"), threat is None or threat[1] != "linf", -eps, tag


def configurations(architectures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """timm default configurations: one per bundled release, or an untagged one without weights."""
    releases = bundled_releases()
    cfgs = {}
    for name, base in architectures.items():
        tagged = sorted((key for key in releases if key.split(".")[0] == name), key=recommendation)
        for key in tagged:
            value = json.loads((releases[key] / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
            value.pop("tag", None)
            value.pop("custom_load", None)
            cfgs[key] = {**base, **value, "file": str(releases[key] / "model.safetensors")}
        if not tagged:
            cfgs[name] = base
    return cfgs


def create(model_class: Callable[..., nn.Module], name: str, pretrained: bool, **kwargs: Any) -> Any:
    """timm's builder with our answers to missing, damaged and foreign weights.

    The declared digest is that of the published weights: an overlay that names other weights takes it off.

    Raises:
        NoWeightsError: `pretrained` is asked for and no weights are published for `name`.
        WeightsError: the weight file is damaged or not the declared one.
    """
    overlay = kwargs.get("pretrained_cfg_overlay")
    if overlay and "notes" not in overlay and SOURCES & overlay.keys():
        kwargs["pretrained_cfg_overlay"] = overlay = {**overlay, "notes": ()}
    if pretrained:
        cfg = resolve_pretrained_cfg(
            name,
            pretrained_cfg=kwargs.get("pretrained_cfg"),
            pretrained_cfg_overlay=overlay,
        )
        if not (cfg.has_weights or cfg.state_dict or cfg.source):
            raise NoWeightsError(_no_weights(name))
    try:
        return build_model_with_cfg(
            model_class,
            name,
            pretrained,
            pretrained_filter_fn=check_digest,
            feature_cfg={"feature_cls": "getter", "out_indices": (0, 1, 2)},
            **kwargs,
        )
    except SafetensorError as error:
        raise WeightsError(f"the weight file of {name} is damaged or cut off ({error}). Download it again.") from error
    except FileNotFoundError as error:
        reason = str(error).partition("\n")[0] or "no such file"
        raise WeightsError(f"the weight file of {name} cannot be found ({reason}). Download it again.") from error


def _no_weights(name: str) -> str:
    released = list(bundled_releases())
    recipes = [path.name for path in resources.folder("recipes").glob("*.toml") if path.stem.split(".")[0] == name]
    near = get_close_matches(name, sorted({key.split(".")[0] for key in released}), cutoff=0.5)
    nearest = [key for architecture in near for key in released if key.split(".")[0] == architecture]
    if nearest:
        have = f"Nearest with weights: {', '.join(nearest[:3])}."
    else:
        have = f"With weights: {', '.join(released[:3])}." if released else "No entry has published weights so far."
    how = f"`rnas-zoo train recipes/{recipes[0]}`" if recipes else f"`rnas-zoo train --arch {name} --data ... -o RUN`"
    return f"no weights exist yet for {name}. {have} {how} makes some; pretrained=False builds the untrained network."
