"""Several processes started by torchrun; without it every function here does what one process needs, and no more.

All processes must call `gather`, `largest`, `agree`, `average` and `broadcast` in the same order, inside `group`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError


def rank() -> int:
    """Number of this process, 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def world() -> int:
    """Number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def main() -> bool:
    """Whether this is the process that writes files and reports: rank 0."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process among those on this machine, 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world() > 1 else 0


@contextmanager
def group(device: str | torch.device = "cpu") -> Iterator[None]:
    """A process group for the block, if torchrun started several processes and there is none yet.

    Tensors on the CPU travel over gloo, those on CUDA over NCCL if `device` is one, which then is the current one.

    Raises:
        UsageError: on CUDA, more processes on this machine than devices.
    """
    if world() == 1 or torch.distributed.is_initialized():
        yield
        return
    device = torch.device(device)
    if device.type == "cuda":
        processes, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if processes > devices:
            raise UsageError(f"{processes} processes on {devices} CUDA devices; use --nproc-per-node {devices}")
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
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


def largest(value: int) -> int:
    """The largest of the values that the processes have."""
    if world() == 1:
        return value
    where = "cpu" if "gloo" in torch.distributed.get_backend_config() else "cuda"
    found = torch.tensor([value], dtype=torch.int64, device=where)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def agree(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return bool(largest(int(flag)))


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean over the processes of each tensor, the same bits on all of them; the very tensors without torchrun.

    Args:
        tensors: floating-point, of any shapes, types and memory formats, which the results share; one message per type.
            On CUDA this may be part of a captured graph.
    """
    found = list(tensors)
    if world() == 1:
        return found
    for dtype in dict.fromkeys(tensor.dtype for tensor in found):
        places = [i for i, tensor in enumerate(found) if tensor.dtype == dtype]
        flat = torch.cat([found[i].detach().reshape(-1) for i in places])
        torch.distributed.all_reduce(flat)
        flat /= world()
        for i, part in zip(places, flat.split([found[i].numel() for i in places]), strict=True):
            mean = part.view(found[i].shape)
            found[i] = mean if found[i].is_contiguous() else torch.empty_like(found[i]).copy_(mean)
    return found


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Copy the tensors of rank 0 into those of every other process, in place."""
    if world() == 1:
        return
    with torch.no_grad():
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            torch.distributed.broadcast(sent, 0)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)
