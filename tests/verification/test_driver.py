"""Resuming, sharding and budgets: whatever happens in between, the same verdicts and the same images."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import rnas_zoo
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import BudgetReachedError, CheckpointError
from rnas_zoo.verification import driver, evidence

from ..processes import torchrun

THREAT = Threat("linf", 0.02)

MODULE = """
import torch
from torch import nn

def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4))
"""


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A Python file with a small network, 48 images on the 8-bit grid, the network's own answers and a few wrong ones,
    and the data set on disk.
    """
    folder = tmp_path_factory.mktemp("problem")
    (folder / "model.py").write_text(MODULE)
    network = rnas_zoo.load(f"{folder}/model.py:load")
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3)).astype(np.uint8)
    with torch.no_grad():
        labels = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
    labels[::9] = (labels[::9] + 1) % 4
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"{folder}/model.py:load", str(folder / "data.npz"), network


def run(problem, **options):
    ref, data, _ = problem
    given = {"threat": THREAT, "device": "cpu", "checks": False, **options}
    return rnas_zoo.verify(ref, data_name=data, **given)


@pytest.fixture(scope="module")
def whole(problem):
    return run(problem, protocol="fast")


def same(one, other) -> None:
    """Equal records but for time, equal verdicts, equal images bit for bit."""
    assert {**one.run, "seconds": 0} == {**other.run, "seconds": 0}
    for key in evidence.PER_IMAGE:
        np.testing.assert_array_equal(one.verdicts[key], other.verdicts[key])
    np.testing.assert_array_equal(one.x_adv, other.x_adv)


# --- resuming ---------------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts the rows it is asked for, and dies after some; it looks at values, so no copy of it can be traced."""

    def __init__(self, network: nn.Module, die_after: float = float("inf")) -> None:
        super().__init__()
        self.network, self.rows, self.die_after = network, 0, die_after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        if self.rows > self.die_after:
            raise KeyboardInterrupt
        return self.network(x) if bool(x.sum() > -1) else self.network(-x)


def test_a_run_stopped_anywhere_resumes_to_the_same_images_and_repeats_nothing(problem, tmp_path):
    _, data, network = problem
    options = {"data_name": data, "threat": THREAT, "protocol": "fast", "device": "cpu", "checks": False}
    undisturbed = Counted(network)
    expected = rnas_zoo.verify(undisturbed, **options)
    total, folder = undisturbed.rows, tmp_path / "state"
    asked, sessions = 0, 0
    for cut in (0.1, 0.25, 0.5, 0.75, 0.9, None):
        model = Counted(network, total * cut if cut else float("inf"))
        try:
            report = rnas_zoo.verify(model, resume=folder, **options)
        except KeyboardInterrupt:
            report = None
        asked, sessions = asked + model.rows, sessions + 1
        if report:
            break
    assert report is not None
    assert sessions > 2
    same(report, expected)
    last = Counted(network)
    same(rnas_zoo.verify(last, resume=folder, **options), expected)
    assert last.rows == 1, "a finished run only counts the classes"


def test_a_killed_process_resumes_to_the_same_images(problem, whole, tmp_path, warm_python):
    ref, data, _ = problem
    program = (
        "import sys, time, rnas_zoo\n"
        "from rnas_zoo.verification import store\n"
        "write = store.Store.write\n"
        "def slow(self, *piece):\n"
        "    write(self, *piece)\n"
        "    print('piece', flush=True)\n"
        "    time.sleep(60)\n"
        "store.Store.write = slow\n"
        f"rnas_zoo.verify({ref!r}, data_name={data!r}, threat=rnas_zoo.Threat('linf', 0.02), protocol='fast', "
        f"device='cpu', checks=False, resume={str(tmp_path / 'state')!r})\n"
    )
    for pieces in (1, 2):
        with subprocess.Popen([warm_python, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "piece\n"
            process.send_signal(signal.SIGKILL)
        assert len(list((tmp_path / "state").glob("[0-9]*.npz"))) == pieces
    same(run(problem, protocol="fast", resume=tmp_path / "state"), whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"threat": Threat("linf", 0.03)}, "eps is '0.02' there"),
        ({"protocol": "quick"}, "protocol is 'fast' there and 'quick' here"),
        ({"n": 20}, "images_sha256"),
    ],
)
def test_another_verification_is_not_mixed_in(problem, tmp_path, changes, named):
    run(problem, protocol="fast", n=8, resume=tmp_path / "state")
    before = sorted(path.name for path in (tmp_path / "state").iterdir())
    with pytest.raises(CheckpointError, match="belongs to another verification") as error:
        run(problem, **{"protocol": "fast", "n": 8, **changes}, resume=tmp_path / "state")
    assert named in str(error.value)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before


