"""The protocol `standard` beside the authors' own package: process-CPU seconds and verdicts, image by image.

    python benchmarks/attacks.py [RELEASE_FOLDER] [--n 64] [--eps 16/255]

RELEASE_FOLDER is the demo's robust model (demo/robust) unless another is named. One thread, one run of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pyautoattack import AutoAttack

import rnas_zoo
from rnas_zoo import data
from rnas_zoo.cli.common import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="demo/robust")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--eps", default="16/255")
    arguments = parser.parse_args()
    if not Path(arguments.folder).is_dir():
        print(f"{arguments.folder} is not there: run `rnas-zoo demo` first", file=sys.stderr)
        return
    torch.set_num_threads(1)
    network = rnas_zoo.load(arguments.folder).requires_grad_(False)
    test = data.load("digits").test
    x = data.to_pixels(test.images[: arguments.n]).contiguous()
    y = torch.from_numpy(test.labels[: arguments.n])
    threat = rnas_zoo.Threat("linf", arguments.eps)

    begin = time.process_time()
    report = rnas_zoo.verify(network, x, y, threat=threat, protocol="standard", batch_size=arguments.n, device="cpu")
    ours_seconds = time.process_time() - begin
    ours = report.verdicts["clean_correct"] & (report.verdicts["broken_by"] == "")

    begin = time.process_time()
    reference = AutoAttack(network, norm="Linf", eps=threat.eps, version="standard", device="cpu", seed=0)
    found = reference.run_standard_evaluation(x, y, batch_size=arguments.n)[0]
    theirs_seconds = time.process_time() - begin
    with torch.no_grad():
        theirs = (network(found).argmax(1) == y).numpy()

    rows = [["", "robust", "CPU s", "ratio"]]
    rows.append(
        ["rnas_zoo standard", f"{ours.mean():.4f}", f"{ours_seconds:.1f}", f"{theirs_seconds / ours_seconds:.2f}x"]
    )
    rows.append(["pyautoattack standard", f"{theirs.mean():.4f}", f"{theirs_seconds:.1f}", "1.00x"])
    print(f"{arguments.folder}, {threat}, first {arguments.n} test digits, torch {torch.__version__}")
    print(table(rows))
    print(f"verdicts differ on {int(np.sum(ours != theirs))} of {arguments.n} images")


if __name__ == "__main__":
    main()
