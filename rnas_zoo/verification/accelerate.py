"""The same function, cheaper to ask: batch norm folded into convolutions, channels-last, rows in multiples of a tile.

Attacks only propose images; the network as it was given judges them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..attacks.result import like
from ..engine.folding import fold, same
from .strided import StridedConv2d, suits

QUANTUM = 16  # oneDNN gives an image the same bits in every batch whose size is a multiple of this


class Tiled(nn.Module):
    """A network asked in multiples of a quantum and at most `rows` rows at a time, so that an image's logits do not
    depend on how many others are asked with it.

    Args:
        scores: answers the same question faster where no gradient is wanted and images are contiguous.
        memory_format: the one the network wants its images in.
        tick: called before each question.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        rows: int,
        *,
        scores: Callable[[Tensor], Tensor] | None = None,
        quantum: int = QUANTUM,
        memory_format: torch.memory_format = torch.preserve_format,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.scores, self.memory_format, self.tick = scores, memory_format, tick
        self.quantum, self.rows = quantum, max(quantum, rows - rows % quantum)

    def forward(self, x: Tensor) -> Tensor:
        self.tick()
        if self.scores is not None and not torch.is_grad_enabled() and x.is_contiguous():
            return torch.cat([self.scores(part) for part in x.split(self.rows)])
        n = len(x)
        short = -n % self.quantum
        if self.memory_format != torch.preserve_format:
            x = x.contiguous(memory_format=self.memory_format)
        if short:
            x = torch.cat([x, like(x[-1:].detach().repeat(short, 1, 1, 1), x)])
        if len(x) <= self.rows:
            return self.network(x)[:n]
        return torch.cat([self.network(part) for part in x.split(self.rows)])[:n]


def folded(network: nn.Module, example: Tensor) -> tuple[nn.Module, torch.memory_format]:
    """A frozen copy of a network in evaluation mode with batch norm folded into the convolutions before it.

    Args:
        example: images (N, 3, H, W); where the copy's logits differ there, or on noise, by more than 1e-4 of their
            size, or its input gradients by more than 1e-3 of theirs (tracing loses gradients that somebody defined),
            or the network cannot be traced, the network itself is returned.

    Returns:
        The network to ask, and the memory format it wants its images in.
    """
    try:
        graph = fx.symbolic_trace(copy.deepcopy(network))
        fold(graph)
        graph = graph.eval().requires_grad_(False)
        wanted = torch.channels_last if example.device.type == "cpu" else torch.contiguous_format
        graph = graph.to(memory_format=wanted)  # type: ignore[call-overload]
        if same(network, graph, example, wanted):
            return graph, wanted
    except Exception:  # whatever cannot be traced or copied is asked as it is
        pass
    return network, torch.contiguous_format


def quick_gradients(graph: nn.Module) -> nn.Module:
    """The same network with convolutions of stride 2 whose input gradient takes less time (see `strided`)."""
    found = copy.deepcopy(graph)
    for name, module in list(found.named_modules()):
        if suits(module):
            parent, _, last = name.rpartition(".")
            setattr(found.get_submodule(parent), last, StridedConv2d(module))  # type: ignore[arg-type]
    return found
