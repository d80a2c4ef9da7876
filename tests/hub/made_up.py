"""Release folders made up for tests: real networks with random weights, and evidence that adds up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

import rnas_zoo  # noqa: F401  (registers the architectures)
from rnas_zoo import resources
from rnas_zoo.files import sha256_file
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.training.config import TrainConfig, recipe_text
from rnas_zoo.verification import evidence

GENOTYPES = {"rnas_cl_s3": "cl_s3"}


def write_release(
    folder: Path,
    architecture: str,
    runs: Sequence[tuple[str, str, int, int, int]],
    *,
    name: str,
    objective: str = "nfgsm",
    eps: str = "8/255",
    dataset: str = "cifar10",
    card: str = "# Title\n\nWords.\n",
    labels: Sequence[str] = tuple("0123456789"),
) -> Path:
    """Write a release folder without ONNX file.

    Args:
        runs: protocol, L∞ ε, images, how many of them are classified correctly, and how many stay robust.
    """
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(architecture)
    save_file(network.state_dict(), folder / "model.safetensors")
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": 10,
        "label_names": list(labels),
        "pretrained_cfg": {"tag": name.rpartition(".")[2], "input_size": [3, 32, 32], "num_classes": 10},
        "rnas_zoo": {"name": name, "dataset": dataset},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "recipe.toml").write_text(
        recipe_text(TrainConfig(architecture, data=dataset, objective=objective, eps=eps))
    )
    (folder / "README.md").write_text(card)
    if architecture in GENOTYPES:
        source = resources.folder("genotypes") / f"{GENOTYPES[architecture]}.json"
        (folder / "genotype.json").write_bytes(source.read_bytes())
    for protocol, size, n, correct, robust in runs:
        run, table = _run(folder, dataset, protocol, size, n, correct, robust)
        evidence.append(folder, run, table)
    return folder


def _run(
    folder: Path, dataset: str, protocol: str, eps: str, n: int, correct: int, robust: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    attack = "pgd20" if protocol == "quick" else "apgd-ce"
    position = np.arange(n)
    table = {
        "position": position,
        "pixels_sha256": np.array([f"{i:064x}" for i in position]),
        "clean_correct": position < correct,
        "clean_margin": np.ones(n),
        "broken_by": np.where((position >= robust) & (position < correct), attack, ""),
        "route": np.full(n, ""),
        "step": np.zeros(n, np.int64),
        "margin": np.ones(n),
        "norm": np.zeros(n),
        "refused": np.zeros(n, bool),
    }
    run = {
        "subject": {
            "kind": "torch",
            "file": "model.safetensors",
            "sha256": sha256_file(folder / "model.safetensors"),
        },
        "dataset": {"name": dataset, "split": "test", "images_sha256": "0" * 64},
        "norm": "linf",
        "eps": eps,
        "protocol": protocol,
        "seed": 0,
        "n": n,
        "refused": 0,
        "clean_accuracy": correct / n,
        "robust_accuracy": robust / n,
        "interval": list(clopper_pearson(robust, n)),
        "attacks": {attack: {"broken": correct - robust, "passes": 20 * n}},
        "passes": 20 * n,
        "seconds": 1.0,
        "flags": [],
    }
    return run, table
