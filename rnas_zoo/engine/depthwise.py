"""Depthwise convolutions, alone or separable, whose gradients are about as fast as their forward pass on the CPU.

oneDNN's forward kernels are fast for every depthwise convolution in channels-last memory, its gradient kernels only for
narrow undilated ones. The same gradients are therefore written as convolutions it is fast at:

* by the input: a forward convolution with the kernel turned by 180°;
* by a kernel of dilation 2: dilation 1 on the four images of every second pixel, side by side in the batch;
* by a kernel five wide: one three wide and one two wide, side by side;
* of a strided convolution: without stride, with zeros between the pixels of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

NARROW = 3


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """A depthwise convolution of x (N, C, H, W) with a kernel (C, 1, k, k), k odd; `same` padding.

    Returns:
        (N, C, H/stride, W/stride) in the type of x, which weight and bias must have too. Once differentiable.
    """
    found: Tensor = _Depthwise.apply(x, weight, bias, stride, dilation)
    return found


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.stride, ctx.dilation, ctx.shape = stride, dilation, x.shape
        return _convolve(x, weight, stride, dilation, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        (by_x, by_weight, by_bias), stride = ctx.needs_input_grad[:3], ctx.stride
        spread = gradient
        # oneDNN's own gradients are quick if the convolution is strided but not dilated.
        if gradient.device.type == "cpu" and stride > 1 and ctx.dilation > 1 and (by_x or by_weight):
            spread, stride = _spread(gradient, stride, ctx.shape), 1
        return (
            _input_gradient(spread, weight, stride, ctx.dilation, ctx.shape) if by_x else None,
            _kernel_gradient(x, spread, weight, stride, ctx.dilation) if by_weight else None,
            gradient.sum((0, 2, 3)) if by_bias else None,
            None,
            None,
        )


def separable(
    x: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    *,
    stride: int = 1,
    dilations: Sequence[int],
    copies: int = 1,
) -> tuple[Tensor, ...]:
    """Depthwise separable convolutions of x (N, C, H, W), which is repeated `copies` times in the channels for them.

    Args:
        depthwise: for each convolution a kernel (copies·C, 1, k, k), k odd; `same` padding.
        pointwise: for each a kernel (copies·C, G, 1, 1): the grouped 1x1 convolution that follows.
        biases: for each the (copies·C,) that the 1x1 convolution adds; None: nothing.
        stride: of all depthwise convolutions.
        dilations: of each.

    Returns:
        (N, copies·C, H/stride, W/stride) for each. Gradients are once differentiable. Of all that is in between, only x
        is kept for them: the depthwise convolutions are computed again, and only if a 1x1 kernel needs its gradient.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    found: tuple[Tensor, ...] = _Separable.apply(
        x, stride, tuple(dilations), copies, *depthwise, *pointwise, *(biases or ())
    )
    return found


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stride: int, dilations: tuple[int, ...], copies: int, *kernels: Tensor
    ) -> tuple[Tensor, ...]:
        kernels = tuple(kernel.to(x.dtype) for kernel in kernels)
        count = len(dilations)
        depthwise, pointwise, biases = kernels[:count], kernels[count : 2 * count], kernels[2 * count :]
        ctx.save_for_backward(x if any(ctx.needs_input_grad[4:]) else None, *depthwise, *pointwise)
        ctx.stride, ctx.dilations, ctx.copies, ctx.shape = stride, dilations, copies, x.shape
        wide = _repeated(x, copies)
        return tuple(
            F.conv2d(_convolve(wide, d, stride, dilation), p, biases[i] if biases else None, groups=_groups(p))
            for i, (d, p, dilation) in enumerate(zip(depthwise, pointwise, dilations, strict=True))
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *kernels = ctx.saved_tensors
        count = len(ctx.dilations)
        depthwise, pointwise = kernels[:count], kernels[count:]
        by_input, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        wide: Any = None if x is None else _repeated(x, ctx.copies)
        by_x: Tensor | None = None
        found: list[Tensor | None] = [None] * len(needs)
        for i, (gradient, d, p, dilation) in enumerate(
            zip(gradients, depthwise, pointwise, ctx.dilations, strict=True)
        ):
            if needs[count + i]:
                middle = _convolve(wide, d, ctx.stride, dilation)
                found[count + i] = _by_weight(middle, gradient, (1, 1), (0, 0), 1, 1, _groups(p))
            if len(needs) > 2 * count and needs[2 * count + i]:
                found[2 * count + i] = gradient.sum((0, 2, 3))
            if not by_input and not needs[i]:
                continue
            groups, chs = _groups(p), p.shape[1]
            turned = p.view(groups, chs, chs).transpose(1, 2).reshape(p.shape)
            gradient, stride = F.conv2d(gradient, turned, groups=groups), ctx.stride
            if gradient.device.type == "cpu" and stride > 1:
                gradient, stride = _spread(gradient, stride, ctx.shape), 1
            if needs[i]:
                found[i] = _kernel_gradient(wide, gradient, d, stride, dilation)
            if by_input:
                one = _input_gradient(gradient, d, stride, dilation, ctx.shape)
                by_x = one if by_x is None else by_x.add_(one)
        if by_x is not None and ctx.copies > 1:
            rows = by_x.permute(0, 2, 3, 1).unflatten(-1, (ctx.copies, -1))
            by_x = rows.sum(-2).permute(0, 3, 1, 2)
        return by_x, None, None, None, *found


def _groups(pointwise: Tensor) -> int:
    return pointwise.shape[0] // pointwise.shape[1]


def _repeated(x: Tensor, copies: int) -> Tensor:
    if copies == 1:
        return x
    return x.permute(0, 2, 3, 1).repeat(1, 1, 1, copies).permute(0, 3, 1, 2)


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int, bias: Tensor | None = None) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, stride, padding, dilation, weight.shape[0])


