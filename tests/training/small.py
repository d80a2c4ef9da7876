"""What tests of training share: a small configuration, a student and a teacher written out, and equal weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnas_zoo import data
from rnas_zoo.training.config import TrainConfig
from rnas_zoo.training.task import TrainTask

CPU = torch.device("cpu")
PLAIN = {"schedule": "cosine", "eps_ramp": 0.0, "momentum": 0.0, "weight_decay": 0.0}  # steps of learning_rate * slope
CELLS = {"genotype": "ours_rnas_vuln_cifar10", "channels": 2, "layers": 3, "stem": "cifar"}


def configured(path: Any, **changes: Any) -> TrainConfig:
    """A residual network of a few thousand weights on 16x16 images."""
    plain = {
        "architecture": "rnas_wrn10_1", "data": str(path), "attack_steps": 1, "total_steps": 6, "batch_size": 8,
        "learning_rate": 0.05, "seed": 3, "augmentation": "none", "model_args": {"first_width": 2},
    }  # fmt: skip
    return TrainConfig(**{**plain, **changes})


def tasked(config: TrainConfig, **options: Any) -> TrainTask:
    return TrainTask(config, data.load(config.data), CPU, **options)


def run(task: TrainTask, first: int = 0, last: int | None = None) -> TrainTask:
    for index in range(first, last or task.total_steps):
        torch.manual_seed(index)
        task.step(index)
    return task


def network(width: int = 4, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch norm: images (N, 3, H, W) to (N, classes), in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.Softplus(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
        ).double()  # fmt: skip
        net[-1].weight.data *= 5
    return net


def taught(classes: int = 4, seed: int = 1, width: int = 5) -> nn.Sequential:
    """A frozen teacher in evaluation mode."""
    return network(width, classes, seed).eval().requires_grad_(False)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
