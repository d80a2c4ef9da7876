"""A network of 1,486 parameters that learns digits in a moment, and its release with evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import rnas_zoo  # noqa: F401  (registers the architectures)
from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.hub import card
from rnas_zoo.models.weights import tensor_digest
from rnas_zoo.training.config import TrainConfig, recipe_text
from rnas_zoo.verification import evidence
from rnas_zoo.verification.run import Report, verify

NAME = "rnas_students.clean_digits-8"
THREAT = Threat("linf", "10/255")
SIZE = (8, 8)
GENOTYPE = {
    "schema": 1,
    "name": "tiny",
    "kind": "channels",
    "stem": {"width": 8, "stride": 1},
    "stages": [{"widths": [8], "stride": 1}, {"widths": [12], "stride": 2}],
    "expansion": 2,
    "tutors": None,
    "default": {},
    "check": {},
    "provenance": {"status": "ours"},
}
ARGUMENTS = {"genotype": GENOTYPE, "num_classes": 10}
FILES = ("robustness.json", "verdicts.npz")


def trained(seed: int, steps: int) -> nn.Module:
    """A network of 1,486 parameters that was shown noisy digits of 8x8 pixels."""
    train = data.load("digits", SIZE).train
    x, y = data.to_pixels(train.images), torch.from_numpy(train.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model("rnas_students", **ARGUMENTS).train()
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,))
            noisy = (x[rows] + (torch.rand_like(x[rows]) - 0.5) * 0.19).clamp(0, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(noisy), y[rows]).backward()
            optimizer.step()
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            network(x)
    return network.eval()


def measure(model: Any, protocol: str, n: int) -> Report:
    return verify(model, data_name="digits", image_size=SIZE, n=n, threat=THREAT, protocol=protocol, device="cpu")


def record(folder: Path, run: dict[str, Any], table: dict[str, np.ndarray]) -> None:
    """Make this the only evidence of a folder, and write the card that it renders to."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    evidence.append(folder, run, table)
    card.write(folder)


def pack(folder: Path, network: nn.Module, report: Report) -> None:
    """Write check.npz: the first 64 images, and the adversarial ones that a verification found."""
    test = data.load("digits", SIZE).test.take(np.arange(64))
    twins = np.rint(report.x_adv[:64].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    with torch.no_grad():
        clean, broken = (network(data.to_pixels(images)).numpy() for images in (test.images, twins))
    arrays = {"images": test.images, "adversarial": twins, "labels": test.labels}
    np.savez_compressed(folder / "check.npz", **arrays, logits=clean, adversarial_logits=broken)


def release(folder: Path, network: Any) -> Path:
    """A release folder with an ONNX file and without evidence."""
    state = network.state_dict()
    network.pretrained_cfg = {
        **network.pretrained_cfg,
        "tag": NAME.partition(".")[2],
        "input_size": (3, *SIZE),
        "notes": ("tensors-sha256:" + tensor_digest(state),),
    }
    about = {"label_names": [str(i) for i in range(10)], "rnas_zoo": {"name": NAME, "dataset": "digits"}}
    timm.models.save_for_hf(network, folder, model_config=about, model_args=ARGUMENTS, safe_serialization=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = TrainConfig("rnas_students", model_args=ARGUMENTS, data="digits", image_size=SIZE, objective="clean")
    (folder / "recipe.toml").write_text(recipe_text(recipe))
    (folder / "genotype.json").write_text(json.dumps(GENOTYPE))
    images = data.load("digits", SIZE).test.images[:64]
    (folder / "export.json").write_text(json.dumps(export(network, folder / "model.onnx", images=images)))
    return folder
