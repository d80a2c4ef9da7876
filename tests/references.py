"""What tests of model references share: networks, the files they are stored in, and what they answer."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

FOREIGN = "test_resnet"
OURS = "rnas_cells"


def pixels(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """An untrained network of ours and one of timm's that declares mean and standard deviation 0.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: timm.create_model(name, num_classes=7).eval() for name in (OURS, FOREIGN)}


@pytest.fixture
def checkpoints(networks, tmp_path) -> dict[str, str]:
    """Their weights in files."""
    for name, network in networks.items():
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / f"{name}.st")
    return {name: str(tmp_path / f"{name}.st") for name in networks}


@pytest.fixture
def folders(networks, tmp_path) -> dict[str, str]:
    """Folders as timm writes them for the Hub."""
    for name, network in networks.items():
        timm.models.save_for_hf(network, tmp_path / name, safe_serialization=True)
    return {name: str(tmp_path / name) for name in networks}


def expected(networks: dict[str, nn.Module], name: str, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return networks[name](2 * x - 1 if name == FOREIGN else x)


@pytest.fixture
def python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass\n"
        "class Config:\n"
        "    width: int = 12\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(Config().width, 5))\n"
        "def text():\n"
        "    return 'net'\n"
    )
    return path
