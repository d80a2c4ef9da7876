"""Latency of one image on one CPU thread: torch eager beside onnxruntime, ours beside timm's nearest models.

    python benchmarks/inference.py

Untrained weights: this measures networks, not accuracy.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import rnas_zoo
from rnas_zoo.cli.common import table
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.models.size import count_macs, count_parameters

NAMES = ("rnas_cl_s3", "rnas_cl_s7", "rnas_vuln_h_c16l8", "mobilenetv3_small_050", "resnet18")
REPEATS, ROUNDS = 20, 5


def milliseconds(call: Callable[[], object]) -> float:
    """Median over rounds of the mean time of a call."""
    call()
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(REPEATS):
            call()
        rounds.append(1000 * (time.perf_counter() - begin) / REPEATS)
    return statistics.median(rounds)


def main() -> None:
    torch.set_num_threads(1)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = [["model", "parameters", "million MACs", "torch ms", "onnxruntime ms", "ratio"]]
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            torch.manual_seed(0)
            network = timm.create_model(name, num_classes=10).eval()
            network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, 32, 32)}
            path = Path(folder) / f"{name}.onnx"
            rnas_zoo.export(network, path)
            session = Session(path, provider="cpu", threads=1)
            pixels = image.numpy()
            with torch.inference_mode():
                eager = milliseconds(lambda network=network: network(image))
            ort = milliseconds(lambda session=session, pixels=pixels: session.logits(pixels))
            rows.append(
                [
                    name,
                    f"{count_parameters(network):,}",
                    f"{count_macs(network) / 1e6:.2f}",
                    f"{eager:.2f}",
                    f"{ort:.2f}",
                    f"{eager / ort:.1f}x",
                ]
            )
    print(f"one 32x32 image, one thread, median of {ROUNDS} rounds of {REPEATS}, torch {torch.__version__}")
    print(table(rows))


if __name__ == "__main__":
    main()
