"""What attacks take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Logits = Callable[[Tensor], Tensor]
WIDE = (slice(None), None, None, None)  # one value per image, to be spread over (N, C, H, W)


@dataclass(frozen=True)
class Keys:
    """What draws are keyed by.

    Attributes:
        seed: any integer; another seed draws anew.
        positions: place of each image in its data set, integers (N,).
    """

    seed: int
    positions: Tensor

    def take(self, rows: Tensor) -> Keys:
        """The keys of some of the images, by their `rows` in the batch, integers (M,)."""
        return Keys(self.seed, self.positions[rows])


@dataclass(frozen=True)
class AttackResult:
    """One attack on one batch.

    Attributes:
        x_adv: the image found for each input, (N, C, H, W) in [0, 1] and in the ball.
        broken: whether the model misclassified it when the attack looked, (N,).
        step: the step that broke it, -1 if none did, (N,).
        forwards, backwards: image passes spent on the whole batch.
    """

    x_adv: Tensor
    broken: Tensor
    step: Tensor
    forwards: int
    backwards: int


@contextmanager
def frozen(model: Logits) -> Iterator[None]:
    """Switch off weight gradients inside the block; requires_grad is left as found."""
    weights = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed loss by x (zero where x has no part in it) and the loss of each image, both detached."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        values = loss(x)
        found = torch.autograd.grad(values.sum(), x, allow_unused=True) if values.requires_grad else (None,)
    gradient = torch.zeros_like(x) if found[0] is None else found[0]
    return like(gradient, x).detach(), values.detach()


def like(z: Tensor, x: Tensor) -> Tensor:
    """z in the memory format of x: mixing formats makes every following operation several times slower."""
    wanted = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return z.contiguous(memory_format=torch.channels_last if wanted else torch.contiguous_format)
