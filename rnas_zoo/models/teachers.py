"""Teachers that distillation learns from: wide residual networks (Zagoruyko, Komodakis, BMVC 2016), as timm models.

Pre-activation blocks, as in the robust teachers of the literature (WRN-34-10 of TRADES and of "Overfitting in
adversarially robust deep learning"). Images are RGB in [0, 1]; there is no normalisation outside the network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError
from .base import StagedNet
from .weights import configurations, create, pixel_cfg

__all__ = ["WideResNet"]


class PreActBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; the shortcut is the input, or a 1x1 convolution of the first ReLU's output."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chs)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        same = stride == 1 and in_chs == out_chs
        self.shortcut = None if same else nn.Conv2d(in_chs, out_chs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.conv1(y)
        return shortcut + self.conv2(F.relu(self.bn2(y)))


class WideResNet(StagedNet):
    """WRN-depth-width: (N, in_chans, H, W) in [0, 1] to (N, num_classes) logits.

    Args:
        depth: 6n + 4 for n blocks in each of the three stages.
        width: factor by which the stages are wider than `first_width`, twice and four times that.
        first_width: channels of the first convolution.

    Raises:
        UsageError: depth is not 6n + 4, or a width below 1.
    """

    def __init__(
        self,
        depth: int = 34,
        width: int = 10,
        first_width: int = 16,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise UsageError(f"a wide residual network has a depth of 6n + 4 with n >= 1 (10, 16, ...), got {depth}")
        if width < 1 or first_width < 1:
            raise UsageError(f"widths must be at least 1, got width={width}, first_width={first_width}")
        self.num_classes, self.in_chans, self.grad_checkpointing = num_classes, in_chans, False
        self.conv1 = nn.Conv2d(in_chans, first_width, 3, 1, 1, bias=False)
        self.stages = nn.ModuleList()
        self.feature_info = []
        chs, blocks = first_width, (depth - 4) // 6
        for i in range(3):
            out_chs, stride = first_width * width * 2**i, 1 if i == 0 else 2
            stage = nn.Sequential()
            for j in range(blocks):
                stage.append(PreActBlock(chs, out_chs, stride if j == 0 else 1))
                chs = out_chs
            if i == 2:  # the last map is the one behind the final norm
                stage.extend([nn.BatchNorm2d(chs), nn.ReLU()])
            self.stages.append(stage)
            self.feature_info.append({"num_chs": chs, "reduction": 2**i, "module": f"stages.{i}"})
        self.num_features = self.head_hidden_size = chs
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.draw_weights()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^conv1", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def enter(self, x: Tensor) -> Tensor:
        return self.conv1(x)


_ARCHITECTURES = ((34, 10), (28, 10), (16, 4), (10, 2), (10, 1))
default_cfgs = generate_default_cfgs(
    configurations({f"rnas_wrn{d}_{k}": pixel_cfg(pool_size=(8, 8), first_conv="conv1") for d, k in _ARCHITECTURES})
)


def _register(depth: int, width: int) -> None:
    name = f"rnas_wrn{depth}_{width}"

    def entry(pretrained: bool = False, **kwargs: Any) -> WideResNet:
        return create(WideResNet, name, pretrained, **{"depth": depth, "width": width, **kwargs})

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"Wide residual network WRN-{depth}-{width} for 32-pixel images; `first_width=` scales all widths."
    globals()[name] = register_model(entry)


for _depth, _width in _ARCHITECTURES:
    _register(_depth, _width)
