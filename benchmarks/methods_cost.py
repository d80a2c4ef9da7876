"""What one step of each search method costs: image passes, and CPU or wall time as a ratio to adversarial DARTS.

    python benchmarks/methods_cost.py [--preset paper] [--channels 8] [--layers 5] [--batch-size 16] [--device cpu]

All methods of cells run on a supernet of one size, in one process and turn by turn; a step is one of the architecture
(after the warm-up, outside tails) and one of the weights. Times are medians: process-CPU seconds on the CPU, seconds
after synchronisation on a GPU. There is no accuracy beside them: `benchmarks/methods.py` compares what is found.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from rnas_zoo import data
from rnas_zoo.engine.device import resolve_device, threads
from rnas_zoo.searching.run import configured
from rnas_zoo.searching.task import SearchTask

METHODS = ("darts", "darts_clean", "rnas_noise", "rnas_vuln", "e2rnas", "arnas")
STEPS = 1000


def seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--preset", default="paper", choices=["paper", "fast"])
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--stem", default="cifar")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device, dataset = resolve_device(given.device), data.load(given.data)
    shape = {name: getattr(given, name) for name in ("channels", "layers", "stem", "batch_size")}
    tasks = {
        name: SearchTask(
            configured(given.data, name, given.preset, partial=1, total_steps=STEPS, **shape), dataset, device
        )
        for name in METHODS
    }
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    passes: dict[str, float] = {}
    with threads(given.threads):
        for repeat in range(given.repeats + 1):
            for name, task in tasks.items():
                late = [i for i in range(STEPS // 2, STEPS) if task.phase(i) == "search" and not task.watch.due(i + 1)]
                before, begin = task.passes.total, seconds(device)
                task.step(late[repeat])
                if repeat:
                    times[name].append(seconds(device) - begin)
                    passes[name] = (task.passes.total - before) / given.batch_size
    base = median(times["darts"])
    print(f"{given.preset} presets, {shape}, {device}, median of {given.repeats}")
    print(f"{'method':<14}{'passes per image':>18}{'seconds per step':>18}{'to darts':>10}")
    for name in METHODS:
        took = median(times[name])
        print(f"{name:<14}{passes[name]:>18.1f}{took:>18.3f}{took / base:>10.2f}")


if __name__ == "__main__":
    main()
