"""One verification on several processes started by torchrun: each takes every n-th block of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def rank() -> int:
    """Number of this process, 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def world() -> int:
    """Number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def group() -> Iterator[None]:
    """A process group over gloo for the block, if torchrun started several processes and there is none yet."""
    if world() == 1 or torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """What every process has, in the order of their ranks, on every process."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    torch.distributed.all_gather_object(found, value)
    return found
