"""Where and how tensors are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..errors import UsageError
from . import distribution


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:i`; under torchrun `cuda` is one device per process.

    Raises:
        UsageError: CUDA is asked for and not usable, or the name is unknown.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return _own() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return _own() if name == "cuda" else device


def _own() -> torch.device:
    """`cuda`, or under torchrun this process's of the machine's devices."""
    if distribution.world() == 1:
        return torch.device("cuda")
    return torch.device("cuda", distribution.local_rank() % torch.cuda.device_count())


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which networks compute; losses, perturbations and statistics stay fp32.

    Raises:
        UsageError: a precision other than fp32 and bf16.
    """
    if precision == "fp32":
        return nullcontext()
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    raise UsageError(f"unknown precision {precision!r}; use fp32 or bf16")


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 means float32 inside the block.

    On CUDA torch otherwise rounds what convolutions read to TF32, with 10 bits of mantissa, and an image near a
    decision boundary may get another verdict than on the CPU.
    """
    # The newer switches (`fp32_precision`) make torch.export raise, which then leaves oneDNN off.
    units: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [unit.allow_tf32 for unit in units]
    try:
        for unit in units:
            unit.allow_tf32 = False
        yield
    finally:
        for unit, allowed in zip(units, before, strict=True):
            unit.allow_tf32 = allowed


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads inside the block; None leaves torch's choice."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