def test_other_batch_sizes_resume_one_another(problem, whole, tmp_path):
    _, data, network = problem
    with pytest.raises(KeyboardInterrupt):
        rnas_zoo.verify(
            Counted(network, 900), data_name=data, threat=THREAT, protocol="fast", batch_size=16, device="cpu",
            checks=False, resume=tmp_path / "state",
        )  # fmt: skip
    assert list((tmp_path / "state").glob("*.npz"))
    report = rnas_zoo.verify(
        Counted(network), data_name=data, threat=THREAT, protocol="fast", batch_size=48, device="cpu", checks=False,
        resume=tmp_path / "state",
    )  # fmt: skip
    for key in ("clean_correct", "broken_by", "step"):
        np.testing.assert_array_equal(report.verdicts[key], whole.verdicts[key])


# --- budgets ----------------------------------------------------------------------------------------------------------


class Slow(nn.Module):
    """A network that takes its time."""

    def __init__(self, network: nn.Module, seconds: float = 0.002) -> None:
        super().__init__()
        self.network, self.seconds = network, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.network(x) if bool(x.sum() > -1) else self.network(-x)


def test_a_time_budget_ends_in_a_valid_report_of_the_first_images(problem, tmp_path, monkeypatch):
    _, data, network = problem
    monkeypatch.setattr(driver, "BUDGETED_BLOCK", 4)
    options = {"data_name": data, "threat": THREAT, "protocol": "fast", "device": "cpu", "checks": False}
    whole = rnas_zoo.verify(Slow(network, 0), **options)
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0):
        with contextlib.suppress(BudgetReachedError):
            report = rnas_zoo.verify(Slow(network), time_budget=seconds, resume=tmp_path / "state", **options)
            break
    n = report.run["n"]
    assert 0 < n < 48
    assert n % 4 == 0, "a block cut short would tell of its easiest images only"
    assert report.partial
    assert report.asked == 48
    evidence.check(report.run, report.verdicts)
    assert report.verdicts["position"].tolist() == list(range(n))
    np.testing.assert_array_equal(report.verdicts["broken_by"], whole.verdicts["broken_by"][:n])
    (flag,) = (text for text in report.run["flags"] if text.startswith("partial:"))
    assert f"{n} of 48" in flag
    end = rnas_zoo.verify(Slow(network, 0), resume=tmp_path / "state", **options)
    for key in ("position", "clean_correct", "broken_by", "refused"):
        np.testing.assert_array_equal(end.verdicts[key], whole.verdicts[key])


def test_no_time_at_all_is_an_error_that_says_how_to_go_on(problem, tmp_path):
    with pytest.raises(BudgetReachedError, match=r"before any image was settled.*--resume") as error:
        run(problem, protocol="fast", time_budget=1e-9, resume=tmp_path / "state")
    assert error.value.exit_code == 3


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_give_the_verdicts_of_one(problem, tmp_path, warm_python):
    ref, data, _ = problem
    expected = run(problem, protocol="fast", checks=True)
    printed = torchrun(
        warm_python, "rnas_zoo", "verify", ref, "--data", data, "--eps", "0.02", "--protocol", "fast", "-n", "48",
        "--device", "cpu", "--json", "--resume", "state", cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(printed)
    leave = {"seconds": 0, "versions": 0, "dataset": 0, "subject": 0}
    assert {**found, **leave} == {**json.loads(json.dumps(expected.run)), **leave}
    same_verdicts = run(problem, protocol="fast", checks=True, resume=tmp_path / "state")
    for key in ("position", "clean_correct", "broken_by", "step", "refused"):
        np.testing.assert_array_equal(same_verdicts.verdicts[key], expected.verdicts[key])
    for key in ("clean_margin", "margin", "norm"):
        np.testing.assert_allclose(same_verdicts.verdicts[key], expected.verdicts[key], atol=1e-6)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_images_fit_into_two_gibibytes(tmp_path):
    program = f"""
import pathlib, resource
from dataclasses import replace
import numpy as np, torch
from torch import nn
import rnas_zoo
from rnas_zoo.verification import protocols
_, fgsm, pgd = protocols.PROTOCOLS["quick"]
protocols.PROTOCOLS["quick"] = fgsm, replace(pgd, config=replace(pgd.config, steps=2))
torch.manual_seed(0)
net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4)).eval()
images = np.random.default_rng(0).integers(0, 256, (10000, 32, 32, 3), dtype=np.uint8)
labels = np.concatenate([net(torch.from_numpy(part).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
                         for part in np.array_split(images, 50)])
report = rnas_zoo.verify(net, images, labels, protocol="quick", device="cpu", resume={str(tmp_path / "state")!r})
status = pathlib.Path("/proc/self/status")  # getrusage also counts the process that started this one
if status.exists():
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(report.run["n"], peak)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    n, peak = map(int, done.stdout.split())
    assert n == 10_000
    assert peak < 2 * 2**20, "KiB"
