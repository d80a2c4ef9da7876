"""Size and cost of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAME_SHAPE = (nn.modules.batchnorm._BatchNorm, nn.ReLU)  # most of the time of a network without memory ("meta")


def count_parameters(model: nn.Module) -> int:
    """Number of trainable and frozen parameters (buffers are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of shape (C, H, W).

    One forward, in which batch norms and ReLUs are passed by.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        per_output = weight[0].numel() if isinstance(weight, torch.Tensor) else 0
        total += output[0].numel() * per_output

    layers = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    passed_by = [m for m in model.modules() if isinstance(m, SAME_SHAPE) and "forward" not in vars(m)]
    training = model.training
    first = next(model.parameters(), torch.zeros(()))
    try:
        for module in passed_by:
            vars(module)["forward"] = _same
        model.eval()(torch.zeros(1, *input_size, device=first.device, dtype=first.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
        for module in passed_by:
            del vars(module)["forward"]
    return total


def _same(x: Tensor) -> Tensor:
    return x
