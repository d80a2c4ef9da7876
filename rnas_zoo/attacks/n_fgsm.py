"""One noisy step, for training: N-FGSM (de Jorge et al., NeurIPS 2022) and FGSM-RS (Wong et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses
from .pgd import offset
from .result import AttackResult, Keys, Logits, frozen, input_gradient, like
from .threat import Threat


@dataclass(frozen=True)
class NFGSM:
    """N-FGSM: strong noise and a full step, clipped to [0, 1] only.

    Its images may leave the ball, up to (noise + relative_step) ε: they are for training, not for verdicts.

    Attributes:
        noise: size of the uniform noise in ε (k of the paper).
        relative_step: size of the step in ε (α of the paper).
        project: whether the image found is projected onto the ball.
    """

    noise: float = 2.0
    relative_step: float = 1.0
    project: bool = False


@dataclass(frozen=True)
class FGSMRS(NFGSM):
    """FGSM-RS, "fast" adversarial training (Wong et al., ICLR 2020): other numbers for `NFGSM`'s attributes.

    Attributes:
        noise: size of the uniform noise in ε.
        relative_step: size of the step in ε.
        project: whether the image found is projected onto the ball.
    """

    noise: float = 1.0
    relative_step: float = 1.25
    project: bool = True


def n_fgsm(model: Logits, x: Tensor, y: Tensor, threat: Threat, config: NFGSM, keys: Keys) -> AttackResult:
    """Attack images x (N, C, H, W) in [0, 1] with labels y (N,); an `NFGSM` image may lie outside the ball.

    Under L2 the noise is a random direction of uniform length, and the step follows the normalised gradient.
    """
    x_adv = n_fgsm_images(model, x, y, threat, config, keys)
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != y
    return AttackResult(x_adv, broken, torch.where(broken, 1, -1), 2 * len(x), len(x))


def n_fgsm_images(
    model: Logits,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    config: NFGSM,
    keys: Keys,
    objective: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The images of `n_fgsm` for training: not judged, one forward and one backward pass.

    Args:
        objective: maps logits (N, K) to the losses (N,) to raise; None for the cross-entropy of the labels.
    """
    x = x.detach()
    raised = objective or (lambda logits: losses.cross_entropy(logits, y))
    noisy = (x + config.noise * like(offset(x, threat, keys, "n-fgsm"), x)).clamp(0, 1).to(x.dtype)
    with frozen(model):
        gradient, _ = input_gradient(lambda z: raised(model(z)), noisy)
    x_adv = noisy + config.relative_step * threat.radius * threat.ascent(losses.finite(gradient))
    return (threat.project(x_adv, x) if config.project else x_adv.clamp(0, 1)).to(x.dtype)
