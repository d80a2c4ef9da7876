"""RNAS-CL: robustness distilled from a teacher while searching widths and tutors (Nath, Wang, Yang, UAI 2024).

    L = α_c (CE + γ A + KL(teacher ‖ student)) · β_c log MACs

on clean images. A lets every convolution of the student look where its tutors look, the teacher layers it chooses
(training.attention); widths, tutors and hence MACs are Gumbel-softmax choices (searching.channel_supernet). Unlike in
DARTS, both levels minimise one loss on the same images: weights in the first part of each epoch, the architecture in
its last fifth. As in the published code, log(MACs^β_c) = β_c log MACs stands for the cost, and no latency is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attacks import Keys
from ...errors import UsageError
from ...training.attention import READINGS, Taps, attention_loss, attention_map, distillation_kl, tutor_layers
from .base import Batch, Method, Metrics

if TYPE_CHECKING:
    from ..task import SearchTask

LEVELS = 100  # the temperature falls in as many equal steps as the paper's search has epochs
PAPER = {
    "epochs": 100,
    "batch_size": 256,
    "attack": "clean",
    "clip": 0.0,
    "tail": 0.2,
    "shared": True,
    "warmup": 0.0,
    "augmentation": "pad_crop_flip",
    "optimizer": "adam",
    "learning_rate": 0.004,
    "learning_rate_floor": 4e-5,
    "weight_decay": 2e-4,
    "arch_learning_rate": 0.1,
    "arch_learning_rate_floor": 4e-5,
    "arch_betas": (0.9, 0.999),
    "arch_weight_decay": 1e-4,
}


@dataclass(frozen=True)
class RnasClSettings:
    """Numbers of RNAS-CL; the defaults are those of the published code.

    Attributes:
        depth: blocks per stage (S3: 3, S5: 5, S7: 7).
        alpha_cost, beta_cost: α_c and β_c of the cost factor.
        gamma: weight of the attention term.
        attention: reading of the attention term, `paper` or `repo`.
        grid: height and width all attention maps are resized to.
        temperature: T of the Gumbel-softmax at the beginning.
        temperature_decay: T ends at e to minus this times that.

    Raises:
        UsageError: a number outside its range.
    """

    depth: int = 3
    alpha_cost: float = 0.2
    beta_cost: float = 0.5
    gamma: float = 1.0
    attention: str = "paper"
    grid: int = 14
    temperature: float = 5.0
    temperature_decay: float = 4.5

    def __post_init__(self) -> None:
        if self.attention not in READINGS:
            raise UsageError(f"attention must be one of {', '.join(READINGS)}, got {self.attention!r}")
        if min(self.depth, self.grid) < 1 or min(self.alpha_cost, self.beta_cost, self.temperature) <= 0:
            raise UsageError("depth and grid must be at least 1; alpha_cost, beta_cost and temperature positive")
        if min(self.gamma, self.temperature_decay) < 0:
            raise UsageError("gamma and temperature_decay must not be negative")


class RnasCl(Method):
    """Cross-layer distillation: one loss, the weights' steps outside and the architecture's inside an epoch's tail."""

    space: ClassVar[str] = "channels"
    arch_phases: ClassVar[tuple[str, ...]] = ("tail",)
    Settings: ClassVar[type] = RnasClSettings
    # The teacher of a data set where the configuration names none.
    teachers: ClassVar[Mapping[str, str]] = {"digits": "rnas_wrn10_1.pgd_digits_linf16"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": PAPER,
        "fast": {**PAPER, "epochs": 20, "augmentation": ""},
    }

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self._tutors: tuple[nn.Module, list[str]] | None = None

    def weight_loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> Tensor | None:
        return None if search.in_tail else self.loss(search, x, y, keys)[0]

    def arch_step(self, search: SearchTask, train: Batch, validation: Batch, keys: Keys) -> Metrics:
        if not search.in_tail:
            return {}
        loss, metrics = self.loss(search, *train, keys)
        search.update(search.gradients(loss, search.alphas))
        return {"loss": loss.detach(), **metrics}

    def loss(self, search: SearchTask, x: Tensor, y: Tensor, keys: Keys) -> tuple[Tensor, Metrics]:
        """L on a batch at a fresh draw of widths and tutors, and its parts.

        Raises:
            UsageError: no teacher, or one with another number of layers or of classes than the supernet was built for.
        """
        settings, net = self.settings, search.net
        teacher: Any = search.teacher
        names = self.tutor_names(teacher, (x.shape[2], x.shape[3]))
        weights = net.alphas["tutors"]
        if weights.shape[1] != len(names):
            raise UsageError(f"the teacher has {len(names)} layers, but the supernet chooses among {weights.shape[1]}")
        net.temperature.fill_(self.temperature(search.fraction))
        net.draw(keys)
        x = search.attack(x, y, keys)
        attend = partial(attention_map, grid=settings.grid, reading=settings.attention)
        with torch.no_grad(), Taps(teacher, names, attend) as taps:
            taught = teacher(x)
        logits, maps = net.features(x)
        if taught.shape != logits.shape:
            raise UsageError(f"the teacher knows {taught.shape[1]} classes, the data set has {logits.shape[1]}")
        entropy = F.cross_entropy(logits.float(), y)
        attention = attention_loss([attend(m) for m in maps], taps.outputs, net.tutor_weights(), settings.attention)
        distillation = distillation_kl(taught, logits)
        macs = net.expected_macs()
        task = settings.alpha_cost * (entropy + settings.gamma * attention + distillation)
        parts = {"cross_entropy": entropy, "attention": attention, "distillation": distillation, "macs": macs}
        return task * settings.beta_cost * macs.log(), {name: part.detach() for name, part in parts.items()}

    def tutor_names(self, teacher: nn.Module | None, image_size: tuple[int, int]) -> list[str]:
        """The teacher's layers; looked up once per teacher."""
        if teacher is None:
            raise UsageError("rnas_cl learns from a robust teacher: name one with --teacher")
        if self._tutors is None or self._tutors[0] is not teacher:
            self._tutors = teacher, tutor_layers(teacher, image_size)
        return self._tutors[1]

    def temperature(self, fraction: Tensor | float) -> Tensor:
        """T after a fraction of all steps: T_0 exp(-decay ⌊100 fraction⌋ / 100), the paper's 5 exp(-0.045 epoch)."""
        done = torch.as_tensor(fraction, dtype=torch.float64)
        level = (LEVELS * done + 1e-5).floor()  # so that 0.29 counts as 29 levels, in single precision as well
        return self.settings.temperature * torch.exp(level * (-self.settings.temperature_decay / LEVELS))
