"""Searches small enough to test, and one whose answer is known."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnas_zoo import data
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import InterruptedRunError
from rnas_zoo.genotype import Genotype
from rnas_zoo.reference import load as load_reference
from rnas_zoo.searching.config import SearchConfig
from rnas_zoo.searching.run import run_folder, search
from rnas_zoo.searching.task import SearchTask

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"channels": 2, "layers": 3, "stem": "cifar_stride2", "batch_size": 8, "attack_steps": 1}

# A network of 3 convolutions: the second answers every image with the same constant map.
TEACHER = '''"""A small teacher."""
import torch
from torch import nn


class Teacher(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.constant = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, classes)
        nn.init.zeros_(self.constant.weight)
        nn.init.ones_(self.constant.bias)

    def forward(self, x):
        x = self.first(x)
        x = x + self.constant(x)
        return self.head(self.last(x.relu()).mean((2, 3)))


def make():
    return Teacher()
'''


def config(path: Path | str, method: str = "darts", total_steps: int = 6, **changes: Any) -> SearchConfig:
    """Of a search on the tiny supernet: three cells, for ARNAS four, so that one is a robust cell."""
    values = {
        **TINY,
        "layers": 4 if method == "arnas" else TINY["layers"],
        "arch_learning_rate": 0.05,
        "total_steps": total_steps,
        "seed": 2,
        **changes,
    }
    return SearchConfig(data=str(path), method=method, **values)


def task_of(config: SearchConfig, **options: Any) -> SearchTask:
    """The task of a configuration, whose teacher is a model reference."""
    teacher = load_reference(config.teacher) if config.teacher else None
    return SearchTask(config, data.load(config.data, config.image_size), CPU, teacher=teacher, **options)


def teacher_in(folder: Path, classes: int = 3) -> str:
    """The model reference of a teacher that is written into the folder."""
    (folder / "teacher.py").write_text(TEACHER.replace("classes=3", f"classes={classes}"))
    return f"{folder / 'teacher.py'}:make"


def everything(task: SearchTask) -> list[Tensor]:
    """Copies of α, weights and running statistics."""
    return [value.clone() for value in task.net.state_dict().values()]


def same(left: Iterable[Tensor], right: Iterable[Tensor]) -> bool:
    """Whether all tensors agree bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def interrupt_at(monkeypatch: Any, index: int) -> None:
    """SIGINT in the next step `index`, once."""
    plain = SearchTask.step

    def step(self: SearchTask, at: int) -> Any:
        if at == index:
            monkeypatch.setattr(SearchTask, "step", plain)
            signal.raise_signal(signal.SIGINT)
        return plain(self, at)

    monkeypatch.setattr(SearchTask, "step", step)


def search_in_parts(monkeypatch: Any, config: SearchConfig, out: Path, *stops: int) -> Genotype:
    """Search, interrupted in each of the given steps and resumed."""
    for place, stop in enumerate(stops):
        interrupt_at(monkeypatch, stop)
        try:
            search(config, out, resume=place > 0, device="cpu")
        except InterruptedRunError:
            continue
        raise AssertionError(f"not interrupted in step {stop}")
    return search(config, out, resume=True, device="cpu")


def left_behind(out: Path) -> dict[str, Any]:
    """What a finished search has left, but for times: checkpoint, record, history of α, genotype."""
    folder, found = run_folder(out), {"record": (run_folder(out) / "record.jsonl").read_text()}
    found["checkpoint"] = checkpoint.load(folder / "checkpoint.safetensors")
    if (folder / "alphas.npz").is_file():
        with np.load(folder / "alphas.npz") as file:
            found["alphas"] = {name: torch.from_numpy(file[name]) for name in file.files}
    found["structure"] = (out.read_text().partition('"provenance"')[0]).replace(out.stem, "name")
    return found


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Names of the parts in which two trees of dicts, lists, tensors and values differ, tensors in any bit."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [name for key in left for name in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [name for index, pair in pairs for name in differences(*pair, f"{where}.{index}")]
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    return [] if type(left) is type(right) and left == right else [where]
