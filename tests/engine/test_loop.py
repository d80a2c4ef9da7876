"""The loop: however often a run is stopped, it ends where an uninterrupted one does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import rnas_zoo
from rnas_zoo.engine import checkpoint, loop
from rnas_zoo.engine.budget import TimeBudget
from rnas_zoo.engine.progress import Silent
from rnas_zoo.engine.record import RunFolder
from rnas_zoo.errors import BudgetReachedError, CheckFailedError, InterruptedRunError

from .walk import CONFIG, STEPS, Walk

HANDLED = (signal.SIGINT, signal.SIGTERM)


def run(path: Path, task: Walk | None = None, **kwargs) -> tuple[Walk, RunFolder]:
    task = task or Walk()
    folder = RunFolder(path, "train", CONFIG, resume=True)
    loop.run(task, folder, name="walk", **{"record_every": 3, **kwargs})
    return task, folder


@pytest.fixture
def whole(tmp_path):
    """The end state and the rows of a run nobody disturbs."""
    task, folder = run(tmp_path / "whole")
    return task.position, folder.rows()


def assert_same(task: Walk, folder: RunFolder, whole) -> None:
    assert task.taken == STEPS
    assert torch.equal(task.position, whole[0])
    assert folder.rows() == whole[1]
    info = RunFolder(folder.path, "train", CONFIG, resume=True).info
    assert (info["status"], info["steps_done"], info["total_steps"]) == ("finished", STEPS, STEPS)


class Steps:
    """A budget of so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps + 1

    @property
    def left(self) -> float:
        self.steps -= 1
        return 1e9 if self.steps > 0 else -1.0


def doing(action, at: int) -> Walk:
    """A walk during whose step `at` something happens."""
    task = Walk()
    plain = task.step

    def step(index: int):
        if index == at:
            action()
        return plain(index)

    task.step = step
    return task


def test_rows_are_recorded_every_so_often_and_at_the_end(tmp_path):
    _, folder = run(tmp_path / "run", record_every=7)
    rows = folder.rows()
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert all(row["taken"] == row["step"] for row in rows)


def test_steps_are_random_but_reproducible(tmp_path, whole):
    again, _ = run(tmp_path / "again")
    other, _ = run(tmp_path / "other", Walk(seed=4))
    assert torch.equal(again.position, whole[0])
    assert not torch.equal(other.position, whole[0])


def test_a_task_is_observed_for_recorded_rows_only(tmp_path, whole):
    class Seen(Walk):
        asked = 0

        def observe(self) -> dict[str, float]:
            self.asked += 1
            return {"asked": float(self.asked), "at": float(self.taken)}

    task, folder = run(tmp_path / "run", Seen(), record_every=7, checkpoint_seconds=0.0)
    assert [(row["asked"], row["at"]) for row in folder.rows()] == [(i + 1, min(60, 7 * i + 7)) for i in range(9)]
    assert all(row["taken"] == row["at"] for row in folder.rows()), "beside what the step returned"
    assert task.asked == 9
    assert torch.equal(task.position, whole[0])


@pytest.mark.parametrize("steps", [0, 1, 3, 17, 59])
def test_a_run_stopped_by_its_budget_resumes_bit_for_bit(tmp_path, whole, steps):
    with pytest.raises(BudgetReachedError, match=f"after step {steps} of {STEPS}") as error:
        run(tmp_path / "run", budget=Steps(steps))
    assert error.value.exit_code == 3
    found = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert (found["step"], found["task"]["taken"]) == (steps, steps)
    assert RunFolder(tmp_path / "run", "train", CONFIG, resume=True).info["status"] == "stopped"
    assert_same(*run(tmp_path / "run"), whole)


