"""What each of two processes finds: torchrun ... -m tests.searching.several DATA FOLDER writes rank.pt for each."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rnas_zoo.engine import distribution
from rnas_zoo.errors import InterruptedRunError
from rnas_zoo.searching.run import search
from rnas_zoo.searching.task import SearchTask

from .small import config

tasks: list[SearchTask] = []
written: list[str] = []
positions: list[torch.Tensor] = []
shapes: set[int] = set()
stop_at = -1


def watched(folder: Path) -> None:
    """Remember tasks, batches and files opened for writing; stop rank 1 in one step."""
    plain = SearchTask.step

    def step(self: SearchTask, index: int) -> Any:
        tasks.append(self)
        positions.append(self.train.positions(index))
        shapes.add(len(self.train(index)[1]))
        if index == stop_at and distribution.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, index)

    SearchTask.step = step  # type: ignore[method-assign]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and all(isinstance(value, str) for value in arguments[:2]):
            path, mode = arguments[:2]
            written.extend([path] if set(mode) & set("wax+") and path.startswith(str(folder)) else [])

    sys.addaudithook(audit)


def main(data: Path, folder: Path) -> None:
    global stop_at
    watched(folder)
    found: dict[str, Any] = {}
    settings = config(data, total_steps=3)
    with distribution.group():
        result = search(settings, folder / "whole.json", device="cpu")
        found["structure"] = result.to_json()["cells"]
        found["net"] = dict(tasks[-1].net.state_dict())
        stop_at = 1
        try:
            search(settings, folder / "parts.json", device="cpu")
        except InterruptedRunError as error:
            found["stopped"] = str(error)
        stop_at = -1
        search(settings, folder / "parts.json", resume=True, device="cpu")
        found["resumed"] = dict(tasks[-1].net.state_dict())
    found |= {"written": list(written), "positions": torch.cat(positions), "shapes": sorted(shapes)}
    torch.save(found, folder / f"{distribution.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
