"""Whether a release folder may be published: all of it, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..arrays import read_arrays
from ..errors import RnasZooError
from ..models.pixels import Preprocessed
from ..models.weights import declared_digest
from ..reference import load
from ..verification import evidence
from ..verification.folder_check import check_files
from . import card
from .download import CONFIG, PICKLES, WEIGHTS, present
from .upload import paths

WIDEST = 4096  # pixels
CARD, ONNX, EXPORT = "README.md", "model.onnx", "export.json"
NEEDED = (CARD, CONFIG, WEIGHTS, "recipe.toml", "robustness.json", "verdicts.npz", "check.npz")


def problems(folder: str | Path) -> list[str]:
    """What forbids to publish a release folder, in words, everything at once; empty if nothing does.

    It must hold the files of a release and no others, none of them a pickle; config.json must say what the weights are
    (name, labels, licence, digest) and load them through timm; weights, ONNX file, golden logits and evidence must
    agree (`folder_check`), and the card must be what they render to, under the same licence.
    """
    folder = Path(folder)
    names = [name for name, _ in paths(folder)]
    expected = {path.relative_to(folder).as_posix() for path in present(folder)}
    found = [_unexpected(name) for name in names if name not in expected]
    missing = [name for name in NEEDED if name not in expected]
    found += [f"{name} is missing: `rnas-zoo package` writes it" for name in missing]
    if missing:
        return found
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        wrong = [*_identity(config), *_labels(config)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [*found, f"{CONFIG} is damaged, or not written by timm ({error!r})"]
    found += [*wrong, *_pickled(folder), *_attempt(_absent, folder, names), *_attempt(_classes, folder, config)]
    found += _attempt(check_files, folder)
    if not wrong:
        found += _attempt(_card, folder, config)
    return list(dict.fromkeys(found))


def _unexpected(name: str) -> str:
    if name.lower().endswith(PICKLES):
        return f"{name} can hold a pickle, which runs code when it is opened: weights go into {WEIGHTS} only"
    return f"{name} is no part of a release: remove it"


def _identity(config: dict[str, Any]) -> Iterator[str]:
    """Name, licence and digest."""
    cfg = config["pretrained_cfg"]
    name, stated = f"{config['architecture']}.{cfg.get('tag')}", (config.get("rnas_zoo") or {}).get("name")
    if stated != name:
        yield f"{CONFIG} calls the model {stated!r}; architecture and tag make {name!r}"
    if not (config.get("rnas_zoo") or {}).get("dataset"):
        yield f"{CONFIG} does not say which data the model learned (rnas_zoo.dataset)"
    if not (isinstance(cfg.get("license"), str) and cfg["license"].strip()):
        yield f"{CONFIG} sets no licence: give one as pretrained_cfg.license, then write the card anew"
    size = cfg.get("input_size")
    if not (
        isinstance(size, list) and [type(each) for each in size] == [int] * 3 and 0 < min(size) <= max(size) <= WIDEST
    ):
        yield f"{CONFIG} states the input size {size!r:.60}, not [channels, height, width] of up to {WIDEST:,}"
    if declared_digest(cfg) is None:
        yield f"{CONFIG} declares no digest of the tensors (pretrained_cfg.notes)"


def _labels(config: dict[str, Any]) -> Iterator[str]:
    labels, classes = config.get("label_names"), config["num_classes"]
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        yield f"{CONFIG} has no list label_names, one name for each class"
    elif len(labels) != classes:
        yield f"{CONFIG} names {len(labels)} labels for {classes} classes"
    if config["pretrained_cfg"]["num_classes"] != classes:
        yield f"{CONFIG} says {classes} classes, its pretrained_cfg {config['pretrained_cfg']['num_classes']}"


def _pickled(folder: Path) -> Iterator[str]:
    """Arrays that can be read only by running what they hold."""
    for path in sorted(folder.glob("*.npz")):
        try:
            read_arrays(path)
        except (OSError, ValueError) as error:
            yield f"{path.name} is damaged, or holds Python objects ({error})"


def _absent(folder: Path, names: list[str]) -> Iterator[str]:
    """Files that evidence and export.json are about, and that are not there."""
    runs, _ = evidence.read(folder)
    subjects = dict.fromkeys(run["subject"].get("file") for run in runs)
    yield from (f"robustness.json is about {name}, which is missing" for name in subjects if name not in names)
    if (ONNX in names) != (EXPORT in names):
        yield f"{ONNX} and {EXPORT} go together: one of them is missing"


def _classes(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The network that timm builds of the folder."""
    network: Any = load(folder)
    network = network.network if isinstance(network, Preprocessed) else network
    if network.num_classes != config["num_classes"]:
        yield f"the network has {network.num_classes} classes, {CONFIG} says {config['num_classes']}"


def _card(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    try:
        card.check(folder)
        stated = card.read_front_matter((folder / CARD).read_text(encoding="utf-8"), CARD).to_dict().get("license")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, RnasZooError):
            raise
        yield f"{CARD} cannot be compared with what it is rendered from ({error!r})"
        return
    if stated != config["pretrained_cfg"]["license"]:
        yield f"{CARD} says licence {stated!r}, {CONFIG} {config['pretrained_cfg']['license']!r}"


def _attempt(check: Callable[..., Any], *arguments: Any) -> list[str]:
    """What a check finds, or the error that ended it, in words."""
    try:
        return list(check(*arguments))
    except RnasZooError as error:
        return [str(error)]
