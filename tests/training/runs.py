"""What tests of training runs share: the configuration of a short one, its weights, and how it is interrupted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rnas_zoo.errors import InterruptedRunError
from rnas_zoo.training.config import TrainConfig
from rnas_zoo.training.run import train
from rnas_zoo.training.task import TrainTask

MODEL = {"genotype": "vuln_h", "channels": 4, "layers": 3, "stem": "cifar_stride2"}


@pytest.fixture
def config(small_data) -> TrainConfig:
    return short(small_data)


def short(data: Path) -> TrainConfig:
    """A training of twelve steps on the images of a file."""
    return TrainConfig(
        "rnas_cells",
        str(data),
        attack_steps=1,
        total_steps=12,
        batch_size=16,
        learning_rate=0.05,
        seed=3,
        model_args=MODEL,
    )


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def interrupt_at(monkeypatch, index: int) -> None:
    """SIGTERM during step `index`, once."""
    plain = TrainTask.step

    def step(self, at: int):
        if at == index:
            monkeypatch.setattr(TrainTask, "step", plain)
            signal.raise_signal(signal.SIGTERM)
        return plain(self, at)

    monkeypatch.setattr(TrainTask, "step", step)


def stop_and_resume(config: TrainConfig, out, monkeypatch, at: int) -> dict:
    interrupt_at(monkeypatch, at)
    with pytest.raises(InterruptedRunError):
        train(config, out, device="cpu")
    assert not (out / "model.safetensors").exists()
    return train(config, out, resume=True, device="cpu")
