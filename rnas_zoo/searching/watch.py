"""What a search is watched by: accuracies of the supernet on held-out images, and what is done when they collapse."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import data
from ..attacks import Keys
from ..engine.guard import Guard, GuardConfig
from ..training.objectives import SINGLE_STEP, perturbation

if TYPE_CHECKING:
    from .task import SearchTask

MOST_IMAGES, FEWEST_IMAGES, MOST_LOOKS = 128, 32, 20
STEPS = 10
PASSES = 25  # of an image per look
SHARE = 0.1  # of the passes of a search whose steps take about five passes per image
POSITIONS = 2**30  # apart from those of training images


class Watch:
    """Up to twenty times a search: clean and PGD-10 accuracy, the proxy of robustness that the record shows.

    Batch norms use the statistics of the watched batch, which stay out of the running ones. Looks and images are as
    many as take about a tenth of the search's passes.

    Where weights learn from a single-step attack its accuracy is measured as well. After catastrophic overfitting the
    search returns to the state of the last look and goes on with multi-step PGD: two steps, one more per relapse.
    """

    def __init__(self, task: SearchTask, held_out: data.ImageSet, classes: int) -> None:
        self.task = task
        affordable = int(SHARE * 5 * task.total_steps * task.config.batch_size / PASSES)
        images = min(MOST_IMAGES, max(FEWEST_IMAGES, affordable // MOST_LOOKS), len(held_out))
        self.looks = min(MOST_LOOKS, max(1, affordable // images))
        part = held_out.take(torch.arange(images).numpy())
        self.x, self.y = data.to_pixels(part.images, task.device), torch.from_numpy(part.labels).to(task.device)
        self.period = -(-task.total_steps // self.looks)
        self.guarded = task.config.attack in SINGLE_STEP
        self.guard = Guard(GuardConfig(learned=min(0.9, 1.5 / classes)))
        self.seen: dict[str, float] = {}
        self.good: dict[str, Any] = {}

    def due(self, done: int) -> bool:
        """Whether to look after `done` steps."""
        return done % self.period == 0

    def look(self, done: int) -> None:
        """Measure, and go back if robustness has collapsed."""
        strong = self._accuracy(perturbation("pgd", STEPS, "train"))
        self.seen = {"held_out_clean": self._accuracy(perturbation("clean", 1)), "held_out_pgd10": strong}
        if not self.guarded:
            return
        weak = self._accuracy(perturbation(self.task.config.attack, 1, "train"))
        self.seen["held_out_single_step"] = weak
        if self.guard.check(done, weak, strong) == "rollback":
            self.task.restore(self.good)
            self._escalate()
        else:
            self.good = copy.deepcopy(self.task.snapshot())
        self.seen["rollbacks"] = float(self.guard.rollbacks)

    def _escalate(self) -> None:
        if self.guard.rollbacks:
            self.task.perturb = perturbation("pgd", 1 + self.guard.rollbacks, self.task.config.attack_mode)

    def _accuracy(self, perturb: Any) -> float:
        task, keys = self.task, Keys(self.task.seed, torch.arange(len(self.y), device=self.y.device) + POSITIONS)
        with task.net.untracked():
            x = perturb(task.net, self.x, self.y, task.threat, keys)
            with torch.no_grad():
                right = (task.net(x).argmax(1) == self.y).float().mean()
        mean: Tensor = task.average([right])[0]
        return float(mean)

    def state_dict(self) -> dict[str, Any]:
        return {"guard": self.guard.state_dict(), "seen": dict(self.seen), "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.guard.load_state_dict(state["guard"])
        self.seen, self.good = dict(state["seen"]), state["good"]
        self._escalate()
