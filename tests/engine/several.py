"""What each of several processes finds: torchrun ... -m tests.engine.several FOLDER writes rank.json for every rank."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rnas_zoo.engine import distribution, loop
from rnas_zoo.engine.budget import fitting_steps
from rnas_zoo.engine.progress import Silent
from rnas_zoo.engine.record import RunFolder
from rnas_zoo.errors import CheckpointError, RnasZooError

from .walk import CONFIG, Walk

SHAPES = {"float64": (3, 2), "float32": (4,), "bfloat16": (2, 1)}


def tensors(rank: int) -> list[torch.Tensor]:
    """Of several types, shapes and memory formats, other numbers on every rank."""
    generator = torch.Generator().manual_seed(rank)
    found = [torch.randn(shape, generator=generator).to(getattr(torch, name)) for name, shape in SHAPES.items()]
    found.append(torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last))
    return [*found, torch.randn((), generator=generator), torch.empty(0), torch.randn(3, 5, generator=generator).t()]


class Together(Walk):
    """A walk whose position is averaged over ranks that differ; something may happen on rank 1 in one of its steps."""

    def __init__(self, at: int = -1, action: Any = None) -> None:
        super().__init__()
        self.at, self.action = at, action

    def step(self, index: int) -> dict[str, Any]:
        if index == self.at and distribution.rank() == 1:
            self.action()
        found = super().step(index)
        own = self.position * (1 + distribution.rank() - (distribution.world() - 1) / 2)
        (self.position,) = distribution.average([own])
        return found

    def observe(self) -> dict[str, float]:
        return {"processes": float(distribution.world())}

    def state_dict(self) -> dict[str, Any]:
        assert distribution.main(), "state_dict is for rank 0"
        return super().state_dict()


class LessOnRankOne:
    """A budget that lasts for so many steps on rank 1, and for ever elsewhere."""

    def __init__(self, steps: int) -> None:
        self.steps = steps + 1

    @property
    def left(self) -> float:
        self.steps -= 1
        return -1.0 if self.steps <= 0 and distribution.rank() == 1 else 1e9


class Count(Silent):
    steps = 0

    def advance(self, note: str = "", by: int = 1) -> None:
        self.steps += by


def run(path: Path, task: Walk, **options: Any) -> dict[str, Any]:
    reporter = Count()
    found: dict[str, Any] = {}
    try:
        folder = RunFolder(path, "train", CONFIG, resume=True)
        loop.run(task, folder, name="walk", record_every=3, checkpoint_seconds=0.0, reporter=reporter, **options)
        found["status"] = folder.info["status"]
    except RnasZooError as error:
        found["error"], found["code"] = str(error), error.exit_code
    return {**found, "taken": task.taken, "position": task.position.tolist(), "reported": reporter.steps}


def refused(path: Path) -> str:
    try:
        RunFolder(path, "train", CONFIG, resume=False)
    except RnasZooError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(out: Path) -> None:
    rank = distribution.rank()
    written: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opened or event in ("os.mkdir", "os.rename", "os.remove")) and str(arguments[0]).startswith(str(out)):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    found: dict[str, Any] = {"rank": rank, "world": distribution.world(), "main": distribution.main()}
    with distribution.group():
        with distribution.group("cpu"):
            found["gathered"] = distribution.gather({"rank": rank})
        own = tensors(rank)
        means = distribution.average(own)
        found["means"] = [(str(t.dtype), t.stride(), t.double().tolist()) for t in means]
        found["untouched"] = all(map(torch.equal, own, tensors(rank)))
        found["agreed"] = [distribution.agree(flag) for flag in (rank == 1, False, True)]
        found["largest"] = distribution.largest(7 - rank)
        found["fitting"] = fitting_steps(1.0 + rank, 100.0)
        distribution.broadcast(own)
        found["broadcast"] = all(map(torch.equal, own, tensors(0)))
        walk = out / "walk"
        found["runs"] = [
            run(walk, Together(), budget=LessOnRankOne(7)),
            run(walk, Together(11, lambda: signal.raise_signal(signal.SIGTERM))),
            run(walk, Together()),
        ]
        found["last"] = run(out / "last", Together(59, lambda: signal.raise_signal(signal.SIGINT)))
        found["refused"] = refused(walk)
        folder = RunFolder(walk, "train", CONFIG, resume=True)
        if rank == 1:
            folder.path = out / "elsewhere"
        try:
            loop.run(Together(), folder, name="walk")
        except CheckpointError as error:
            found["elsewhere"] = str(error)
    found["closed"] = not torch.distributed.is_initialized()
    found["written"] = list(written)
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