def test_a_run_stopped_many_times_resumes_bit_for_bit(tmp_path, whole):
    for _ in range(STEPS // 7):
        with pytest.raises(BudgetReachedError):
            run(tmp_path / "run", budget=Steps(7))
    assert_same(*run(tmp_path / "run"), whole)


def test_a_real_budget_stops_before_it_is_exceeded(tmp_path):
    task = Walk(total_steps=10**6)
    with pytest.raises(BudgetReachedError):
        run(tmp_path / "run", task, budget=TimeBudget(0.2))
    assert 0 < task.taken < 10**6
    _, folder = Walk(), RunFolder(tmp_path / "run", "train", CONFIG, resume=True)
    assert 0.05 < folder.info["seconds"] < 5
    assert folder.info["cpu_seconds"] > 0


@pytest.mark.parametrize("signum", HANDLED)
@pytest.mark.parametrize("at", [0, 20, STEPS - 1])
def test_a_signal_leaves_a_checkpoint_and_resumes_bit_for_bit(tmp_path, whole, signum, at):
    before = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(InterruptedRunError) as error:
        run(tmp_path / "run", doing(lambda: signal.raise_signal(signum), at))
    assert error.value.exit_code == 128 + signum
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["step"] == at + 1
    assert_same(*run(tmp_path / "run"), whole)


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", doing(twice, 5))
    assert [signal.getsignal(number) for number in HANDLED] == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_process_ended_by_a_signal_resumes_bit_for_bit(tmp_path, whole, signum, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.walk", str(tmp_path / "run")],
        cwd=Path(rnas_zoo.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(20):
        assert process.stdout.readline() == "step\n"
    process.send_signal(signum)
    _, news = process.communicate(timeout=60)
    assert process.returncode == code
    done = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["step"]
    if signum == signal.SIGKILL:
        assert 0 < done < STEPS
    else:
        assert f"stopped after step {done} of {STEPS}" in news
        assert 20 <= done < STEPS
    assert_same(*run(tmp_path / "run"), whole)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_crash_leaves_a_resumable_folder(tmp_path, whole, checkpoint_seconds):
    def crash() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", doing(crash, 25), checkpoint_seconds=checkpoint_seconds)
    rows = RunFolder(tmp_path / "run", "train", CONFIG, resume=True).rows()
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert (tmp_path / "run" / "checkpoint.safetensors").exists() == (checkpoint_seconds == 0)
    assert_same(*run(tmp_path / "run"), whole)


def test_a_finished_run_takes_no_more_steps(tmp_path, whole):
    run(tmp_path / "run")

    def never() -> None:
        raise AssertionError("a step was taken")

    task = Walk()
    task.step = lambda index: never()
    assert_same(*run(tmp_path / "run", task), whole)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(float("-inf"))])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, bad):
    class Diverging(Walk):
        def step(self, index: int):
            return {**super().step(index), "loss": bad if index >= 10 else 1.0}

    with pytest.raises(CheckFailedError, match="loss became non-finite at step 12") as error:
        run(tmp_path / "run", Diverging())
    assert error.value.exit_code == 1
    assert [row["step"] for row in RunFolder(tmp_path / "run", "train", CONFIG, resume=True).rows()] == [3, 6, 9]


def test_an_observation_that_is_not_finite_ends_the_run(tmp_path):
    class Diverging(Walk):
        def observe(self) -> dict[str, float]:
            return {"entropy": float("nan") if self.taken > 6 else 0.0}

    with pytest.raises(CheckFailedError, match="entropy became non-finite at step 9"):
        run(tmp_path / "run", Diverging())


def test_global_random_numbers_are_left_as_found(tmp_path):
    before = torch.get_rng_state()
    run(tmp_path / "run")
    with pytest.raises(BudgetReachedError):
        run(tmp_path / "stopped", budget=Steps(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loop_runs_outside_the_main_thread(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path / "run")))
    thread.start()
    thread.join()
    assert_same(*found[0], whole)


def test_the_reporter_is_told_what_was_done_and_what_is_left(tmp_path):
    class Recorder(Silent):
        def __init__(self) -> None:
            self.starts, self.advanced, self.notes = [], 0, []

        def start(self, name: str, total: int, done: int = 0) -> None:
            self.starts.append((name, total, done))

        def advance(self, note: str = "", by: int = 1) -> None:
            self.advanced += by
            self.notes.append(note)

    first, second = Recorder(), Recorder()
    with pytest.raises(BudgetReachedError):
        run(tmp_path / "run", budget=Steps(22), reporter=first)
    run(tmp_path / "run", reporter=second)
    assert (first.starts, first.advanced) == ([("walk", STEPS, 0)], 22)
    assert (second.starts, second.advanced) == ([("walk", STEPS, 22)], STEPS - 22)
    assert "loss" in first.notes[2]
    assert first.notes[3] == ""


def test_a_checkpoint_of_a_diverged_run_is_never_written(tmp_path):
    class Diverging(Walk):
        def step(self, index):
            return {"loss": float("nan")}

    with pytest.raises(CheckFailedError, match="non-finite at step 1"):
        run(tmp_path / "run", task=Diverging(), record_every=1000, checkpoint_seconds=0.0)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
