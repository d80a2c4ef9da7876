"""Steps of adversarial training: a plain PyTorch loop, as people write it, beside rnas_zoo's training task.

    python benchmarks/training.py [--networks rnas_cl_s3 rnas_cl_s7 cells] [--objectives nfgsm pgd] [--batch 128]
        [--repeats 5] [--threads 1] [--device cpu] [--epochs K]

Both train the same network from the same weights on the same batches, with the same schedules and optimiser, and attack
it in evaluation mode; the plain loop keeps images contiguous and leaves gradients to autograd. Steps of the two take
turns. On the CPU: process-CPU seconds; on CUDA: wall seconds. Medians over the repeats, after steps that are not
counted. With --epochs both also train on `digits` for so long, and accuracies on held-out images are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo import data
from rnas_zoo.cli.common import table
from rnas_zoo.training.config import TrainConfig, build_model
from rnas_zoo.training.run import TrainTask
from rnas_zoo.training.schedule import one_cycle, ramp
from rnas_zoo.training.task import accuracies

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnas_cl_s3": ("rnas_cl_s3", {}),
    "rnas_cl_s7": ("rnas_cl_s7", {}),
    "cells": ("rnas_cells", {"genotype": "vuln_h", "channels": 16, "layers": 8}),
}
TITLES = {"nfgsm": "N-FGSM", "pgd": "PGD-7"}


class PlainLoop:
    """Adversarial training without anything of rnas_zoo's but the network and the order of the images."""

    def __init__(self, config: TrainConfig, task: TrainTask) -> None:
        self.config, self.batches, self.device = config, task.batches, task.device
        self.network: nn.Module = build_model(config, task.model.num_classes).to(task.device)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config.bn_momentum
        weights = list(self.network.parameters())
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=True)

    def attacked(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        single = self.config.objective == "nfgsm"
        noise, size, steps = (2 * eps, eps, 1) if single else (eps, eps / 4, self.config.attack_steps)
        self.network.eval().requires_grad_(False)
        z = (x + noise * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(steps):
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(z), y), z)
            z = z.detach() + size * gradient.sign()
            z = (z if single else torch.clamp(z, x - eps, x + eps)).clamp(0, 1)
        self.network.train().requires_grad_(True)
        return z

    def step(self, index: int) -> None:
        config, fraction = self.config, index / self.config.total_steps
        x, y = self.batches(index)
        x = x.contiguous()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(fraction, config.peak_at)
        x = self.attacked(x, y, 8 / 255 * float(ramp(fraction, config.eps_ramp)))
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(x), y).backward()
        self.optimizer.step()


def made(network: str, objective: str, steps: int, arguments: argparse.Namespace) -> tuple[PlainLoop, TrainTask]:
    architecture, model_args = NETWORKS[network]
    config = TrainConfig(
        architecture,
        "digits",
        objective,
        total_steps=steps,
        batch_size=arguments.batch,
        bn_momentum=0.1,  # the students' own 0.003 is made for runs longer than these
        model_args=model_args,
    )
    task = TrainTask(config, data.load("digits"), torch.device(arguments.device))
    return PlainLoop(config, task), task


def seconds(step: Any, index: int, device: str) -> float:
    if device == "cpu":
        begin = time.process_time()
        step(index)
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step(index)
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def speed(network: str, objective: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a plain step and of ours, taken in turns."""
    plain, ours = made(network, objective, 1000, arguments)
    uncounted = 1 if arguments.device == "cpu" else 5  # on CUDA the first steps are captured
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(uncounted + arguments.repeats):
        for loop, into in zip((plain, ours), taken, strict=True):
            spent = seconds(loop.step, 500 + index, arguments.device)
            if index >= uncounted:
                into.append(spent)
    return statistics.median(taken[0]), statistics.median(taken[1])


def held_out(network: str, objective: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Accuracies of both after the same epochs."""
    first, second = data.load("digits").split(0, 0.1)
    steps = arguments.epochs * max(1, len(first) // arguments.batch)
    plain, ours = made(network, objective, steps, arguments)
    for index in range(steps):
        plain.step(index)
        ours.step(index)
    return [
        accuracies(net, second, ours.threat, 10, 0, torch.device(arguments.device))
        for net in (plain.network, ours.network)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--objectives", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; try --device cpu", file=sys.stderr)
        return
    clock = "CPU s" if arguments.device == "cpu" else "wall s"
    head = ["network", "objective", f"plain, {clock} per step", "rnas_zoo", "times faster"]
    rows = [head + (["plain clean / PGD-10", "rnas_zoo clean / PGD-10"] if arguments.epochs else [])]
    for network in arguments.networks:
        for objective in arguments.objectives:
            plain, ours = speed(network, objective, arguments)
            rows.append([network, TITLES[objective], f"{plain:.3f}", f"{ours:.3f}", f"{plain / ours:.2f}"])
            if arguments.epochs:
                for found in held_out(network, objective, arguments):
                    rows[-1].append(f"{found['clean_accuracy']:.1%} / {found['pgd_accuracy']:.1%}")
    print(
        f"batches of {arguments.batch} at 32x32; {arguments.device}, {arguments.threads} thread(s), "
        f"torch {torch.__version__}, median of {arguments.repeats}"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
