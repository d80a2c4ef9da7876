"""One training as a task of the engine's loop: what is done at each step, and what training leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import data
from ..attacks import Keys
from ..engine import distribution
from ..engine.budget import PassCounter
from ..engine.capture import Captured
from ..engine.counted import Counted, note
from ..engine.device import autocast
from ..engine.folding import Twin
from ..engine.quick import quicken
from ..errors import UsageError
from ..models.pixels import in_pixels
from . import parts
from .attention import Taps
from .average import Average, reestimate
from .config import TrainConfig
from .parts import DOUBLE, MULTI, SINGLE
from .schedule import factor_of, ramp
from .watch import Watch, accuracies

EXAMPLES = 4
STATISTICS_BATCHES = 50  # at most; a training of fewer steps takes as many as it had


class TrainTask:
    """Learns the weights of one network; a `Task` of the engine.

    Args:
        config: with `total_steps` set.
        teacher: maps images in [0, 1] to logits; loaded from `config.teacher` if not given.
        capture: whole steps as CUDA graphs, where there is CUDA.

    Attributes:
        model: the network that learns, as timm made it; `network` takes images in [0, 1] to its logits.
        held_out: the images for selection.

    Raises:
        UsageError: arguments out of range or that do not fit each other.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: data.Dataset,
        device: torch.device,
        *,
        teacher: nn.Module | None = None,
        capture: bool = True,
    ) -> None:
        self.config, self.device, self.threat = config, device, config.threat
        self.seed, self.total_steps = config.seed, config.total_steps
        if config.total_steps < 1:
            raise UsageError(f"total_steps must be at least 1, got {config.total_steps}")
        self._autocast = lambda: autocast(device, config.precision)
        self._autocast()
        self._rate_at(0.0)
        train, self.held_out = dataset.split(config.seed, config.holdout)
        self.batches = data.Batches(
            train,
            config.batch_size,
            seed=config.seed,
            stream="train",
            augmentation=config.augmentation or dataset.augmentation,
            device=device,
            rank=distribution.rank(),
            world=distribution.world(),
        )
        self.model = parts.network(config, dataset.num_classes, device)
        self.network = in_pixels(self.model).to(device).train()
        if device.type == "cpu":
            quicken(self.model)
        example = data.to_pixels(self.held_out.images[:EXAMPLES], device)
        self.twin = Twin(self.network, example.contiguous(memory_format=torch.channels_last))
        self.auxiliary = parts.auxiliary_head(config, self.model, dataset.image_size[0], device)
        self.weights = [*self.model.parameters(), *(self.auxiliary.parameters() if self.auxiliary else ())]
        distribution.broadcast(self.weights)
        self.optimizer = parts.optimizer(config, self.model, self.auxiliary, device)
        classes = dataset.num_classes
        self.objectives = parts.objectives(config, self.model, teacher, dataset.image_size, classes, device)
        self.average: Average | None = None
        self.passes = passes = PassCounter()
        for counted in (self.model, self.twin.refreshed()) if self.twin.folded else (self.model,):
            # A function, since copies of the network would copy the counter along with one of its methods.
            counted.register_forward_hook(lambda _module, _inputs, logits: note(passes, logits))
        self.scale = torch.zeros((), device=device)
        # What captured steps read: one tensor per group, which stays the same one.
        self.rates = [torch.zeros((), device=device) for _ in self.optimizer.param_groups]
        captured = capture and not config.drop_path
        self._steps = {
            name: Counted(Captured(self._step_of(name), device, enabled=captured), passes) for name in self.objectives
        }
        self._statistics = [
            b for name, b in self.model.named_buffers() if name.endswith(("running_mean", "running_var"))
        ]
        self.watch = Watch(self, classes)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _rate_at(self, fraction: float) -> float:
        config = self.config
        return config.learning_rate * factor_of(config.schedule, fraction, config.peak_at, config.milestones)

    def phase(self, fraction: float) -> str:
        """`single`, then `multi`; `double` in the place of `single` after catastrophic overfitting."""
        if MULTI not in self.objectives:
            return SINGLE
        if fraction >= self.config.multi_step_from:
            return MULTI
        return DOUBLE if self.watch.guard.rollbacks else SINGLE

    def step(self, index: int) -> dict[str, Tensor | float]:
        """Take step `index`."""
        config, fraction = self.config, index / self.total_steps
        self.scale.fill_(ramp(fraction, config.eps_ramp))
        for group, tensor in zip(self.optimizer.param_groups, self.rates, strict=True):
            rate = self._rate_at(fraction) * group["factor"]
            group["lr"] = tensor.fill_(rate) if self.device.type == "cuda" else rate
        self.network.train()
        if config.drop_path and hasattr(self.model, "set_drop_path_rate"):
            self.model.set_drop_path_rate(config.drop_path * fraction)
        x, y = self.batches(index)
        metrics: Any = self._steps[self.phase(fraction)](x, y, self.batches.positions(index))
        done = index + 1
        if config.average and done >= config.average_from * self.total_steps:
            if self.average is None:
                self.average = Average(self.model, config.average)
            self.average.update(self.model)
        if self.watch.due(done):
            self.watch.look(done)
        return dict(metrics)

    def _step_of(self, phase: str) -> Callable[..., dict[str, Tensor]]:
        config = self.config

        def step(x: Tensor, y: Tensor, positions: Tensor) -> dict[str, Tensor]:
            keys, threat = Keys(self.seed, positions), self.threat.scaled(self.scale)
            attacked = self.twin.refreshed() if config.attack_mode == "eval" else self.network
            x = x.contiguous(memory_format=torch.channels_last)
            with self._autocast():
                if self.auxiliary is None:
                    learned = self.objectives[phase](self.network, attacked, x, y, threat, keys)
                    loss = learned.loss
                else:
                    with Taps(self.model, [f"cells.{self.model.auxiliary_cell}"]) as taps:
                        learned = self.objectives[phase](self.network, attacked, x, y, threat, keys)
                    (tap,) = taps.outputs
                    if config.auxiliary_on == "clean" and self.objectives[phase].images != "clean":
                        tap = self.model.forward_with_auxiliary(x)[1]
                        self.passes.add(forward=len(x), backward=len(x))
                    extra = F.cross_entropy(self.auxiliary(tap).float(), y)
                    loss = learned.loss + config.auxiliary_weight * extra
            for group in self.optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad = None
            loss.backward()
            self._share()
            if config.clip:
                nn.utils.clip_grad_norm_(self.weights, config.clip)
            self.optimizer.step()
            accuracy = (learned.logits.detach().argmax(1) == y).float().mean()
            return {"loss": learned.loss.detach(), "accuracy": accuracy, **learned.parts}

        return step

    def _share(self) -> None:
        """Gradients and running statistics become their means over all processes."""
        if distribution.world() == 1:
            return
        learned = [weight for weight in self.weights if weight.grad is not None]
        means = distribution.average([weight.grad for weight in learned if weight.grad is not None])
        for weight, mean in zip(learned, means, strict=True):
            weight.grad = mean
        self._share_statistics()

    def _share_statistics(self) -> None:
        for own, mean in zip(self._statistics, distribution.average(self._statistics), strict=True):
            own.copy_(mean)

    # --- what training leaves -----------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """Image passes so far and the last look at held-out images."""
        return {"passes": float(self.passes.total), **self.watch.seen}

    def finish(self) -> None:
        """Make `model` what is shipped: the selected or the averaged weights, with statistics that fit them."""
        average = self.average
        if self.config.select and self.watch.best:
            self.model.load_state_dict(self.watch.best)
        elif average is not None:
            self.model.load_state_dict(average.network.state_dict())
        if average is not None:
            source = copy.deepcopy(self.network).eval()
            reestimate(self.network, self._statistics_batches(source))
            self._share_statistics()
        self.network.eval()

    def _statistics_batches(self, source: nn.Module) -> Iterator[Tensor]:
        """Training images as the objective perturbs them, against a network that stays as it is."""
        objective = self.objectives[self.phase((self.total_steps - 1) / self.total_steps)]
        for index in range(min(STATISTICS_BATCHES, self.total_steps)):
            step = self.total_steps + index
            x, y = self.batches(step)
            x = x.contiguous(memory_format=torch.channels_last)
            with self._autocast():
                x = objective.perturbed(source, x, y, self.threat, Keys(self.seed, self.batches.positions(step)))
            yield x

    def snapshot(self) -> dict[str, Any]:
        """Everything that learning has changed."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.auxiliary is not None:
            state["auxiliary"] = self.auxiliary.state_dict()
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a snapshot, which stays as it is."""
        self.model.load_state_dict(state["model"])
        # Optimisers go on with the very tensors they are given.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])
        self.average = None
        if "average" in state:
            self.average = Average(self.model, self.config.average)
            self.average.load_state_dict(state["average"])
        for step in self._steps.values():
            step.reset()

    def state_dict(self) -> dict[str, Any]:
        return {**self.snapshot(), "passes": self.passes.state_dict(), "watch": self.watch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restore(state)
        self.passes.load_state_dict(state["passes"])
        self.watch.load_state_dict(state["watch"])

    def held_out_accuracy(self, attack_steps: int = 10) -> dict[str, float]:
        """Clean and PGD accuracy on the held-out training images."""
        return accuracies(self.network, self.held_out, self.threat, attack_steps, self.seed, self.device)
