"""Which weights exist, and whether a weight file is the one its configuration names."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import PretrainedCfg, build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from .. import resources
from ..errors import NoWeightsError, WeightsError
from ..hub import client

DIGEST_NOTE = "tensors-sha256:"
SOURCES = {"file", "url", "state_dict", "hf_hub_id"}
WEIGHTS = "model.safetensors"
PUBLISHED, PUBLISHED_SCHEMA = "published.json", 1
_UNUSED = {"tag", "custom_load", "hf_hub_filename", "source", "architecture"} | SOURCES  # of a config.json's


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


def published_releases() -> dict[str, dict[str, Any]]:
    """Releases on the Hub that `publish` has confirmed: `architecture.tag` to `repo`, `commit`, `digest` of the tensors
    and, where it is kept, the `pretrained_cfg` of their config.json.

    What cannot be read is left out with a warning that names the file.
    """
    path = resources.folder("model_cards") / PUBLISHED
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != PUBLISHED_SCHEMA:
            raise ValueError(f"schema {value['schema']!r}, this release reads {PUBLISHED_SCHEMA}")
        entries = dict(value["models"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _warn(path, "models on the Hub are not offered by name", error)
        return {}
    found = {}
    for name, entry in entries.items():
        try:
            client.split(f"{entry['repo']}@{entry['commit']}")
            if not client.COMMIT.fullmatch(entry["commit"]) or not re.fullmatch("[0-9a-f]{64}", entry["digest"]):
                raise ValueError("commit and digest are 40 and 64 hexadecimal digits")
            PretrainedCfg(**_published_cfg(entry))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _warn(path, f"{name} is not offered by name", error)
        else:
            found[name] = entry
    return found


def _warn(path: Path, effect: str, error: Exception) -> None:
    warnings.warn(f"{path}: {effect} ({error!r}); publish again, or remove it", stacklevel=3)


def recommendation(name: str) -> tuple[bool, bool, float, str]:
    """A key that sorts `architecture.tag` names by what we recommend, the first of which is timm's default.

    Robust weights come before those of standard training, L∞ before L2, and the larger ε first.
    """
    tag = name.partition(".")[2]
    threat = re.search(r"_(linf|l2)([\dp]+)$", tag)
    eps = float(threat[2].replace("p", ".")) if threat else 0.0
    return tag.startswith("clean_"), threat is None or threat[1] != "linf", -eps, tag


def configurations(architectures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """timm default configurations: one per release that is bundled or published, or an untagged one without weights.

    Of a release that is both, the bundled file is used.
    """
    bundled, published = bundled_releases(), published_releases()
    cfgs = {}
    for name, base in architectures.items():
        tagged = _tagged(name, {**published, **bundled})
        for key in tagged:
            cfgs[key] = {**base, **(_bundled_cfg(bundled[key]) if key in bundled else _published_cfg(published[key]))}
        if not tagged:
            cfgs[name] = base
    return cfgs


def _tagged(architecture: str, names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if name.split(".")[0] == architecture), key=recommendation)


def _bundled_cfg(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    value.pop("tag", None)
    value.pop("custom_load", None)
    return {**value, "file": str(folder / WEIGHTS)}


def _published_cfg(entry: Mapping[str, Any]) -> dict[str, Any]:
    stated = {key: value for key, value in (entry.get("pretrained_cfg") or {}).items() if key not in _UNUSED}
    where = {"hf_hub_id": f"{entry['repo']}@{entry['commit']}", "hf_hub_filename": WEIGHTS}
    return {**stated, **where, "notes": (DIGEST_NOTE + entry["digest"],)}


def create(model_class: Callable[..., nn.Module], name: str, pretrained: bool, **kwargs: Any) -> Any:
    """timm's builder with our answers to missing, damaged and foreign weights.

    The declared digest is that of the published weights: an overlay that names other weights takes it off.

    From the Hub come safetensors alone, and a damaged file does not stay in the client's cache. The network itself
    carries no digest: its weights may be trained further, and saved by timm it would claim to be the published one.

    Raises:
        NoWeightsError: `pretrained` is asked for and no weights are published for `name`.
        WeightsError: the weight file is damaged or not the declared one.
        HubError: the Hub cannot be reached, or refuses.
    """
    overlay, repo, revision = kwargs.get("pretrained_cfg_overlay"), "", None
    if overlay and "notes" not in overlay and SOURCES & overlay.keys():
        kwargs["pretrained_cfg_overlay"] = overlay = {**overlay, "notes": ()}
    if pretrained:
        cfg = resolve_pretrained_cfg(
            name,
            pretrained_cfg=kwargs.get("pretrained_cfg"),
            pretrained_cfg_overlay=overlay,
        )
        if not (cfg.has_weights or cfg.state_dict or cfg.source):
            raise NoWeightsError(no_weights(name))
        if cfg.source == "hf-hub" or (cfg.hf_hub_id and not (cfg.source or cfg.file or cfg.state_dict)):
            repo, revision = client.split(str(cfg.hf_hub_id))
            kwargs["pretrained_cfg_overlay"] = {"hf_hub_filename": WEIGHTS, **(overlay or {})}
    try:
        with client.asking(repo, revision) if repo else nullcontext():
            network: Any = build_model_with_cfg(
                model_class,
                name,
                pretrained,
                pretrained_filter_fn=check_digest,
                feature_cfg={"feature_cls": "getter", "out_indices": (0, 1, 2)},
                **kwargs,
            )
    except (SafetensorError, WeightsError) as error:
        file = client.cached(repo, revision, WEIGHTS, kwargs.get("cache_dir")) if repo else None
        if file is not None and client.is_damaged(file):
            client.forget(file)
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"the weight file of {name} is damaged or cut off ({error}). Download it again.") from error
    except FileNotFoundError as error:
        reason = str(error).partition("\n")[0] or "no such file"
        raise WeightsError(f"the weight file of {name} cannot be found ({reason}). Download it again.") from error
    notes = [note for note in network.pretrained_cfg.get("notes") or () if not note.startswith(DIGEST_NOTE)]
    network.pretrained_cfg = {**network.pretrained_cfg, "notes": tuple(notes)}
    return network


def no_weights(name: str) -> str:
    """What to say and do where an architecture has no weights."""
    released = sorted({*bundled_releases(), *published_releases()})
    recipes = [path.name for path in resources.folder("recipes").glob("*.toml") if path.stem.split(".")[0] == name]
    near = get_close_matches(name, sorted({key.split(".")[0] for key in released}), cutoff=0.5)
    nearest = [key for architecture in near for key in released if key.split(".")[0] == architecture]
    if nearest:
        have = f"Nearest with weights: {', '.join(nearest[:3])}."
    else:
        have = f"With weights: {', '.join(released[:3])}." if released else "No entry has published weights so far."
    how = f"`rnas-zoo train recipes/{recipes[0]}`" if recipes else f"`rnas-zoo train --arch {name} --data ... -o RUN`"
    return f"no weights exist yet for {name}. {have} {how} makes some; pretrained=False builds the untrained network."
