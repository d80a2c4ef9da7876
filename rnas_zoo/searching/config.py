"""How an architecture is searched: one frozen configuration, and the presets methods declare for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..attacks import Threat

PRESETS = ("fast", "paper")
# What the fast preset of the cell methods has in common: PC-DARTS's partial channels, batch, rates and warm-up, and
# N-FGSM (two image passes forward and one back) in the place of PGD-7.
FAST: Mapping[str, Any] = {
    "attack": "nfgsm",
    "batch_size": 256,
    "partial": 4,
    "warmup": 0.3,
    "learning_rate": 0.1,
    "learning_rate_floor": 0.0,
    "arch_learning_rate": 0.0,
}


@dataclass(frozen=True)
class SearchConfig:
    """All of it stands in the run folder and in the genotype's provenance.

    Attributes:
        method: name of a method, or `file.py:Class`.
        data: data set name, .npz file or folder.
        preset: the preset these values started from; empty if none.
        norm, eps: threat model of the search; eps in pixels of [0, 1], `8/255` as text.
        attack: images weight steps learn from: `clean`, `pgd`, `nfgsm` or `fgsm_rs`.
        attack_steps: of `pgd`.
        attack_mode: whether batch norms use running statistics (`eval`) or the batch's own (`train`) while attacking.
        channels, layers, stem: the supernet.
        partial: only every so-many-th channel goes through the mixed operations (PC-DARTS); 1: all of them.
        none: whether `none` is among the operations.
        total_steps: steps, each one of the architecture and one of the weights; 0: `epochs`, or fitted to a budget.
        epochs: passes over the weights' half of the training images.
        batch_size: images per step, of each half.
        warmup: fraction of the steps without architecture steps.
        tail: last fraction of each epoch's steps, in which some methods do something else.
        shared: whether weights and architecture learn from the same images instead of two halves.
        optimizer: of the weights, `sgd` or `adam`; its learning rate falls along a cosine from `learning_rate` to
            `learning_rate_floor` times that.
        momentum, weight_decay, clip: of the weights; `momentum` of `sgd` only, `clip` the largest norm of the gradient
            (0: any).
        arch_learning_rate: of Adam on α; 0: 2 / architecture steps, between 6e-4 and 2e-2, so that short searches can
            decide as well.
        arch_learning_rate_floor: factor its cosine ends at; 1: constant.
        arch_betas, arch_weight_decay: of Adam on α.
        augmentation: as in `data.AUGMENTATIONS`; empty for the data set's own.
        teacher: model reference of a robust teacher, for methods that distil.
        seed: of weights, halves and draws.
        precision: `fp32`, or `bf16` for forward and backward passes.
        image_size: height and width images are brought to (data.load); None: as they are.
        held_out_seed: which training images are held out where the data set has none of its own; the same ones for
            searches that are compared, whatever their seeds.
        settings: the method's own numbers.
    """

    data: str
    method: str = "darts"
    preset: str = ""
    norm: str = "linf"
    eps: str = "8/255"
    attack: str = "pgd"
    attack_steps: int = 7
    attack_mode: str = "eval"
    channels: int = 16
    layers: int = 8
    stem: str = "cifar"
    partial: int = 1
    none: bool = True
    total_steps: int = 0
    epochs: int = 50
    batch_size: int = 64
    warmup: float = 0.0
    tail: float = 0.0
    shared: bool = False
    optimizer: str = "sgd"
    learning_rate: float = 0.025
    learning_rate_floor: float = 0.04
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    arch_learning_rate: float = 3e-4
    arch_learning_rate_floor: float = 1.0
    arch_betas: tuple[float, ...] = (0.5, 0.999)
    arch_weight_decay: float = 1e-3
    augmentation: str = ""
    teacher: str = ""
    seed: int = 0
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    held_out_seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> Threat:
        """`norm` and `eps` as a threat model."""
        return Threat(self.norm, self.eps)
