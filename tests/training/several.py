"""What each of two processes learns: torchrun ... -m tests.training.several DATA FOLDER writes rank.pt for each."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rnas_zoo.engine import distribution
from rnas_zoo.errors import InterruptedRunError
from rnas_zoo.training import task as task_module
from rnas_zoo.training.config import TrainConfig
from rnas_zoo.training.run import train
from rnas_zoo.training.task import TrainTask

from .small import configured

tasks: list[TrainTask] = []
written: list[str] = []
shapes: set[int] = set()
stop_at = -1


def without_batch_norm(path: Any) -> TrainConfig:
    """A small transformer: what it learns does not depend on how a batch is divided."""
    model_args = {"img_size": 16, "patch_size": 4}
    return configured(path, architecture="test_vit", objective="clean", augmentation="crop_flip", model_args=model_args)


def everything(path: Any) -> TrainConfig:
    """Batch norm, single and several steps, average and selection."""
    return configured(
        path, objective="nfgsm", augmentation="crop_flip", multi_step_from=0.5, average=0.9, average_from=0.2,
        select=True,
    )  # fmt: skip


def watched(folder: Path) -> None:
    """Remember tasks, batches and files written or renamed; look often; stop rank 1 in one step."""
    plain = TrainTask.step

    def step(self: TrainTask, index: int) -> Any:
        tasks.append(self)
        self.watch.looks = 3
        shapes.add(len(self.batches(index)[1]))
        if index == stop_at and distribution.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, index)

    TrainTask.step = step  # type: ignore[method-assign]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and all(isinstance(value, str) for value in arguments[:2]):
            path, mode = arguments[:2]
            written.extend([path] if set(mode) & set("wax+") and path.startswith(str(folder)) else [])

        if event == "os.rename" and str(arguments[1]).startswith(str(folder)):
            written.append(str(arguments[1]))

    sys.addaudithook(audit)


def state() -> dict[str, Any]:
    task = tasks[-1]
    found = {"model": dict(task.model.state_dict()), "seen": task.observe()}
    return {**found, "average": dict(task.average.network.state_dict()) if task.average else {}}


def main(data: Path, folder: Path) -> None:
    global stop_at
    watched(folder)
    task_module.STATISTICS_BATCHES = 3
    found: dict[str, Any] = {}
    with distribution.group():
        train(without_batch_norm(data), folder / "plain", device="cpu")
        found["plain"] = state()
        train(everything(data), folder / "whole", device="cpu")
        found["whole"] = state()
        stop_at = 3
        try:
            train(everything(data), folder / "parts", device="cpu")
        except InterruptedRunError as error:
            found["stopped"] = str(error)
        stop_at = -1
        train(everything(data), folder / "parts", resume=True, device="cpu")
        found["resumed"] = state()
    found |= {"written": list(written), "shapes": sorted(shapes)}
    torch.save(found, folder / f"{distribution.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
