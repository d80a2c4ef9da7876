"""One search as a task of the engine's loop: the steps that a method fills in, their schedule, and what they leave."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import data
from ..attacks import Keys
from ..engine.capture import Captured
from ..engine.counted import Counted
from ..genotype import Cells, Channels
from ..training.schedule import cosine
from .bilevel import Bilevel
from .config import SearchConfig
from .discretize import entropy
from .watch import Watch

ARCHITECTURE_DRAWS = 2**31  # added to the positions that key the draws of architecture steps
EPOCHS_AT_LEAST = 20
TRAVEL = 2.0  # what arch_learning_rate = 0 lets α move at most, in logits
SLOWEST, FASTEST = 6e-4, 2e-2
MOMENTS = 50  # of the recorded history of α


class SearchTask(Bilevel):
    """Alternates architecture steps on one half of the training images and weight steps on the other.

    Args:
        config: with `total_steps` set.
        dataset: its training images are halved; held-out ones are only watched.
        device: where everything runs.
        teacher: maps images in [0, 1] to logits, for methods that distil; it is frozen here.
        capture: whole steps as CUDA graphs, where there is CUDA.

    Raises:
        UsageError: arguments out of range or that do not fit each other.
    """

    def __init__(
        self,
        config: SearchConfig,
        dataset: data.Dataset,
        device: torch.device,
        *,
        teacher: nn.Module | None = None,
        capture: bool = True,
    ) -> None:
        super().__init__(config, dataset, device, teacher)
        self.epoch_steps = epoch_steps(config, self.train.steps_per_epoch)
        self._highest_arch_rate = self._arch_rate()
        self._statistics = [b for name, b in self.net.named_buffers() if name.endswith(("running_mean", "running_var"))]
        self._steps = {
            phase: Counted(Captured(self._step_of(phase), device, enabled=capture), self.passes)
            for phase in ("warmup", "search", "tail")
        }
        self.watch = Watch(self, self.held_out, dataset.num_classes)
        self.epoch_metrics: dict[str, float] = {}
        self.history: list[dict[str, Tensor]] = []

    # --- steps --------------------------------------------------------------------------------------------------------

    def phase(self, index: int) -> str:
        """`warmup`, `search` or `tail`."""
        config = self.config
        if index < config.warmup * self.total_steps:
            return "warmup"
        tail = max(1, round(config.tail * self.epoch_steps)) if config.tail else 0
        return "tail" if index % self.epoch_steps >= self.epoch_steps - tail else "search"

    def step(self, index: int) -> dict[str, Tensor | float]:
        """Step `index`: one of the architecture unless it warms up, and one of the weights unless they rest."""
        if not self.method.searches:
            return {}
        phase, fraction, config = self.phase(index), index / self.total_steps, self.config
        self.fraction.fill_(fraction)
        self.learning_rate.fill_(config.learning_rate * cosine(fraction, config.learning_rate_floor))
        self.arch_learning_rate.fill_(self._highest_arch_rate * cosine(fraction, config.arch_learning_rate_floor))
        self._set_rates()
        x, y = self.train(index)
        inputs = [x, y, self.train.positions(index)]
        inputs += self.validation(index) if phase != "warmup" else ()
        self.in_tail = phase == "tail"
        found = self._steps[phase](*inputs)
        metrics: dict[str, Tensor | float] = dict(found) if isinstance(found, Mapping) else {}
        done = index + 1
        if done % self.epoch_steps == 0:
            self.epoch_metrics = {key: float(value) for key, value in self.method.after_epoch(self).items()}
        if self.watch.due(done):
            self.watch.look(done)
        if done % -(-self.total_steps // MOMENTS) == 0 or done == self.total_steps:
            self.history.append({"step": torch.tensor(done), **self.probabilities()})
        return metrics

    def arch_steps(self) -> int:
        """Steps of the whole search that change the architecture."""
        if not self.method.searches:
            return 0
        return sum(self.phase(index) in self.method.arch_phases for index in range(self.total_steps))

    def _arch_rate(self) -> float:
        if self.config.arch_learning_rate:
            return self.config.arch_learning_rate
        steps = self.arch_steps()
        return min(FASTEST, max(SLOWEST, TRAVEL / max(1, steps)))

    def _set_rates(self) -> None:
        for optimizer, rate in (
            (self.weight_optimizer, self.learning_rate),
            (self.arch_optimizer, self.arch_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate if self.device.type == "cuda" else float(rate)

    def _step_of(self, phase: str) -> Callable[..., dict[str, Tensor]]:
        def step(x: Tensor, y: Tensor, positions: Tensor, *validation: Tensor) -> dict[str, Tensor]:
            keys = Keys(self.seed, positions)
            metrics: dict[str, Any] = {}
            if phase != "warmup":
                later = Keys(self.seed, positions + ARCHITECTURE_DRAWS)
                with self._autocast(), _frozen([] if self.method.second_order else self.weights):
                    metrics.update(self.method.arch_step(self, (x, y), (validation[0], validation[1]), later))
            with self._autocast(), _frozen(self.alphas):
                loss = self.method.weight_loss(self, x, y, keys)
            if loss is not None:
                for weight, gradient in zip(self.weights, self.gradients(loss, self.weights), strict=True):
                    weight.grad = gradient
                if self.config.clip:
                    nn.utils.clip_grad_norm_(self.weights, self.config.clip)
                self.weight_optimizer.step()
                metrics["train_loss"] = loss.detach()
            # Every process attacks the same network, and the one that rank 0 has saved.
            for own, mean in zip(self._statistics, self.average(self._statistics), strict=True):
                if mean is not own:
                    own.copy_(mean)
            return {name: torch.as_tensor(value) for name, value in metrics.items()}

        return step

    # --- what a search leaves -----------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """Entropy of α, skip connections of the cells that would be derived now, expected size, and the watch."""
        if not self.method.searches:
            return {}
        found = self.derive()
        row = {"passes": float(self.passes.total), **self.epoch_metrics, **self.watch.seen}
        row["entropy"] = sum(entropy(alpha.detach().float().cpu().numpy()) for alpha in self.net.alphas.values()) / len(
            self.net.alphas
        )
        with torch.no_grad():
            row["expected_macs"] = float(self.expected("macs"))
            if isinstance(found, Cells):
                row["expected_parameters"] = float(self.expected("parameters"))
                row["skips"] = float(sum(edge.op == "skip_connect" for edge in found.cells[0].edges))
        return row

    def probabilities(self) -> dict[str, Tensor]:
        """softmax(α) by name, on the CPU."""
        return {name: alpha.detach().float().softmax(-1).cpu() for name, alpha in self.net.alphas.items()}

    def derive(self) -> Cells | Channels:
        """The architecture of the parameters as they are."""
        return self.method.derive(self)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.snapshot(),
            "passes": self.passes.state_dict(),
            "epoch_metrics": dict(self.epoch_metrics),
            "watch": self.watch.state_dict(),
            "history": list(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restore(state)
        self.passes.load_state_dict(state["passes"])
        self.epoch_metrics = dict(state["epoch_metrics"])
        self.watch.load_state_dict(state["watch"])
        self.history = list(state["history"])

    def snapshot(self) -> dict[str, Any]:
        """Everything that learning has changed."""
        return {
            "net": self.net.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
            "method": dict(self.method.state),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a snapshot, which stays as it is."""
        self.net.load_state_dict(state["net"])
        # Optimisers go on with the very tensors they are given.
        self.weight_optimizer.load_state_dict(copy.deepcopy(state["weight_optimizer"]))
        self.arch_optimizer.load_state_dict(copy.deepcopy(state["arch_optimizer"]))
        for name, value in state["method"].items():
            self.method.state[name].copy_(value)
        for step in self._steps.values():
            step.reset()


def epoch_steps(config: SearchConfig, steps_per_pass: int) -> int:
    """Steps of an epoch: a pass over the weights' images, or a twentieth of the search if that is shorter.

    It is never so short that a tail would be more than its part.
    """
    least = round(1 / config.tail) if config.tail else 1
    return max(least, min(steps_per_pass, config.total_steps // EPOCHS_AT_LEAST))


@contextmanager
def _frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)
