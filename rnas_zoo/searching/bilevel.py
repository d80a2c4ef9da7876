"""The two levels of a search, weights and architecture: what each learns from and by, and what methods use of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, random
from ..attacks import Keys
from ..engine import distribution
from ..engine.budget import PassCounter
from ..engine.counted import note
from ..engine.device import autocast
from ..errors import UsageError
from ..training.objectives import perturbation
from . import cost, methods
from .channel_supernet import ChannelSupernet
from .config import SearchConfig
from .supernet import Supernet
from .unrolled import Outer, Virtual, unrolled


class Bilevel:
    """A supernet whose weights learn from one half of the training images and whose architecture from the other.

    It does nothing by itself: `SearchTask` takes the steps, and sets the tensors that say how far it is.

    Args:
        config, dataset, device, teacher: see `SearchTask`.

    Attributes:
        train, validation: batches of the weights' and of the architecture's half.
        held_out: images that neither sees.
        passes: image passes through the supernet so far.

    Raises:
        UsageError: arguments out of range or that do not fit each other.
    """

    def __init__(
        self, config: SearchConfig, dataset: data.Dataset, device: torch.device, teacher: nn.Module | None = None
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
        train, self.held_out = dataset.split(config.held_out_seed)
        self.train, self.validation = self._halves(train, dataset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = self._supernet(dataset)
        self.net.to(device).to(memory_format=torch.channels_last).train()
        self.weights, self.alphas = list(self.net.weight_parameters()), list(self.net.arch_parameters())
        distribution.broadcast([*self.weights, *self.alphas])
        self.fraction, self.learning_rate = torch.zeros((), device=device), torch.zeros((), device=device)
        self.arch_learning_rate, self.in_tail = torch.zeros((), device=device), False
        self.weight_optimizer, self.arch_optimizer = self._optimizers()
        self.passes = PassCounter()
        self.costs: dict[str, dict[str, Tensor]] = {}
        self._count_passes()

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
        passes = self.passes
        if isinstance(self.net, Supernet):
            self.net.cells[-1].register_forward_hook(lambda module, inputs, output: note(passes, output))
        else:
            self.net.student.head.register_forward_pre_hook(lambda module, inputs: note(passes, inputs[0]))

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
