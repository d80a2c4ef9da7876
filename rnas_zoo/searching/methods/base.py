"""What a search method is: four hooks, each of which does what first-order DARTS does unless a method says otherwise.

    min over α of L_val(w*(α), α)   subject to   w*(α) = argmin over w of L_train(w, α)

(Liu, Simonyan, Yang, ICLR 2019): both levels take one gradient step in turn, and w stands for w*(α). Everything else
is the engine's: data, attack, optimisers, schedules, resume, records, distribution, and the supernet of the method's
`space`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...attacks import Keys
from ...genotype import Cells, Channels

if TYPE_CHECKING:
    from ..task import SearchTask

Batch = tuple[Tensor, Tensor]
Metrics = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


class Method:
    """A search method; subclass it and override what differs from adversarial first-order DARTS.

    The `search` that every hook is given offers

    * `net`: the supernet; `net(x)` maps images (N, 3, H, W) in [0, 1] to logits, `net.features(x)` also returns the
      output of every cell; inside `net.untracked()` forwards leave running statistics alone;
    * `weights`, `alphas`: lists of its weight and its architecture parameters;
    * `attack(x, y, keys)`: the configured attack on the supernet as it is; images as they are for the attack `clean`;
    * `gradients(loss, parameters)`: averaged over all processes; a parameter without a part in the loss has zeros;
      `average(tensors)` averages anything else;
    * `unrolled(inner, outers)`: second-order gradients of outer losses through one virtual step on the inner one;
    * `update(gradients)`: one optimiser step on the architecture parameters;
    * `expected("parameters")`, `expected("macs")`: of the networks α describes, differentiable; `expected_at_start`
      the same at uniform α;
    * `config`, `threat`, `device`, `teacher`, `in_tail` (after the warm-up, the last `config.tail` of an epoch's
      steps), `fraction` (of all steps that is done) and `learning_rate` (of the weights), both tensors.

    Numbers that change from step to step must be tensors changed in place: on a GPU a step is captured and then
    replayed, once before the warm-up ends and once for each value of `in_tail`. Global random numbers are seeded from
    (seed, step); other draws are keyed by `keys`.

    Attributes:
        space: `cells`, `accurate_robust_cells` or `channels`; decides the supernet.
        Settings: a frozen dataclass of the method's own numbers; the configuration carries and checks them.
        presets: for `paper` and `fast`, what differs from the defaults of `SearchConfig`.
        searches: whether there are architecture and weight steps at all.
        arch_phases: in which phases of an epoch, its `search` and its `tail`, architecture steps change anything.
        second_order: whether architecture steps need gradients of the weights; these are switched off otherwise.
        settings: the numbers of this search, a `Settings`; its defaults if none are given.
        state: tensors that change during a search; checkpoints keep them.
    """

    space: ClassVar[str] = "cells"
    Settings: ClassVar[type] = NoSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "fast": {}}
    searches: ClassVar[bool] = True
    arch_phases: ClassVar[tuple[str, ...]] = ("search", "tail")
    second_order: ClassVar[bool] = False

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings if settings is not None else self.Settings()
        self.state: dict[str, Tensor] = {}

    def weight_loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> Tensor | None:
        """What the weights minimise on a training batch; None: the weights rest in this step.

        Args:
            search: see above.
            x, y: images (N, 3, H, W) in [0, 1] and their labels (N,).
            keys: for draws, such as the attack's.
        """
        return F.cross_entropy(search.net(search.attack(x, y, keys)), y)

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        """Change the architecture parameters, and tell what was measured on the way.

        Args:
            search: see above.
            train, validation: a batch of each half of the training images, (N, 3, H, W) in [0, 1] and labels (N,); the
                weight step of the same index learns from the same training batch.
            keys: for draws; others than those of the weight step.

        Returns:
            Numbers by name, tensors without dimensions, for the run's record.
        """
        x, y = validation
        loss = F.cross_entropy(search.net(x), y)
        search.update(search.gradients(loss, search.alphas))
        return {"validation_loss": loss.detach()}

    def after_epoch(self, search: SearchTask) -> Metrics:
        """Called after the last step of every epoch."""
        return {}

    def derive(self, search: SearchTask) -> Cells | Channels:
        """The architecture of the parameters as they are."""
        return search.net.derive()
