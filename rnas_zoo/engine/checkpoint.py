"""Checkpoints: nested dicts, lists, tensors and JSON values in one safetensors file. No pickle, never partial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import CheckpointError
from ..files import atomic_path


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = f"t{len(tensors)}"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise CheckpointError(f"cannot store a {type(value).__name__} in a checkpoint")


def _restore(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_restore(k, tensors): _restore(v, tensors) for k, v in content}
    if kind in ("list", "tuple"):
        items = [_restore(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    return content


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` atomically; tensors keep their type and bits."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _flatten(state, tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"rnas_zoo_checkpoint": json.dumps(tree)})


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote, tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["rnas_zoo_checkpoint"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state = _restore(tree, tensors)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint of rnas-zoo ({error}). Remove the run folder and start again."
        ) from error
