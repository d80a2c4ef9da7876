"""A tiny task for the loop, and a process that runs it: python -m tests.engine.walk FOLDER."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from rnas_zoo.engine import loop
from rnas_zoo.engine.progress import Silent
from rnas_zoo.engine.record import RunFolder
from rnas_zoo.errors import RnasZooError

STEPS = 60
CONFIG = {"steps": STEPS}


class Walk:
    """A random walk: each step adds global random numbers (reseeded by the loop) and the step's index."""

    def __init__(self, seed: int = 3, total_steps: int = STEPS) -> None:
        self.seed, self.total_steps = seed, total_steps
        self.position, self.taken = torch.zeros(4), 0

    def step(self, index: int) -> dict[str, Any]:
        assert index == self.taken, "steps come in order, each once"
        self.position = 0.9 * self.position + torch.rand(4) + index / 7
        self.taken += 1
        return {"loss": self.position.sum(), "taken": float(self.taken)}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.taken = state["position"], state["taken"]


class Announce(Silent):
    """Says on standard output that a step is done, then takes a little time, and after 20 steps much time."""

    steps = 0

    def advance(self, note: str = "", by: int = 1) -> None:
        self.steps += 1
        print("step", flush=True)
        time.sleep(0.02 if self.steps < 20 else 0.5)


def main(path: Path) -> int:
    folder = RunFolder(path, "train", CONFIG, resume=False)
    try:
        loop.run(Walk(), folder, name="walk", reporter=Announce(), record_every=3, checkpoint_seconds=0.05)
    except RnasZooError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
