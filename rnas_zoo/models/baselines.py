"""Hand-made networks that searched students are compared with, as timm models: ResNet-20 and MobileNetV2.

Images are 32-pixel RGB in [0, 1]; there is no normalisation outside the network. `width` scales both to a budget.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError
from .base import StagedNet
from .ops import conv_bn
from .weights import configurations, create, pixel_cfg

__all__ = ["MobileNetV2", "ResNet20"]


class BasicBlock(nn.Module):
    """3x3 convolution, BN, ReLU, 3x3 convolution, BN; ReLU after the sum with the shortcut. `out_chs` >= `in_chs`.

    The shortcut has no parameters: every stride-th pixel, and zeros as further channels (He et al., option A). They are
    left out of the sum, not padded, since ONNX files with a Pad get no differentiable twin.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(in_chs, out_chs, 3, stride), nn.ReLU(), *conv_bn(out_chs, out_chs, 3))
        self.in_chs, self.stride, self.wider = in_chs, stride, out_chs > in_chs

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.wider:
            return F.relu(torch.cat([y[:, : self.in_chs] + x, y[:, self.in_chs :]], dim=1))
        return F.relu(y + x)


class LinearBottleneck(nn.Module):
    """Expand 1x1, depthwise 3x3, both with BN and ReLU6, project 1x1 with BN; a residual where the shape stays.

    There is nothing to expand with `expansion` 1.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, expansion: int) -> None:
        super().__init__()
        mid = in_chs * expansion
        expand = [*conv_bn(in_chs, mid, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *conv_bn(mid, out_chs, 1))
        self.residual = stride == 1 and in_chs == out_chs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class _Baseline(StagedNet):
    """What both have: a stem, stages whose last one ends in `num_features` channels, a head, and their first weights.

    Args:
        stages: the modules of each stage, its channels and its reduction (pixels of the image per pixel of its map).
    """

    def __init__(
        self,
        stem: list[nn.Module],
        stages: list[tuple[list[nn.Module], int, int]],
        num_classes: int,
        in_chans: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.grad_checkpointing = num_classes, in_chans, False
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList(nn.Sequential(*modules) for modules, _, _ in stages)
        self.feature_info = [
            {"num_chs": chs, "reduction": reduction, "module": f"stages.{i}"}
            for i, (_, chs, reduction) in enumerate(stages)
        ]
        self.num_features = self.head_hidden_size = chs = stages[-1][1]
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.draw_weights()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def enter(self, x: Tensor) -> Tensor:
        return self.stem(x)


class ResNet20(_Baseline):
    """ResNet-20 for 32-pixel images: (N, in_chans, H, W) in [0, 1] to (N, num_classes) logits.

    Three stages of three blocks with 16, 32 and 64 channels and shortcuts without parameters (He, Zhang, Ren, Sun,
    CVPR 2016, section 4.2).

    Args:
        width: factor of all widths, which are rounded to whole numbers of at least 1.

    Raises:
        UsageError: a width that is no positive number.
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        first = chs = _scaled(16, width)
        stages: list[tuple[list[nn.Module], int, int]] = []
        for i in range(3):
            blocks: list[nn.Module] = []
            out_chs = _scaled(16 * 2**i, width)
            for j in range(3):
                blocks.append(BasicBlock(chs, out_chs, 2 if i > 0 and j == 0 else 1))
                chs = out_chs
            stages.append((blocks, chs, 2**i))
        stem = [*conv_bn(in_chans, first, 3), nn.ReLU()]
        super().__init__(stem, stages, num_classes, in_chans, global_pool, drop_rate)


class MobileNetV2(_Baseline):
    """MobileNetV2 for 32-pixel images: (N, in_chans, H, W) in [0, 1] to (N, num_classes) logits.

    The blocks of the paper (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018, table 2), of which the first two strides
    of 2, the stem's and the 24-channel stage's, are 1, as is usual for CIFAR: the last map is 4x4. Other than in the
    paper, widths are rounded to whole numbers, not to multiples of 8, and a `width` below 1 also scales the last
    convolution, which would hold most parameters of a narrow network otherwise.

    Args:
        width: factor of all widths, which are rounded to whole numbers of at least 1.
        stem_stride: 1, or 2 for about a quarter of the multiply-accumulates.

    Raises:
        UsageError: a width that is no positive number, or another stem_stride.
    """

    # Per stage: (expansion, channels, blocks, stride) of its groups.
    LAYOUT = (((1, 16, 1, 1), (6, 24, 2, 1)), ((6, 32, 3, 2),), ((6, 64, 4, 2), (6, 96, 3, 1)),
              ((6, 160, 3, 2), (6, 320, 1, 1)))  # fmt: skip

    def __init__(
        self,
        width: float = 1.0,
        stem_stride: int = 1,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        if stem_stride not in (1, 2):
            raise UsageError(f"stem_stride must be 1 or 2, got {stem_stride!r}")
        first = chs = _scaled(32, width)
        stages: list[tuple[list[nn.Module], int, int]] = []
        for i, groups in enumerate(self.LAYOUT):
            blocks: list[nn.Module] = []
            for expansion, channels, repeats, stride in groups:
                out_chs = _scaled(channels, width)
                for j in range(repeats):
                    blocks.append(LinearBottleneck(chs, out_chs, stride if j == 0 else 1, expansion))
                    chs = out_chs
            if i == len(self.LAYOUT) - 1:  # the last map is the one the classifier reads
                blocks += [*conv_bn(chs, _scaled(1280, width), 1), nn.ReLU6()]
                chs = _scaled(1280, width)
            stages.append((blocks, chs, stem_stride * 2**i))
        stem = [*conv_bn(in_chans, first, 3, stem_stride), nn.ReLU6()]
        super().__init__(stem, stages, num_classes, in_chans, global_pool, drop_rate)


def _scaled(channels: int, width: float) -> int:
    """Channels times the factor `width`, rounded, at least 1."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise UsageError(f"width is a factor of all widths and must be a positive number, got {width!r}")
    return max(1, round(channels * width))


# The widths of `_s3` and `_s7` are those whose multiply-accumulates come near those of rnas_cl_s3 and rnas_cl_s7.
_ARCHITECTURES: dict[str, tuple[type[_Baseline], float]] = {
    "rnas_resnet20": (ResNet20, 1.0),
    "rnas_resnet20_s3": (ResNet20, 0.34),
    "rnas_resnet20_s7": (ResNet20, 0.59),
    "rnas_mobilenetv2": (MobileNetV2, 1.0),
    "rnas_mobilenetv2_s3": (MobileNetV2, 0.205),
    "rnas_mobilenetv2_s7": (MobileNetV2, 0.37),
}
_MAPS = {ResNet20: (8, 8), MobileNetV2: (4, 4)}
default_cfgs = generate_default_cfgs(
    configurations({name: pixel_cfg(pool_size=_MAPS[kind]) for name, (kind, _) in _ARCHITECTURES.items()})
)


def _register(name: str, kind: type[_Baseline], width: float) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> _Baseline:
        return create(kind, name, pretrained, **{"width": width, **kwargs})

    student = name.rpartition("_")[2]
    budget = f", at about the multiply-accumulates of rnas_cl_{student}" if width < 1 else "; `width=` scales it"
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{kind.__name__} for 32-pixel images{budget}."
    globals()[name] = register_model(entry)


for _name, (_kind, _width) in _ARCHITECTURES.items():
    _register(_name, _kind, _width)
