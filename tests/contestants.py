"""Models that do not exist, measured with a clock that stands still unless they move it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnas_zoo.deploy.bench import compete
from rnas_zoo.deploy.contestants import Contestant, Model, Settings


class Clock:
    """Seconds since its making; `now` is set by whoever takes time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def logits(images: np.ndarray) -> np.ndarray:
    """Three logits of each image, (N, 3)."""
    return 10 * images.mean((2, 3))


def contestant(runtime: str, clock: Clock, milliseconds: float, per_image: float = 0.0, **about: Any) -> Contestant:
    """Takes so long for a call, and so much longer for each image; off by `shift` in every logit."""
    shift = about.pop("shift", 0.0)

    def call(images: np.ndarray) -> np.ndarray:
        clock.now += (milliseconds + per_image * len(images)) / 1000
        return logits(images) + np.float32(shift)

    return Contestant(runtime, call, **about)


def accuracy(robust: float, threat: str = "L∞ 8/255", protocol: str = "standard") -> dict[str, Any]:
    """What the evidence on CIFAR-10 may say."""
    interval = [robust - 0.03, robust + 0.03]
    found = {"dataset": "cifar10", "threat": threat, "protocol": protocol, "n": 1000}
    return {**found, "clean": 0.7, "robust": robust, "interval": interval}


def models(clock: Clock) -> list[Model]:
    """Two releases, of which the first has an int8 file, and an untrained baseline that cannot be exported."""
    known = {"accuracy": accuracy(0.35), "bytes": 280_000}
    small = (
        contestant("torch", clock, 2.0, 1.0, **known),
        contestant("onnxruntime", clock, 0.25, 0.25, **{**known, "bytes": 450_000}),
        contestant("onnxruntime int8", clock, 0.75, 0.25, shift=0.5, exact=False, bytes=150_000,
                   accuracy=accuracy(0.34, protocol="fast")),
    )  # fmt: skip
    large = (
        contestant("torch", clock, 5.0, accuracy=accuracy(0.4)),
        contestant("onnxruntime", clock, 1.0, accuracy=accuracy(0.4), shift=-1e-4),
    )
    return [
        Model("small", (8, 8), small, parameters=112_790, macs=4_743_304),
        Model("large", (8, 8), large, parameters=323_162, macs=13_800_000),
        Model("plain", (8, 8), (contestant("torch", clock, 4.0),), True, 1_000, 2_000, {"onnxruntime": "no export"}),
    ]


def report(chosen: slice = slice(None)) -> dict[str, Any]:
    """The report on `models`."""
    clock = Clock()
    return compete(models(clock)[chosen], Settings(seconds=0.1, repeats=20), clock=clock)