def _input_gradient(gradient: Tensor, weight: Tensor, stride: int, dilation: int, shape: torch.Size) -> Tensor:
    if stride == 1:
        return _convolve(gradient, weight.flip(2, 3), 1, dilation)
    size = (shape[0], weight.shape[0], *shape[2:])
    padding = dilation * (weight.shape[-1] // 2)
    return conv2d_input(size, weight, gradient, stride, padding, dilation, weight.shape[0])


def _kernel_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    kernel = weight.shape[-1]
    padding = dilation * (kernel // 2)
    if x.device.type != "cpu" or stride > 1:
        return _by_weight(x, gradient, (kernel, kernel), (padding, padding), stride, dilation, x.shape[1])
    if dilation == 2 and not (x.shape[2] | x.shape[3]) & 1:
        x, gradient, dilation = _every_second(x), _every_second(gradient), 1
        padding //= 2
    if dilation > 1 and x.dtype == torch.bfloat16:  # of which oneDNN's own is wrong, or NaN
        single = x.float(), gradient.float()
        return _by_weight(*single, (kernel, kernel), (padding, padding), 1, dilation, x.shape[1]).to(x.dtype)
    if kernel <= NARROW or dilation > 1:
        return _by_weight(x, gradient, (kernel, kernel), (padding, padding), 1, dilation, x.shape[1])
    padded, width = F.pad(x, (padding, padding)), x.shape[3]
    columns = [
        _by_weight(
            padded[..., left : left + width + take - 1], gradient, (kernel, take), (padding, 0), 1, 1, x.shape[1]
        )
        for left, take in ((left, min(NARROW, kernel - left)) for left in range(0, kernel, NARROW))
    ]
    return torch.cat(columns, dim=3)


def _by_weight(
    x: Tensor,
    gradient: Tensor,
    kernel: tuple[int, int],
    padding: tuple[int, int],
    stride: int,
    dilation: int,
    groups: int,
) -> Tensor:
    chs = x.shape[1]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient,
        x,
        x.new_empty((chs, chs // groups, *kernel)),
        None,
        [stride] * 2,
        padding,
        [dilation] * 2,
        False,
        [0, 0],
        groups,
        [False, True, False],
    )[1]
    return found


def _spread(gradient: Tensor, stride: int, shape: torch.Size) -> Tensor:
    """The gradient of a strided convolution as that of the convolution without stride: zeros in between."""
    wide = gradient.new_zeros((shape[0], *shape[2:], gradient.shape[1])).permute(0, 3, 1, 2)
    wide[:, :, ::stride, ::stride] = gradient
    return wide


def _every_second(x: Tensor) -> Tensor:
    """(N, C, H, W) to (4N, C, H/2, W/2) in channels-last memory: the four images of every second pixel."""
    n, chs, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, chs)
    return rows.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, height // 2, width // 2, chs).permute(0, 3, 1, 2)
