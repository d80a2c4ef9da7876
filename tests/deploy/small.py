"""What tests of int8 files share: a network that has learned its classes, its images, and what is read from a graph."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from rnas_zoo import data
from rnas_zoo.data import ImageSet

from ..conftest import blobs

SIZE, CLASSES = 16, 3


def images(n: int = 96, seed: int = 0) -> ImageSet:
    return ImageSet(*blobs(n, CLASSES, SIZE, seed))


def network() -> nn.Sequential:
    """Random convolutions, one of them depthwise, and the ridge regression of the classes on what they give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 1), nn.Hardswish(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Hardswish(),
            nn.Conv2d(32, 64, 1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        head = nn.Linear(64 * 16, CLASSES)
    train = images(240, seed=7)
    with torch.no_grad():
        found = features(data.to_pixels(train.images))
        centre, target = found.mean(0), torch.eye(CLASSES)[torch.from_numpy(train.labels)] - 1 / CLASSES
        found = found - centre
        head.weight.copy_((found.T @ torch.linalg.solve(found @ found.T + 0.1 * torch.eye(len(found)), target)).T * 20)
        head.bias.copy_(-head.weight @ centre)
    net = nn.Sequential(*features, head).eval()
    net.pretrained_cfg = {"architecture": "tiny", "input_size": (3, SIZE, SIZE)}
    return net


def scales(model: onnx.ModelProto) -> list[tuple[tuple[int, ...], int]]:
    """Shape of every quantized weight, and how many scales it has."""
    values = {value.name: value for value in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    pairs = [(tuple(values[n.input[0]].dims), int(np.prod(values[n.input[1]].dims, dtype=int))) for n in nodes]
    return [(shape, count) for shape, count in pairs if len(shape) >= 2]
