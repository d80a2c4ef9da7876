"""One search as a task of the engine's loop: data, supernet, optimisers, and the steps that a method fills in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, random
from ..attacks import Keys
from ..engine import distribution
from ..engine.budget import PassCounter
from ..engine.capture import Captured
from ..engine.device import autocast
from ..errors import UsageError
from ..genotype import Cells, Channels
from ..training.objectives import perturbation
from ..training.schedule import cosine
from . import cost, methods
from .channel_supernet import ChannelSupernet
from .config import SearchConfig
from .discretize import entropy
from .supernet import Supernet
from .unrolled import Outer, Virtual, unrolled
from .watch import Watch

ARCHITECTURE_DRAWS = 2**31  # added to the positions that key the draws of architecture steps
EPOCHS_AT_LEAST = 20
TRAVEL = 2.0  # what arch_learning_rate = 0 lets α move at most, in logits
SLOWEST, FASTEST = 6e-4, 2e-2
MOMENTS = 50  # of the recorded history of α


class SearchTask:
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
        if config.total_steps < 1:
            raise UsageError(f"total_steps must be at least 1, got {config.total_steps}")
        self.config, self.device, self.threat = config, device, config.threat
        self.seed, self.total_steps = config.seed, config.total_steps
        self._autocast = lambda: autocast(device, config.precision)
        self._autocast()
        self.method = methods.build(config.method, dict(config.settings))
        self.method.state = {name: value.to(device) for name, value in self.method.state.items()}
        self.perturb = perturbation(config.attack, config.attack_steps, config.attack_mode)
        self.teacher = None if teacher is None else teacher.to(device).eval().requires_grad_(False)
        train, held_out = dataset.split(config.held_out_seed)
        self.train, self.validation = self._halves(train, dataset)
        self.epoch_steps = epoch_steps(config, self.train.steps_per_epoch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = self._supernet(dataset)
        self.net.to(device).to(memory_format=torch.channels_last).train()
        self.weights, self.alphas = list(self.net.weight_parameters()), list(self.net.arch_parameters())
        distribution.broadcast([*self.weights, *self.alphas])
        self.fraction, self.learning_rate = torch.zeros((), device=device), torch.zeros((), device=device)
        self.arch_learning_rate, self.in_tail = torch.zeros((), device=device), False
        self._highest_arch_rate = self._arch_rate()
        self._statistics = [b for name, b in self.net.named_buffers() if name.endswith(("running_mean", "running_var"))]
        self.weight_optimizer, self.arch_optimizer = self._optimizers()
        self.passes, self._cost_of = PassCounter(), dict[str, tuple[int, int]]()
        self.costs: dict[str, dict[str, Tensor]] = {}
        self._count_passes()
        self._steps = {
            phase: Captured(self._step_of(phase), device, enabled=capture) for phase in ("warmup", "search", "tail")
        }
        self.watch = Watch(self, held_out, dataset.num_classes)
        self.epoch_metrics: dict[str, float] = {}
        self.history: list[dict[str, Tensor]] = []

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _halves(self, train: data.ImageSet, dataset: data.Dataset) -> tuple[data.Batches, data.Batches]:
        config = self.config
        order = random.permutation(len(train), seed=config.seed, stream="search-halves", draw=0)
        half = len(order) // 2
        parts = (order, order) if config.shared else (order[:half], order[half:])
        first, second = (
            data.Batches(
                train.take(part),
                config.batch_size,
                seed=config.seed,
                stream=stream,
                augmentation=config.augmentation or dataset.augmentation,
                device=self.device,
                rank=distribution.rank(),
                world=distribution.world(),
            )
            for part, stream in zip(parts, ("search-train", "search-validation"), strict=True)
        )
        return first, second

    def _supernet(self, dataset: data.Dataset) -> Any:
        config, classes = self.config, dataset.num_classes
        if self.method.space != "channels":
            return Supernet(
                classes,
                config.channels,
                config.layers,
                config.stem,
                kind=self.method.space,
                partial=config.partial,
                none=config.none,
                image_size=dataset.image_size,
            )
        depth = getattr(self.method.settings, "depth", 3)
        tutors = len(self.method.tutor_names(self.teacher, dataset.image_size))  # type: ignore[attr-defined]
        return ChannelSupernet(classes, depths=(depth,) * 3, tutors=tutors, image_size=dataset.image_size)

    def _optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        config, fused = self.config, self.device.type == "cuda"
        weights: torch.optim.Optimizer
        if config.optimizer == "sgd":
            weights = torch.optim.SGD(
                self.weights, lr=1.0, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
            )
        elif config.optimizer == "adam":
            weights = torch.optim.Adam(self.weights, weight_decay=config.weight_decay, capturable=fused)
        else:
            raise UsageError(f"unknown optimizer {config.optimizer!r}; use sgd or adam")
        first, second = config.arch_betas
        alphas = torch.optim.Adam(
            self.alphas, betas=(first, second), weight_decay=config.arch_weight_decay, capturable=fused
        )
        return weights, alphas

    def _count_passes(self) -> None:
        def count(last: Tensor) -> None:
            images = len(last)
            self.passes.add(forward=images)
            if last.requires_grad:
                last.register_hook(lambda gradient: self.passes.add(backward=images))

        if isinstance(self.net, Supernet):
            self.net.cells[-1].register_forward_hook(lambda module, inputs, output: count(output))
        else:
            self.net.student.head.register_forward_pre_hook(lambda module, inputs: count(inputs[0]))

    # --- what methods use ---------------------------------------------------------------------------------------------

    def attack(self, x: Tensor, y: Tensor, keys: Keys) -> Tensor:
        """Images (N, 3, H, W) the configured attack finds on the supernet as it is, from x (N, 3, H, W) in [0, 1] with
        labels y (N,); draws are keyed by `keys`, and weights and α get no gradients.
        """
        return self.perturb(self.net, x, y, self.threat, keys)

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Of a loss without dimensions, averaged over all processes; zeros for parameters without a part in it."""
        found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        return self.average([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over all processes of tensors of any shape; the same number and shapes everywhere."""
        return distribution.average(tensors)

    def update(self, gradients: Sequence[Tensor]) -> None:
        """One optimiser step on the architecture parameters along `gradients`, shaped like `alphas`."""
        for alpha, gradient in zip(self.alphas, gradients, strict=True):
            alpha.grad = gradient
        self.arch_optimizer.step()

    def unrolled(self, inner: Callable[[], Tensor], outers: Sequence[Callable[[], Tensor]]) -> list[Outer]:
        """Second-order gradients of the outer losses through one virtual weight step on the inner one.

        Args:
            inner: gives the loss of the virtual step, at the weights as they are.
            outers: give the losses at the weights after it.

        Raises:
            UsageError: the optimizer of the weights is not `sgd`.
        """
        if self.config.optimizer != "sgd":
            raise UsageError("second-order gradients unroll a step of SGD; set optimizer to sgd")
        buffers = [self.weight_optimizer.state[weight].get("momentum_buffer") for weight in self.weights]
        virtual = Virtual(self.learning_rate, self.config.momentum, self.config.weight_decay, buffers)
        with self.net.untracked():
            return unrolled(self.weights, self.alphas, inner, outers, virtual, self.gradients)

    def expected(self, measure: str) -> Tensor:
        """Expected size of the networks that α describes (searching.cost), by the measure `parameters` or `macs`."""
        if isinstance(self.net, ChannelSupernet):
            return self.net.expected_macs()
        if measure not in self.costs:
            table = cost.cell_costs(self.net.plan, self.net.operations, measure, edge_weight="kept")
            self.costs[measure] = {role: unit.to(self.device) for role, unit in table.items()}
        return cost.expectation(dict(self.net.alphas.items()), self.costs[measure])

    def expected_at_start(self, measure: str) -> Tensor:
        """`expected` of the same measure at uniform α."""
        self.expected(measure)
        uniform = {role: torch.zeros_like(alpha) for role, alpha in self.net.alphas.items()}
        return cost.expectation(uniform, self.costs[measure])

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
        found = self._counted(phase, inputs)
        metrics: dict[str, Tensor | float] = dict(found) if isinstance(found, Mapping) else {}
        done = index + 1
        if done % self.epoch_steps == 0:
            self.epoch_metrics = {key: float(value) for key, value in self.method.after_epoch(self).items()}
        if self.watch.due(done):
            self.watch.look(done)
        if done % -(-self.total_steps // MOMENTS) == 0 or done == self.total_steps:
            self.history.append({"step": torch.tensor(done), **self.probabilities()})
        return metrics

    def _counted(self, phase: str, inputs: Sequence[Tensor]) -> Any:
        """The step; a replayed one calls no hooks and costs what the last one cost that did."""
        before = self.passes.forward, self.passes.backward
        found = self._steps[phase](*inputs)
        spent = self.passes.forward - before[0], self.passes.backward - before[1]
        if any(spent):
            self._cost_of[phase] = spent
        elif phase in self._cost_of:
            self.passes.add(*self._cost_of[phase])
        return found

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
