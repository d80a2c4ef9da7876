"""Small ONNX graphs as others make them: 8-bit inputs, channels last, operators without a counterpart in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

CLASSES = 4


def net() -> nn.Module:
    """The network the graphs compute: images (N, 3, H, W) in [0, 1] to (N, 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        found = nn.Sequential(*layers).eval().requires_grad_(False)
        found[0].weight.mul_(4)
        found[4].weight.mul_(8)
    return found


def graph(
    path: Path,
    *nodes: tuple[str, dict[str, Any]] | tuple[str, dict[str, Any], np.ndarray],
    kind: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("n", 3, 8, 8),
    after: tuple[str, ...] = (),
    opset: int = 17,
) -> Path:
    """Writes `net` behind some nodes (operator, attributes, second input), and with further operators at its end."""
    inner, made, weights, last = net(), [], [], "image"

    def add(operator: str, attributes: dict[str, Any], *values: np.ndarray) -> None:
        nonlocal last
        names = [f"value{len(weights) + i}" for i in range(len(values))]
        weights.extend(numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True))
        made.append(helper.make_node(operator, [last, *names], [f"out{len(made)}"], f"node{len(made)}", **attributes))
        last = made[-1].output[0]

    for operator, attributes, *values in nodes:
        add(operator, attributes, *values)
    add("Conv", {"pads": [1] * 4}, inner[0].weight.numpy(), inner[0].bias.numpy())
    add("Softplus", {})
    add("GlobalAveragePool", {})
    add("Flatten", {})
    add("Gemm", {"transB": 1}, inner[4].weight.numpy(), inner[4].bias.numpy())
    for operator in after:
        add(operator, {})
    made[-1].output[0] = "logits"
    proto = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


TO_FLOAT = ("Cast", {"to": TensorProto.FLOAT})
UNIT = ("Div", {}, np.array(255, np.float32))
CHANNELS_FIRST = ("Transpose", {"perm": [0, 3, 1, 2]})


def uint8_nhwc(path: Path, **options: Any) -> Path:
    """`net` of uint8 (N, 8, 8, 3)."""
    options = {"shape": ("n", 8, 8, 3), **options}
    return graph(path, CHANNELS_FIRST, TO_FLOAT, UNIT, kind=TensorProto.UINT8, **options)


def pixels(n: int = 5, size: int = 8, seed: int = 0) -> Tensor:
    """Images (N, 3, size, size) on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator) / 255


def slope(network: nn.Module, x: Tensor) -> Tensor:
    """Gradient of a mixture of the logits."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x).mul(torch.tensor([1.0, -2.0, 0.5, 3.0])).square().sum(), x)[0]
