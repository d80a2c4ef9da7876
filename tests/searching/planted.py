"""A supernet in which one operation is useful: only it writes into the channels that the classifier reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnas_zoo.genotype import Cells
from rnas_zoo.models.ops import FactorizedReduce
from rnas_zoo.searching.grouped import NODES, edges_out_of
from rnas_zoo.searching.task import SearchTask

from .small import config, task_of

USEFUL = "dil_conv_3x3"
SETTINGS: dict[str, Any] = {
    "channels": 4,
    "batch_size": 8,
    "learning_rate": 0.0,
    "arch_learning_rate": 0.1,
    "arch_weight_decay": 0.0,
    "eps": "8/255",
}


def bright_and_dark(folder: Path) -> Path:
    """Images of 8x8 pixels in two classes, which differ in brightness."""
    generator, labels = np.random.default_rng(0), np.arange(160) % 2
    images = (60 + 130 * labels[:, None, None, None] + generator.integers(-3, 4, (160, 8, 8, 3))).astype(np.uint8)
    np.savez(folder / "planted.npz", x_train=images, y_train=labels, x_test=images[:16], y_test=labels[:16])
    return folder / "planted.npz"


def planted(path: Path, method: str, total_steps: int = 4, **changes: Any) -> SearchTask:
    """A search of α on the planted supernet; its weights stay as they are.

    Every layer passes brightness on, upwards. All convolutions on edges but the useful ones are zero. Into the last
    cell brightness comes in the upper channels. There the useful operation on every edge into node j writes into
    channel j, from the upper channels of an input or from the channel of an earlier node; the classifier reads channel
    j of node j. Pools and skip connections keep every channel where it is.
    """
    task = task_of(config(path, method, total_steps, **{**SETTINGS, **changes}))
    net: Any = task.net
    with torch.no_grad():
        for weight in net.weight_parameters():
            weight.abs_()
        for cell in net.cells:
            for outgoing in cell.outgoing:
                for name, half in [*outgoing.first.items(), *outgoing.second.items()]:
                    if name != USEFUL:
                        half.depthwise.zero_()
                        half.pointwise.zero_()
                for reduce in list(outgoing.reduce)[:2]:
                    reduce.weight.zero_()
        last = net.cells[-1]
        _upper_only(last.preprocess0)
        _upper_only(last.preprocess1)
        for state, outgoing in enumerate(last.outgoing):
            rows = edges_out_of(state)
            pointwise = outgoing.first[USEFUL].pointwise.view(len(rows), outgoing.chs, outgoing.chs)
            pointwise.zero_()
            first_node = NODES - len(rows)
            for row in range(len(rows)):
                source = slice(NODES, None) if state < 2 else slice(state - 2, state - 1)
                pointwise[row, first_node + row, source] = 1
        chs = last.outgoing[0].chs
        net.classifier.weight.zero_()
        net.classifier.bias.zero_()
        for node in range(NODES):
            net.classifier.weight[0, node * chs + node] = -0.2
            net.classifier.weight[1, node * chs + node] = 0.2
    return task


def _upper_only(preprocess: Any) -> None:
    """Channels below the number of nodes carry nothing."""
    if isinstance(preprocess, FactorizedReduce):
        preprocess.conv_1.weight[:NODES] = 0
    else:
        next(m for m in preprocess.modules() if isinstance(m, torch.nn.Conv2d)).weight[:NODES] = 0


def share_of_useful(found: Cells) -> float:
    """How many of the derived edges of the last cell carry the useful operation, as a fraction."""
    return float(np.mean([edge.op == USEFUL for edge in found[last_role(found.kind)].edges]))


def last_role(kind: str) -> str:
    """The role of the last cell: of three, a reduction; of the four that ARNAS needs, a robust cell."""
    return "robust" if kind == "accurate_robust_cells" else "reduce"
