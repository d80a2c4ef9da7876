"""What keeping freed memory is worth: adversarial training steps on the CPU, with malloc as it is and told to keep.

    python benchmarks/memory.py [--network rnas_cl_s3] [--batch 128] [--steps 8] [--repeats 3] [--threads 1]

Processes of both kinds take turns; each takes 8 N-FGSM steps that are not counted, then `--steps` that are. Printed are
medians over the processes of each one's median process-CPU seconds a step, and the pages the kernel had to fill.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from rnas_zoo.cli.common import table
from rnas_zoo.engine.memory import VARIABLES, keep_freed_memory

UNCOUNTED = 8


def child(kept: bool, arguments: argparse.Namespace) -> None:
    """Measure in this process, and print what was found."""
    if kept:
        keep_freed_memory()
    import torch

    from rnas_zoo import data
    from rnas_zoo.training.config import TrainConfig
    from rnas_zoo.training.task import TrainTask

    torch.set_num_threads(arguments.threads)
    config = TrainConfig(
        arguments.network, "digits", objective="nfgsm", batch_size=arguments.batch, total_steps=1000, eps_ramp=0.0
    )
    task = TrainTask(config, data.load("digits"), torch.device("cpu"))
    times = []
    for index in range(UNCOUNTED + arguments.steps):
        faults, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        float(task.step(1 + index)["loss"])
        times.append((time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    counted = times[UNCOUNTED:]
    print(json.dumps([statistics.median(column) for column in zip(*counted, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="rnas_cl_s3")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=["plain", "kept"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child == "kept", arguments)
        return
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "kept": []}
    for _ in range(arguments.repeats):
        for kind, measured in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            measured.append(tuple(json.loads(done.stdout)))
    seconds, pages = ({k: statistics.median(column[i] for column in v) for k, v in found.items()} for i in (0, 1))
    rows = [["malloc", "CPU s per step", "pages per step", "ratio"]]
    rows += [[k, f"{seconds[k]:.3f}", f"{pages[k]:,.0f}", f"{seconds['plain'] / seconds[k]:.2f}x"] for k in found]
    print(table(rows))


if __name__ == "__main__":
    main()
