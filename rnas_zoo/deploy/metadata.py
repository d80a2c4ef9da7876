"""What an exported file says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from .. import __version__
from ..genotype import Genotype
from ..hub.download import download
from ..models.pixels import Preprocessed
from ..models.weights import bundled_releases, published_releases, tensor_digest
from ..reference import Reference
from ..training.config import read_recipe
from .form import Form


def known_facts(
    model: Reference,
    checkpoint: str | Path | None = None,
    labels: list[str] | None = None,
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Texts for the metadata: those given, completed by what a release folder or a name says of itself.

    Args:
        checkpoint: weights that are not the reference's own.
    """
    facts = dict(given or {})
    if labels:
        facts["labels"] = json.dumps(labels)
    if isinstance(model, nn.Module) or checkpoint is not None:
        return facts
    if is_untrained(model):
        return {"weights": "untrained", **facts}
    folder = release_of(str(model))
    if folder is None:
        return facts
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {name: text for name, text in config.get("rnas_zoo", {}).items() if name in ("name", "dataset")}
    known = {"model": own.get("name"), "dataset": own.get("dataset")}
    if "label_names" in config:
        known["labels"] = json.dumps(config["label_names"])
    if (folder / "recipe.toml").is_file():
        recipe = read_recipe(folder / "recipe.toml")
        known["threat_model"] = str(recipe.threat) if recipe.objective != "clean" else None
    return {**{name: text for name, text in known.items() if text}, **facts}


def is_untrained(model: Reference) -> bool:
    """Whether `reference.load` would build this reference without weights: a name that has none."""
    if isinstance(model, nn.Module) or not _is_name(str(model)) or "." in str(model):
        return False
    return not timm.is_model_pretrained(str(model))


def release_of(ref: str) -> Path | None:
    """The release folder that a reference is, or that a name's weights come from (downloaded if they are published)."""
    if Path(ref).is_dir():
        return Path(ref) if (Path(ref) / "config.json").is_file() else None
    if not _is_name(ref) or not timm.is_model_pretrained(ref):
        return None
    cfg: Any = timm.get_pretrained_cfg(ref)
    name = f"{cfg.architecture}.{cfg.tag}" if cfg else ""
    return download(name) if name in published_releases() else bundled_releases().get(name)


def _is_name(ref: str) -> bool:
    """Whether `reference.load` takes a text for a name; files and folders may be called like a model."""
    elsewhere = ref.endswith(".onnx") or ".py:" in ref or Path(ref).is_dir()
    return not elsewhere and timm.is_model(ref.split(".")[0])


def describe(
    proto: Any, network: nn.Module, size: tuple[int, int], form: Form, facts: Mapping[str, str], precision: str = ""
) -> None:
    """Write into a model's metadata what a stranger needs to use and rebuild it.

    Args:
        size: height and width that the network takes.
        facts: further texts, see `known_facts`.
        precision: that of the file, the form's by default.
    """
    network = network.network if isinstance(network, Preprocessed) else network
    cfg = getattr(network, "pretrained_cfg", None) or {}
    arguments = dict(getattr(network, "_model_args", {}))
    found = getattr(network, "genotype", None)
    if isinstance(found, Genotype):
        arguments["genotype"] = found.to_json()
        facts = {"genotype": json.dumps(found.to_json()), "genotype_sha256": found.hash, **facts}
    texts = {
        "architecture": cfg.get("architecture", type(network).__name__),
        "model_args": json.dumps(arguments, default=str),
        "weights_sha256": tensor_digest(network.state_dict()),
        "input": form.described(size),
        "input_size": json.dumps([3, *size]),
        "output": form.output,
        "precision": precision or form.precision,
        "versions": json.dumps({"rnas_zoo": __version__, "torch": torch.__version__.split("+")[0]}),
        **facts,
    }
    del proto.metadata_props[:]
    for key, text in texts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, text
