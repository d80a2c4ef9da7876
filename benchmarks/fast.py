"""The protocol `fast` beside `standard`: robust accuracy, passes, and the images on which they differ.

    python benchmarks/fast.py --data cifar10 --eps 8/255 --n 1000 [REF ...]

REF is any model reference, for example release folders made by `rnas-zoo train` and `rnas-zoo package`; the demo's two
networks on the digits if none is named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch

import rnas_zoo
from rnas_zoo.cli.common import percent, table
from rnas_zoo.verification import evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("refs", nargs="*", metavar="REF", default=["demo/robust", "demo/control"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.refs == parser.get_default("refs") and not all(map(os.path.isdir, arguments.refs)):
        print(f"{', '.join(arguments.refs)}: run `rnas-zoo demo` first, or name models", file=sys.stderr)
        return
    torch.set_num_threads(arguments.threads)
    rows = [["model", "clean", "fast", "standard", "differ", "passes", "CPU time"]]
    for ref in arguments.refs:
        reports, seconds = {}, {}
        for protocol in ("fast", "standard"):
            begin = time.process_time()
            reports[protocol] = rnas_zoo.verify(
                ref,
                data_name=arguments.data,
                threat=rnas_zoo.Threat("linf", arguments.eps),
                protocol=protocol,
                n=arguments.n,
                device="cpu",
            )
            seconds[protocol] = time.process_time() - begin
        fast, standard = reports["fast"], reports["standard"]
        differ = evidence.standing(fast.verdicts) != evidence.standing(standard.verdicts)
        rows.append(
            [
                ref,
                percent(fast.clean_accuracy),
                percent(fast.robust_accuracy),
                percent(standard.robust_accuracy),
                str(int(differ.sum())),
                f"1/{standard.run['passes'] / fast.run['passes']:.1f}",
                f"1/{seconds['standard'] / seconds['fast']:.1f}",
            ]
        )
    print(f"{arguments.data}, L∞ {arguments.eps}, first {arguments.n} test images, torch {torch.__version__}")
    print(table(rows))


if __name__ == "__main__":
    main()
