"""What a training is watched by: accuracies on held-out images, and what follows from them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import data
from ..attacks import PGD, Keys, Threat, pgd
from ..engine import distribution
from ..engine.guard import Guard, GuardConfig
from .objectives import SINGLE_STEP, perturbation

if TYPE_CHECKING:
    from .task import TrainTask

MOST_LOOKS, MOST_IMAGES, FEWEST_IMAGES = 20, 512, 64
STEPS = 10
PASSES = 25  # of an image per look
SHARE = 0.05  # of the passes of a training whose steps take about four passes per image
SELECT_FROM = 0.5  # of training
POSITIONS = 2**30  # apart from those of training images


class Watch:
    """Up to twenty times a training: clean and PGD-10 accuracy on held-out images.

    While training attacks with a single step, the accuracy under that step is measured as well. After catastrophic
    overfitting training returns to the state of the last look and goes on with two steps. With `config.select` the
    averaged (or else the plain) weights of the look with the highest PGD-10 accuracy in the second half are kept.

    Looks and images are as many as take about a twentieth of the training's passes.
    """

    def __init__(self, task: TrainTask, classes: int) -> None:
        self.task = task
        affordable = int(SHARE * 4 * task.total_steps * task.config.batch_size / PASSES)
        images = min(MOST_IMAGES, max(FEWEST_IMAGES, affordable // MOST_LOOKS), len(task.held_out))
        self.looks = min(MOST_LOOKS, affordable // images)
        # Spread over all of them: some data sets hold out their images class by class.
        part = task.held_out.take(np.arange(images) * len(task.held_out) // images)
        self.x = data.to_pixels(part.images, task.device).contiguous(memory_format=torch.channels_last)
        self.y = torch.from_numpy(part.labels).to(task.device)
        self.guard = Guard(GuardConfig(learned=min(0.9, 1.5 / classes)))
        self.seen: dict[str, float] = {}
        self.good: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}
        self.best_accuracy = -1.0

    def due(self, done: int) -> bool:
        """Whether to look after `done` steps: at the end, and evenly spread before."""
        total = self.task.total_steps
        return self.looks > 0 and done * self.looks // total > (done - 1) * self.looks // total

    def look(self, done: int) -> None:
        """Measure; go back if robustness has collapsed, keep the weights if they are the best so far."""
        task = self.task
        fraction = done / task.total_steps
        plain, images = task.network, task.objectives[task.phase((done - 1) / task.total_steps)].images
        self.seen = {"held_out_clean": self._accuracy(plain, 0), "held_out_pgd10": self._accuracy(plain, STEPS)}
        if images in SINGLE_STEP:
            weak = self.seen["held_out_single_step"] = self._single_step(plain, images)
            collapsed = self.guard.check(done, weak, self.seen["held_out_pgd10"]) == "rollback"
            self.seen["rollbacks"] = float(self.guard.rollbacks)
            if collapsed:
                task.restore(self.good)
                return
            self.good = copy.deepcopy(task.snapshot())
        else:
            self.good = {}
        if task.config.select and fraction >= SELECT_FROM:
            chosen = task.average.network if task.average is not None else task.model
            accuracy = self.seen["held_out_pgd10"]
            if task.average is not None:
                accuracy = self.seen["held_out_average_pgd10"] = self._accuracy(chosen, STEPS)
            if accuracy > self.best_accuracy:
                self.best_accuracy, self.best = accuracy, copy.deepcopy(chosen.state_dict())

    def _accuracy(self, network: nn.Module, steps: int) -> float:
        keys, training = self._keys(), network.training
        network.eval()
        with torch.no_grad():
            right = network(self.x).argmax(1) == self.y
        if steps:
            right = right & ~pgd(network, self.x, self.y, self.task.threat, PGD(steps=steps), keys).broken
        network.train(training)
        return _share(right)

    def _single_step(self, network: nn.Module, images: str) -> float:
        threat: Threat = self.task.threat
        x = perturbation(images, 1)(network, self.x, self.y, threat, self._keys())
        training = network.training
        network.eval()
        with torch.no_grad():
            right = network(x).argmax(1) == self.y
        network.train(training)
        return _share(right)

    def _keys(self) -> Keys:
        return Keys(self.task.seed, torch.arange(len(self.y), device=self.y.device) + POSITIONS)

    def state_dict(self) -> dict[str, Any]:
        return {
            "guard": self.guard.state_dict(),
            "seen": dict(self.seen),
            "good": self.good,
            "best": self.best,
            "best_accuracy": self.best_accuracy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.guard.load_state_dict(state["guard"])
        self.seen, self.good = dict(state["seen"]), state["good"]
        self.best, self.best_accuracy = state["best"], state["best_accuracy"]


def _share(right: Tensor) -> float:
    """The share of ones, the same on all processes, which then decide alike: kernels may differ in the last bit."""
    return float(distribution.average([right.float().mean()])[0])


def accuracies(
    model: nn.Module, images: data.ImageSet, threat: Threat, attack_steps: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Clean accuracy and accuracy under PGD (last iterate) of a network in evaluation mode."""
    model.eval()
    clean = robust = 0
    for begin in range(0, len(images), 256):
        part = images.take(torch.arange(begin, min(begin + 256, len(images))).numpy())
        x, y = data.to_pixels(part.images, device), torch.from_numpy(part.labels).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            correct = model(x).argmax(1) == y
        keys = Keys(seed, torch.arange(begin, begin + len(x), device=device))
        attacked = pgd(model, x, y, threat, PGD(steps=attack_steps), keys)
        clean += int(correct.sum())
        robust += int((correct & ~attacked.broken).sum())
    return {"clean_accuracy": clean / len(images), "pgd_accuracy": robust / len(images)}
