"""What deployment promises, over the bundled ONNX files: onnxruntime beside torch, start-up without it, size of int8.

    python benchmarks/deployment.py [--repeats 3] [--seconds 0.5] [--threads 2] [--cpu-time]

Latency is that of one image, all models in turns (`rnas_zoo.deploy.bench`), the median of `--repeats` measurements;
`--cpu-time` with one thread counts CPU time, for machines that others use as well. Start-up is a fresh process with
NumPy, onnxruntime and the runtime file: import, session and first prediction.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rnas_zoo.cli.common import table
from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.bench import compete
from rnas_zoo.deploy.contestants import Settings, resolve
from rnas_zoo.models.weights import bundled_releases

STARTUP = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import numpy
from runtime import Session
session = Session(sys.argv[1], "cpu")
session.predict(numpy.zeros((1, *(size for size in session.input_shape if size not in (3, "batch")), 3), numpy.uint8))
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
GOALS = "goals: ratio at least 5x, start-up under 1 s, int8 at most 0.40 of fp32 (0.35 from 1 M parameters)"


def startup(file: Path, repeats: int, cpu_time: bool) -> float:
    """Median seconds of start-up, with nothing of this package but the runtime file."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(runtime.__file__, folder)
        for _ in range(repeats):
            command = [sys.executable, "-c", STARTUP, str(file.resolve())]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
            found.append(float(done.stdout.split()[cpu_time]))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    settings = Settings(seconds=arguments.seconds, compile=False)
    folders = [folder for folder in bundled_releases().values() if (folder / "model.onnx").is_file()]
    models = [resolve(folder, settings) for folder in folders]
    reports = [compete(models, settings, clock=clock) for _ in range(arguments.repeats)]
    rows = [["model", "torch ms", "onnxruntime ms", "ratio", "int8 ms", "start-up s", "int8 : fp32 bytes"]]
    for index, folder in enumerate(folders):
        runs = [{run["runtime"]: run for run in report["models"][index]["runs"]} for report in reports]
        times = {
            name: statistics.median(1000 * found[name]["latency"]["1"]["p50"] for found in runs) for name in runs[0]
        }
        ratio = statistics.median(found["onnxruntime"]["speedup"] for found in runs)
        int8, fp32 = folder / "model.int8.onnx", folder / "model.onnx"
        rows.append(
            [
                folder.name,
                f"{times['torch']:.2f}",
                f"{times['onnxruntime']:.3f}",
                f"{ratio:.1f}x",
                f"{times['onnxruntime int8']:.3f}" if "onnxruntime int8" in times else "–",
                f"{startup(fp32, arguments.repeats, arguments.cpu_time):.2f}",
                f"{int8.stat().st_size / fp32.stat().st_size:.2f}" if int8.is_file() else "–",
            ]
        )
    share = statistics.median(report["cpu_share"] for report in reports)
    kind = "CPU time" if arguments.cpu_time else "wall clock"
    print(f"one image, {arguments.threads} threads, {kind}, torch {torch.__version__}; {share:.0%} of a core was ours")
    print(table(rows))
    print(GOALS)


if __name__ == "__main__":
    main()
