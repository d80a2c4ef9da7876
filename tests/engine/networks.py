"""Networks that training is made quick for, small, with batch statistics that matter."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

import rnas_zoo.models  # noqa: F401  (registers the architectures)

NETWORKS = {
    "student": ("rnas_cl_s3", {}),
    "cells": ("rnas_cells", {"genotype": "p_darts", "channels": 4, "layers": 3}),  # both pools, all convolutions
    "cells of ours": ("rnas_cells", {"genotype": "vuln_h", "channels": 4, "layers": 5}),
    "dense cells": ("rnas_cells", {"genotype": "robnet_large", "channels": 4, "layers": 3}),
    "wide residual": ("rnas_wrn10_1", {}),
    "of timm": ("resnet18", {"num_classes": 10}),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """In float64 and training mode; no weight is zero, no statistic 0 or 1."""
    architecture, arguments = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = timm.create_model(architecture, **arguments).double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.1)
    return net.to(memory_format=torch.channels_last).train()


def images(count: int = 4, side: int = 16, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((count, 3, side, side), generator=generator, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)
