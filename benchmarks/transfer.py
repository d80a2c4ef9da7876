"""What a pretrained body is worth on other images: robust accuracy after the same minutes with and without it.

    python benchmarks/transfer.py --init model_cards/NAME --data FOLDER --eps 4/255 --image-size 32 --time-budget 20m

Both networks have the architecture of `--init` and the same objective, time, seed and images; the second starts from
random weights, where the learning rate is the same for all of it. Each is fitted to the time and then attacked on the
first `--n` test images by PGD-20 and by `--protocol`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.engine.budget import parse_duration
from rnas_zoo.engine.device import resolve_device, threads
from rnas_zoo.engine.progress import Lines
from rnas_zoo.errors import RnasZooError
from rnas_zoo.reference import load_weights
from rnas_zoo.training.config import TrainConfig
from rnas_zoo.training.run import train
from rnas_zoo.training.transfer import architecture_of
from rnas_zoo.verification.run import verify


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--init", required=True, help="model name, release folder or hf-hub:owner/name")
    add("--data", required=True, help="name, FILE.npz or folder")
    add("--image-size", type=data.parse_size)
    add("--eps", default="4/255")
    add("--objective", default="nfgsm")
    add("--time-budget", type=parse_duration, default=1200.0)
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=0.1)
    add("--body-rate", type=float, default=0.1)
    add("--n", type=int, default=1000)
    add("--protocol", default="fast")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--threads", type=int, default=1)
    add("--work", type=Path, help="folder for the runs; they are kept there and go on from there")
    add("--only", choices=["with", "without"], help="one of the two networks; with --work, for two processes")
    return parser.parse_args(given)


def measure(config: TrainConfig, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train within the budget, then verify on test images."""
    info = train(config, folder, resume=True, fit_seconds=options.time_budget, device=options.device, reporter=Lines())
    dataset = data.load(config.data, config.image_size)
    model = timm.create_model(config.architecture, num_classes=dataset.num_classes, **config.model_args)
    load_weights(model, folder / "model.safetensors", config.architecture)
    threat, found = Threat(config.norm, config.eps), {"steps": info["steps_done"], "seconds": info["seconds"]}
    for protocol in dict.fromkeys(("quick", options.protocol)):
        report = verify(
            model.eval(),
            data_name=config.data,
            image_size=config.image_size,
            threat=threat,
            protocol=protocol,
            n=min(options.n, len(dataset.test)),
            seed=options.seed,
            device=options.device,
        )
        found[protocol] = {key: report.run[key] for key in ("n", "clean_accuracy", "robust_accuracy", "interval")}
    return found


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        architecture, model_args = architecture_of(options.init)
        base = TrainConfig(
            architecture,
            options.data,
            objective=options.objective,
            eps=options.eps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            average=0.998,
            average_from=0.5,
            bn_momentum=0.1,
            image_size=options.image_size,
            seed=options.seed,
            model_args=model_args,
        )
        with threads(options.threads), tempfile.TemporaryDirectory() as scratch:
            work = options.work or Path(scratch)
            resolve_device(options.device)
            both = {
                "with": replace(base, init=options.init, body_rate=options.body_rate),
                "without": base,
            }
            results = {
                f"{name} the body": measure(config, work / name, options)
                for name, config in both.items()
                if options.only in (None, name)
            }
    except RnasZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for name, found in results.items():
        print(f"{name}: {found['steps']} steps in {found['seconds']:.0f} s")
        for protocol in ("quick", options.protocol):
            run = found[protocol]
            low, high = run["interval"]
            print(
                f"  {protocol}: clean {run['clean_accuracy']:.1%}, robust {run['robust_accuracy']:.1%} "
                f"(95 % interval {low:.1%} to {high:.1%}), {run['n']} images"
            )
    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
