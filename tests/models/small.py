"""What tests of weights share: a small network, its release folder and an image."""

from __future__ import annotations

import pytest
import timm
import torch

from rnas_zoo.models import weights


def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def donor():
    """A small network with arbitrary statistics, scales and shifts."""
    torch.manual_seed(0)
    model = timm.create_model("rnas_cl_s3").eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    assert torch.isfinite(model(image())).all()
    return model


def save_release(folder, donor, tag: str) -> None:
    overlay = {
        "tag": tag,
        "license": "cc0-1.0",
        "notes": [f"tensors-sha256:{weights.tensor_digest(donor.state_dict())}"],
    }
    timm.models.save_for_hf(donor, folder, safe_serialization=True, model_config={"pretrained_cfg": overlay})
