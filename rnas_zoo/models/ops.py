"""Primitives of the DARTS family (Liu et al., ICLR 2019), NCHW in, NCHW out, all convolutions bias-free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ImageSizeError


def conv_bn(in_chs: int, out_chs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution with `same` padding and batch norm."""
    return [nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out_chs)]


class ReLUConvBN(nn.Sequential):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, in_chs: int, out_chs: int, affine: bool = True) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(in_chs, out_chs, 1, bias=False), nn.BatchNorm2d(out_chs, affine=affine))


class DilConv(nn.Sequential):
    """ReLU, depthwise convolution with dilation 2, 1x1 convolution, batch norm."""

    def __init__(self, chs: int, kernel: int, stride: int, affine: bool = True) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(chs, chs, kernel, stride, padding=kernel - 1, dilation=2, groups=chs, bias=False),
            nn.Conv2d(chs, chs, 1, bias=False),
            nn.BatchNorm2d(chs, affine=affine),
        )


class SepConv(nn.Sequential):
    """Twice: ReLU, depthwise convolution, 1x1 convolution, batch norm; the first depthwise has the stride."""

    def __init__(self, chs: int, kernel: int, stride: int, affine: bool = True) -> None:
        def half(stride: int) -> list[nn.Module]:
            return [
                nn.ReLU(),
                nn.Conv2d(chs, chs, kernel, stride, padding=kernel // 2, groups=chs, bias=False),
                nn.Conv2d(chs, chs, 1, bias=False),
                nn.BatchNorm2d(chs, affine=affine),
            ]

        super().__init__(*half(stride), *half(1))


class FactorizedReduce(nn.Module):
    """Halve height and width (both even) without losing pixels: 1x1 convolutions of the even and of the odd pixels.

    The pixels are taken before the convolutions, since torch's gradient of a strided 1x1 convolution by its weights
    writes out of bounds on the CPU (channels-last, fewer than about 16 channels, 64-pixel images; torch 2.15).
    """

    def __init__(self, in_chs: int, out_chs: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(in_chs, out_chs // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(in_chs, out_chs - out_chs // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_chs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x[:, :, ::2, ::2]), self.conv_2(x[:, :, 1::2, 1::2])], dim=1))


class Zero(nn.Module):
    """The operation `none`: zeros of the (strided) input's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class Sum(nn.Module):
    """Sum of two operations on one input (RobNet's code 11)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def build_op(name: str, chs: int, stride: int, affine: bool = True) -> nn.Module:
    """The primitive `name` from `chs` to `chs` channels; a sum is written `a + b`."""
    if " + " in name:
        first, second = name.split(" + ")
        return Sum(build_op(first, chs, stride, affine), build_op(second, chs, stride, affine))
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(chs, chs, affine)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    family, _, size = name.rpartition("_")
    kernel = int(size[0])
    return (SepConv if family == "sep_conv" else DilConv)(chs, kernel, stride, affine)


def _check_image_size(height: int, width: int, multiple: int) -> None:
    if height % multiple or width % multiple:
        raise ImageSizeError(
            f"images of {height}x{width} pixels do not fit: this network needs height and width divisible by {multiple}"
        )


@torch.fx.wrap
def check_image_size(x: Tensor, multiple: int) -> Tensor:
    """Return x; raise ImageSizeError unless height and width are divisible by `multiple`."""
    if not torch.jit.is_scripting():
        _check_image_size(x.shape[2], x.shape[3], multiple)
    return x


def take_indices(count: int, indices: int | list[int] | tuple[int, ...] | None) -> list[int]:
    """timm's rule for feature levels: None takes all, an integer the last so many, a list names them."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        return list(range(count - indices, count))
    return [index % count for index in indices]
