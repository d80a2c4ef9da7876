"""What training minimises: the images each objective learns from, and its loss on them.

| objective | images | loss |
|---|---|---|
| `clean` | as they are | cross-entropy |
| `pgd` | PGD (Madry et al., ICLR 2018) | cross-entropy |
| `nfgsm`, `fgsm_rs` | one noisy step (de Jorge et al., NeurIPS 2022; Wong et al., ICLR 2020) | cross-entropy |
| `trades` | PGD on KL(p(x) ‖ p(x')) | CE(x) + β KL(p(x) ‖ p(x')) (Zhang et al., ICML 2019) |
| `rslad` | PGD on KL(T(x) ‖ S(x')) | 5/6 KL(T(x) ‖ S(x')) + 1/6 KL(T(x) ‖ S(x)) (Zi et al., ICCV 2021) |
| `rnas_cl` | as they are | CE + KL(T ‖ S) + γ A (Nath et al., UAI 2024; training.cross_layer) |

With a teacher the last two terms join any other objective as well, on its clean images if it has a pass of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import FGSMRS, KLPGD, NFGSM, PGD, Keys, Threat, kl_pgd_images, n_fgsm_images, pgd_images
from ..attacks.losses import kl
from ..errors import UnknownNameError, UsageError, closest
from .attention import distillation_kl
from .cross_layer import CrossLayer, Taught

Perturb = Callable[[nn.Module, Tensor, Tensor, Threat, Keys], Tensor]

SINGLE_STEP = ("nfgsm", "fgsm_rs")
IMAGES = ("clean", "pgd", *SINGLE_STEP)  # objectives that are cross-entropy on images of some kind
OBJECTIVES = (*IMAGES, "trades", "rslad", "rnas_cl")
TAUGHT = ("rslad", "rnas_cl")
MODES = ("eval", "train")
ADVERSARIAL_SHARE = 5 / 6  # of RSLAD's two terms


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, so that attacks leave batch statistics alone."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def clean(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
    """Standard training: the images as they are."""
    return x


def adversarial(steps: int, mode: str = "eval") -> Perturb:
    """PGD adversarial training (Madry et al., ICLR 2018): images of PGD with `steps` steps.

    Step size is ε/4 from seven steps on (the papers' 2/255 at ε = 8/255) and wide enough to cross the ball below.

    Args:
        mode: `eval`: the network attacked uses its running statistics; `train`: those of the batch, and updates them.

    Raises:
        UsageError: fewer than one step, or an unknown mode.
    """
    if steps < 1:
        raise UsageError(f"adversarial training needs at least one attack step, got {steps}; use objective `clean`")
    config = PGD(steps=steps, relative_step=relative_step(steps))
    return _attacking(lambda net, x, y, threat, keys: pgd_images(net, x, y, threat, config, keys), mode)


def relative_step(steps: int) -> float:
    """Step size in ε: a quarter, or wide enough for all steps to cross the ball."""
    return max(0.25, 1.75 / steps)


def single_step(name: str, mode: str = "eval") -> Perturb:
    """One gradient per image: `nfgsm` (de Jorge et al., NeurIPS 2022) or `fgsm_rs` (Wong et al., ICLR 2020).

    Raises:
        UsageError: an unknown mode.
    """
    config = NFGSM() if name == "nfgsm" else FGSMRS()
    return _attacking(lambda net, x, y, threat, keys: n_fgsm_images(net, x, y, threat, config, keys), mode)


def _attackable(model: nn.Module, mode: str) -> AbstractContextManager[None]:
    return evaluating(model) if mode == "eval" else nullcontext()


def _attacking(attack: Perturb, mode: str) -> Perturb:
    if mode not in MODES:
        raise UsageError(f"unknown attack mode {mode!r}; use eval or train")

    def perturb(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
        with _attackable(model, mode):
            return attack(model, x, y, threat, keys)

    return perturb


def perturbation(objective: str, attack_steps: int, mode: str = "eval") -> Perturb:
    """The function that turns clean training images into those that cross-entropy is learned from.

    Raises:
        UnknownNameError: no such images.
    """
    if objective == "clean":
        return clean
    if objective == "pgd":
        return adversarial(attack_steps, mode)
    if objective in SINGLE_STEP:
        return single_step(objective, mode)
    raise UnknownNameError(
        f"unknown objective {objective!r}.{closest(objective, list(IMAGES))} Known: {', '.join(IMAGES)}."
    )


@dataclass(frozen=True)
class Learned:
    """The loss of one batch, the logits (N, K) that accuracy is told of, and further parts of the loss."""

    loss: Tensor
    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Objective:
    """One objective's loss of a batch; the table of this module says which.

    Attributes:
        name: one of `OBJECTIVES`.
        attack_steps: of multi-step attacks.
        single: the single-step attack that stands in for several steps, `nfgsm` or `fgsm_rs`; empty: none does.
        mode: of the network while it is attacked, `eval` or `train`.
        beta: of `trades`.
        smoothing: of the labels in cross-entropies.
        teacher: maps images to logits of the student's classes; frozen and in evaluation mode.
        cross_layer: the attention term, None without it.
        distill, attention: weights of the two terms a teacher adds (`rslad` has its own).

    Raises:
        UnknownNameError: no such objective.
        UsageError: an objective without the teacher it needs, an unknown attack or mode, or no attack steps.
    """

    name: str
    attack_steps: int = 7
    single: str = ""
    mode: str = "eval"
    beta: float = 6.0
    smoothing: float = 0.0
    teacher: nn.Module | None = None
    cross_layer: CrossLayer | None = None
    distill: float = 1.0
    attention: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise UnknownNameError(
                f"unknown objective {self.name!r}.{closest(self.name, list(OBJECTIVES))} Known: {known}."
            )
        if self.name in TAUGHT and self.teacher is None:
            raise UsageError(f"{self.name} learns from a robust teacher: name one with --teacher")
        if self.single not in ("", *SINGLE_STEP):
            raise UsageError(f"unknown single-step attack {self.single!r}; use {' or '.join(SINGLE_STEP)}")
        if self.mode not in MODES:
            raise UsageError(f"unknown attack mode {self.mode!r}; use {' or '.join(MODES)}")
        if self.attack_steps < 1:
            raise UsageError(f"attacks need at least one step, got {self.attack_steps}")

    @property
    def images(self) -> str:
        """The images learned from, one of `IMAGES`; the attack of `trades` and `rslad` counts as `pgd`."""
        if self.name in ("clean", "rnas_cl"):
            return "clean"
        return self.single or ("pgd" if self.name not in SINGLE_STEP else self.name)

    def with_steps(self, steps: int) -> Objective:
        """The same objective attacking with several steps instead of one."""
        return replace(self, name="pgd" if self.name in SINGLE_STEP else self.name, single="", attack_steps=steps)

    def perturbed(self, network: nn.Module, x: Tensor, y: Tensor, threat: Threat, keys: Keys) -> Tensor:
        """The adversarial images this objective learns from; x itself where it learns from clean ones."""
        if self.name not in ("trades", "rslad"):
            return perturbation(self.images, self.attack_steps, self.mode)(network, x, y, threat, keys)
        if self.name == "rslad":
            target = self._taught(x).logits
        else:
            with torch.no_grad(), _attackable(network, self.mode):
                target = network(x)
        return self._by_divergence(network, x, y, target, threat, keys)

    def _by_divergence(
        self, network: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: Threat, keys: Keys
    ) -> Tensor:
        with _attackable(network, self.mode):
            if self.single:
                config = NFGSM() if self.single == "nfgsm" else FGSMRS()
                return n_fgsm_images(network, x, y, threat, config, keys, partial(kl, clean=target.float()))
            published = KLPGD().relative_step if self.name == "trades" else 0.25
            step = published if self.attack_steps >= KLPGD().steps else relative_step(self.attack_steps)
            pgd = KLPGD(steps=self.attack_steps, relative_step=step)
            return kl_pgd_images(network, x, target, threat, pgd, keys)

    def __call__(
        self,
        network: nn.Module,
        attacked: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        keys: Keys,
    ) -> Learned:
        """The loss on images x (N, 3, H, W) in [0, 1] with labels y.

        Args:
            network: learns, in training mode.
            attacked: the network that attacks are run on: the same function as `network` in its mode for attacks.
        """
        taught = self._taught(x) if self.teacher is not None else None
        if self.name == "rslad" and taught is not None:
            x_adv = self._by_divergence(attacked, x, y, taught.logits, threat, keys)
            natural, logits = network(x), network(x_adv)
            far, near = distillation_kl(taught.logits, logits), distillation_kl(taught.logits, natural)
            loss = ADVERSARIAL_SHARE * far + (1 - ADVERSARIAL_SHARE) * near
            return Learned(loss, logits, {"clean_divergence": near.detach(), "robust_divergence": far.detach()})
        x_adv = self.perturbed(attacked, x, y, threat, keys)
        seen = x if self.name == "trades" else x_adv
        with self.cross_layer.watch() if self.cross_layer else nullcontext() as watched:
            logits = network(seen)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=self.smoothing)
        parts: dict[str, Tensor] = {}
        if taught is not None:
            parts["distillation"] = distillation_kl(taught.logits, logits)
            loss = loss + self.distill * parts["distillation"]
            if self.cross_layer and watched is not None:
                parts["attention"] = self.cross_layer.loss(watched, taught)
                loss = loss + self.attention * parts["attention"]
        if self.name == "trades":
            natural, logits = logits, network(x_adv)
            parts["divergence"] = distillation_kl(natural, logits)
            loss = loss + self.beta * parts["divergence"]
        return Learned(loss, logits, {name: part.detach() for name, part in parts.items()})

    def _taught(self, x: Tensor) -> Taught:
        if self.cross_layer is not None:
            return self.cross_layer.teach(x)
        if self.teacher is None:
            raise UsageError(f"{self.name} learns from a robust teacher: name one with --teacher")
        with torch.no_grad():
            return Taught(self.teacher(x), [])
