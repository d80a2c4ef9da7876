"""What tests of several parts share: a small data set on disk, a small network, images."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAMS = "Scripts" if os.name == "nt" else "bin"  # of an environment

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on networks this small, threads only wait for each other

settings.register_profile("rnas_zoo", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("rnas_zoo")


def blobs(n: int, classes: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images whose brightest channel and corner tell the class: uint8 (n, size, size, 3) and labels (n,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = generator.integers(0, 120, (n, size, size, 3))
    for image, label in zip(images, labels, strict=True):
        half = size // 2
        rows, columns = divmod(int(label), 2)
        image[rows * half : (rows + 1) * half, columns * half : (columns + 1) * half, label % 3] += 120
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory) -> Callable[..., Path]:
    """Writes a small .npz data set and returns its path."""

    def write(
        classes: int = 3, size: int = 16, n: int = 60, seed: int = 0, class_names: Any = None, **changes: Any
    ) -> Path:
        x_train, y_train = blobs(n, classes, size, seed)
        x_test, y_test = blobs(24, classes, size, seed + 1)
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        arrays = {**arrays, "classes": class_names, **changes}
        path = tmp_path_factory.mktemp("data") / "blobs.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


@pytest.fixture(scope="session")
def small_data(npz_file) -> Path:
    """60 training and 24 test images of 16x16 pixels in three classes."""
    return npz_file()


@pytest.fixture
def small_net():
    """A convolutional network (N, 3, 8, 8) to (N, 4) in float64 and evaluation mode, batch norm statistics included."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ).double()
        net[0].weight.data *= 3
        net[-1].weight.data *= 6
        net.train()
        for _ in range(30):
            net(torch.rand(16, 3, 8, 8, dtype=torch.float64))
        net.eval()
        with torch.no_grad():  # centred logits: all classes occur
            net[-1].bias -= net(torch.rand(256, 3, 8, 8, dtype=torch.float64)).mean(0)
    return net


@pytest.fixture
def small_batch(small_net):
    """24 images for `small_net` in float64, and the classes it predicts for them."""
    import torch

    x = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return x, small_net(x).argmax(1)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A path that `make` writes in the first of the parallel workers that needs it; the others wait and share it."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    path = root / name
    with FileLock(root / f"{name}.lock"):
        if not path.exists():
            make(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """Exports share the table of operators that torch's ONNX exporter makes anew, in a third of a second, for each."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel built from the checkout."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("waits for a checkout: run the tests from a clone")

    def make(folder: Path) -> None:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=300)

    (found,) = made_once(tmp_path_factory, "wheel", make).glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of a new environment with the wheel; its dependencies are those of this one."""

    def make(folder: Path) -> None:
        venv.EnvBuilder(symlinks=os.name != "nt").create(folder)
        python = folder / PROGRAMS / "python"
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
        others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (Path(own) / "dependencies.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
        subprocess.run([*install, wheel], check=True, capture_output=True, timeout=300)

    return made_once(tmp_path_factory, "installed", make) / PROGRAMS


WARM = "RNAS_ZOO_TESTS_PYTHON"


def pytest_configure(config: pytest.Config) -> None:
    """Parallel workers share the interpreter of `warm_python`, which belongs to the process that has started them."""
    if not hasattr(config, "workerinput") and hasattr(os, "fork"):
        from . import warm

        cleanup = contextlib.ExitStack()
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="warm-"))
        os.environ[WARM] = str(cleanup.enter_context(warm.python(Path(folder))))
        config.add_cleanup(cleanup.close)


@pytest.fixture(scope="session")
def warm_python() -> Path:
    """An interpreter that starts programs in milliseconds; see `tests/warm.py`."""
    return Path(os.environ.get(WARM, sys.executable))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """A finished, very short training run of a tiny cell network on the digits; tests must not change it."""
    from rnas_zoo.training.config import TrainConfig
    from rnas_zoo.training.run import train

    config = TrainConfig(
        architecture="rnas_cells",
        model_args={"genotype": "ours_rnas_vuln_cifar10", "channels": 4, "layers": 3, "stem": "cifar_stride2"},
        data="digits",
        eps="16/255",
        attack_steps=1,
        total_steps=40,
        batch_size=32,
    )

    def make(path: Path) -> None:
        train(config, path.parent / "run", device="cpu")
        (path.parent / "run").rename(path)

    return made_once(tmp_path_factory, "trained_run", make)


@pytest.fixture(scope="session")
def release(trained_run, tmp_path_factory) -> Path:
    """The release folder of `trained_run`, with ONNX file and evidence on 40 images; tests must not change it."""
    from rnas_zoo.hub.release import package

    def make(path: Path) -> None:
        package(trained_run, path, n=40, device="cpu")

    return made_once(tmp_path_factory, "rnas_cells.pgd_digits_linf16", make)


@pytest.fixture
def short_curve(monkeypatch) -> None:
    """Curves over ε of releases have two points instead of seven, for tests that are not about them."""
    from rnas_zoo.hub import figures

    monkeypatch.setattr(figures, "CURVE_FACTORS", (0.0, 1.0))


@pytest.fixture
def short_protocols(monkeypatch) -> None:
    """The attacks of protocols take few steps, for tests that are not about what they find."""
    from rnas_zoo.verification import protocols

    few = {"steps": 5, "queries": 50, "rungs": ((9, 2), (3, 3), (1, 5))}

    def shorter(stage: protocols.Stage) -> protocols.Stage:
        changes = {name: value for name, value in few.items() if hasattr(stage.config, name)}
        return replace(stage, config=stage.config and replace(stage.config, **changes))

    for name, stages in protocols.PROTOCOLS.items():
        monkeypatch.setitem(protocols.PROTOCOLS, name, tuple(map(shorter, stages)))
    monkeypatch.setattr(protocols, "FEW_QUERIES", shorter(protocols.FEW_QUERIES))


@pytest.fixture
def short_looks(monkeypatch) -> None:
    """Searches are watched by one step of PGD instead of ten, for tests that are not about it."""
    from rnas_zoo.searching import watch

    monkeypatch.setattr(watch, "STEPS", 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that parallel workers end together."""
    first = ("test_demo.py", "test_timm_contract.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
