"""Layers of a network that is trained on the CPU, exchanged for the same ones with quicker gradients.

Layers keep their parameters, names and hooks: only their class changes, and `plain` changes it back. Networks are built
plain; whoever trains one makes it quick.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .depthwise import depthwise


class QuickDepthwise(nn.Conv2d):
    """A depthwise convolution with `same` zero padding; its gradients are those of `depthwise` on the CPU.

    Under autocast as well: torch 2.15's own gradient by a dilated kernel is wrong in bfloat16 (seen with AVX-512).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _eager(x) or x.ndim != 4:
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            x, weight = _cast(x), _cast(weight)
            bias = None if bias is None else _cast(bias)
        if x.dtype != weight.dtype:
            return super().forward(x)
        return depthwise(x, weight, bias, stride=self.stride[0], dilation=self.dilation[0])


class SharedReLU(nn.ReLU):
    """A ReLU that returns what another one has made of the very same tensor, so that its gradient is taken once."""

    def forward(self, x: Tensor) -> Tensor:
        if not _eager(x) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        state = x._version, torch.is_grad_enabled(), x.requires_grad
        known = getattr(x, "_rectified", None)
        if known is not None and known[1:] == (state, known[0]._version):
            shared: Tensor = known[0]
            return shared
        found = super().forward(x)
        x._rectified = (found, state, found._version)  # type: ignore[attr-defined]
        return found


def _eager(x: Tensor) -> bool:
    """Whether a layer is asked for values on the CPU, and not traced."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and not x.is_inference()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _cast(x: Tensor) -> Tensor:
    """In the type that autocast on the CPU computes convolutions of it in."""
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype("cpu"))


def _suits(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    side, dilation = module.kernel_size[0], module.dilation[0]
    return (
        module.in_channels == module.out_channels == module.groups > 1
        and side % 2 == 1
        and side > 1
        and module.kernel_size == (side, side)
        and module.dilation == (dilation, dilation)
        and module.stride in ((1, 1), (2, 2))
        and not (module.stride == (2, 2) and dilation == 1)
        and module.padding == (dilation * (side // 2),) * 2
        and module.padding_mode == "zeros"
    )


def quicken(network: nn.Module) -> nn.Module:
    """Make a network's layers quick, in place: the same function, gradients (once differentiable) and state_dict.

    Outside the CPU and while compiled the layers are torch's own, and ReLUs under autocast.
    """
    for module in network.modules():
        if _suits(module):
            module.__class__ = QuickDepthwise
        elif type(module) is nn.ReLU and not module.inplace:
            module.__class__ = SharedReLU
    return network


def plain(network: nn.Module) -> nn.Module:
    """Undo `quicken`, in place."""
    for module in network.modules():
        own: type = type(module)
        if own in (QuickDepthwise, SharedReLU):
            module.__class__ = own.__base__  # type: ignore[assignment]
    return network
