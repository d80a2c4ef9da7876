"""Catastrophic overfitting of single-step adversarial training: noticed by two accuracies, answered by going back.

Within a few hundred steps a network trained on single-step adversarial images can lose all accuracy under PGD, while
its accuracy under the training attack stays or rises. Wong, Rice and Kolter ("Fast is better than free", ICLR 2020)
notice it by PGD on a minibatch, which is the signal here, and stop. Andriushchenko and Flammarion ("Understanding and
improving fast adversarial training", NeurIPS 2020) explain it: gradients inside the ball are no longer aligned, so that
the single step ceases to find what PGD finds. The gap between the two accuracies therefore tells this failure from
training that goes badly altogether, where both fall.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import CheckFailedError, UsageError

Verdict = Literal["keep", "rollback"]


@dataclass(frozen=True)
class GuardConfig:
    """When a network has collapsed.

    Attributes:
        fall: fraction of the best strong accuracy below which it has collapsed.
        widening: by how much the gap of weak over strong accuracy must exceed the gap at the best strong accuracy.
        learned: strong accuracy that must have been reached before; 1.5 / classes is half again the level of chance.
        rollbacks_max: collapses after which going back is given up.

    Raises:
        UsageError: a fraction outside (0, 1), or negative `rollbacks_max`.
    """

    fall: float = 0.5
    widening: float = 0.25
    learned: float = 0.15
    rollbacks_max: int = 3

    def __post_init__(self) -> None:
        for name in ("fall", "widening", "learned"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.rollbacks_max < 0:
            raise UsageError(f"rollbacks_max must not be negative, got {self.rollbacks_max}")


class Guard:
    """Judges the accuracies of the network as it is; the task keeps the snapshots.

    After `keep` the task may take a snapshot of all its state; after `rollback` it restores the last one and goes on
    with the *next* step, since taking the same steps again would end in the same collapse. The guard's own state
    belongs into checkpoints, not into snapshots. Under torchrun every process must pass the same accuracies.

    Attributes:
        best: best strong accuracy so far.
        gap: weak minus strong accuracy where the best strong accuracy was.
        rollbacks: collapses so far.
    """

    def __init__(self, config: GuardConfig | None = None) -> None:
        self.config = config or GuardConfig()
        self.best, self.gap, self.rollbacks = 0.0, 0.0, 0

    def check(self, step: int, weak_accuracy: float, strong_accuracy: float) -> Verdict:
        """What to do about the network after `step`.

        Args:
            weak_accuracy: on one held batch under the single-step attack it is trained with, in [0, 1].
            strong_accuracy: on the same images under PGD-10 of the same size, in [0, 1].

        Raises:
            CheckFailedError: it has collapsed again after `rollbacks_max` rollbacks.
            UsageError: an accuracy outside [0, 1].
        """
        if not (0 <= weak_accuracy <= 1 and 0 <= strong_accuracy <= 1):
            raise UsageError(f"accuracies lie between 0 and 1, got {weak_accuracy} and {strong_accuracy}")
        gap = weak_accuracy - strong_accuracy
        if strong_accuracy > self.best:
            self.best, self.gap = strong_accuracy, gap
        learned = self.best >= self.config.learned
        fallen = strong_accuracy < self.config.fall * self.best
        if not (learned and fallen and gap - self.gap >= self.config.widening):
            return "keep"
        if self.rollbacks == self.config.rollbacks_max:
            raise CheckFailedError(
                f"catastrophic overfitting at step {step}, after {self.rollbacks} rollbacks: PGD accuracy fell from "
                f"{self.best:.1%} to {strong_accuracy:.1%} while single-step accuracy is {weak_accuracy:.1%}. "
                "Train with a multi-step attack (pgd), a smaller eps or a lower learning rate."
            )
        self.rollbacks += 1
        return "rollback"

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"best": self.best, "gap": self.gap, "rollbacks": self.rollbacks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.gap, self.rollbacks = state["best"], state["gap"], state["rollbacks"]
