"""Batch norm with running statistics folded into the convolutions before it: once, or anew as the weights change."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from .. import random
from .device import full_precision
from .quick import plain, quicken

AGREEMENT, GRADIENT_AGREEMENT = 1e-4, 1e-3
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold(graph: fx.GraphModule) -> list[tuple[str, str]]:
    """Fold a traced network's batch norms into its convolutions, in place.

    Returns:
        Names of the convolutions that have become new ones, each with that of the batch norm that is gone.
    """
    modules: dict[str, Any] = dict(graph.named_modules())
    found = []
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or len(before.users) > 1:
            continue
        if norm.running_mean is None or sum(n.target == before.target for n in graph.graph.nodes) > 1:
            continue
        parent, _, name = str(before.target).rpartition(".")
        setattr(graph.get_submodule(parent), name, fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
        found.append((str(before.target), str(node.target)))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return found


def same(network: nn.Module, other: nn.Module, example: Tensor, wanted: torch.memory_format) -> bool:
    """Whether two networks agree on images (N, C, H, W) and on noise of their size.

    Args:
        wanted: the memory format in which `other` is asked.

    Returns:
        Whether logits differ by at most 1e-4 of their size, and input gradients by at most 1e-3 of theirs.
    """
    with full_precision():
        positions = torch.arange(len(example), device=example.device)
        noise = random.uniform(tuple(example.shape[1:]), seed=0, stream="folded", draw=0, positions=positions).to(
            example.dtype
        )
        for images in (example, noise, example[:1]):
            with torch.no_grad():
                expected, found = network(images), other(images.to(memory_format=wanted))
            if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
                return False
            largest = float(expected.abs().max().clamp_min(1e-30))
            if not (largest < math.inf and float((expected - found).abs().max()) <= AGREEMENT * largest):
                return False
        # On noise, since equal pixels tie in max pooling; and most of the images, since a ReLU may sit on its kink.
        expected, found = (_gradients(asked, noise) for asked in (network, other))
        differ = (expected - found).flatten(1).abs().amax(1) > GRADIENT_AGREEMENT * expected.flatten(1).abs().amax(1)
        return int(differ.sum()) <= len(noise) // 4


def _gradients(network: nn.Module, images: Tensor) -> Tensor:
    """Input gradients of a fixed combination of the logits."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = network(images)
        combined = logits @ torch.cos(torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype))
        (found,) = torch.autograd.grad(combined.sum(), images, allow_unused=True)
    return torch.zeros_like(images) if found is None else found.detach()


class Twin:
    """A network in evaluation mode, for attacks while that network is trained: frozen, batch norm folded, quick.

    The network's hooks are not copied. Where it cannot be traced, the twin is the network itself.

    Args:
        network: maps images to logits; in any mode, which stays as it is.
        example: images (N, C, H, W) on which the twin is compared with the network once.

    Attributes:
        folded: number of batch norms that are gone.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._source = network
        self._graph: nn.Module | None = None
        self._pairs: list[tuple[Any, Any, Any]] = []
        self._rest: tuple[list[Tensor], list[Tensor]] = ([], [])
        try:
            with _without_hooks(network):
                copied = plain(copy.deepcopy(network)).eval()
            graph = fx.symbolic_trace(copied)
            names = fold(graph)
            if names and same(copied, graph, example, torch.preserve_format):
                self._connect(graph, names)
        except Exception:  # whatever cannot be traced or copied is attacked as it is
            self._graph = None

    def _connect(self, graph: fx.GraphModule, names: list[tuple[str, str]]) -> None:
        self._graph = quicken(graph.eval().requires_grad_(False))
        source = self._source
        self._pairs = [(source.get_submodule(c), source.get_submodule(n), graph.get_submodule(c)) for c, n in names]
        made = {f"{conv}.{part}" for conv, _ in names for part in ("weight", "bias")}
        whole = {**dict(source.named_parameters(remove_duplicate=False)), **dict(source.named_buffers())}
        rest = {**dict(graph.named_parameters(remove_duplicate=False)), **dict(graph.named_buffers())}
        shared = [name for name in rest if name in whole and name not in made]
        self._rest = [rest[name] for name in shared], [whole[name] for name in shared]

    @property
    def folded(self) -> int:
        return len(self._pairs) if self._graph is not None else 0

    def refreshed(self) -> nn.Module:
        """The twin with the network's weights and statistics as they are now; the network itself if it has no twin."""
        if self._graph is None:
            return self._source
        with torch.no_grad():
            for conv, norm, own in self._pairs:
                weight, bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                own.weight.copy_(weight)
                own.bias.copy_(bias)
            for own, current in zip(*self._rest, strict=True):
                own.copy_(current)
        return self._graph


@contextmanager
def _without_hooks(network: nn.Module) -> Iterator[None]:
    """Hooks taken off inside the block, so that copies have none: a copied hook would act on a copy of its owner."""
    kept = [(module, name, getattr(module, name)) for module in network.modules() for name in HOOKS]
    for module, name, hooks in kept:
        setattr(module, name, type(hooks)())
    try:
        yield
    finally:
        for module, name, hooks in kept:
            setattr(module, name, hooks)
