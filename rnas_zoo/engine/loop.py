"""The loop every long command runs: resumable, within a time budget, safe against signals."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch

from .. import random
from ..errors import BudgetReachedError, CheckFailedError, CheckpointError, InterruptedRunError, RnasZooError
from ..files import exclusive
from . import checkpoint, distribution
from .budget import TimeBudget
from .progress import Reporter, Silent
from .record import RunFolder


class Task(Protocol):
    """Something that learns step by step; `step(i)` depends on the state, the seed and i, on nothing else."""

    seed: int
    total_steps: int

    def step(self, index: int) -> Mapping[str, torch.Tensor | float]:
        """Take step `index` and return what it measured."""

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""


@runtime_checkable
class Observed(Protocol):
    """A task that has more to tell than its steps return."""

    def observe(self) -> Mapping[str, float]:
        """Further numbers of a recorded row; called only for these rows, so that it may wait for the device."""


class Signals:
    """The last signal received, 0 if none."""

    received = 0


@contextmanager
def deferred_signals() -> Iterator[Signals]:
    """Hold back SIGINT and SIGTERM so that a checkpoint can be written; a second SIGINT interrupts at once."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def remember(signum: int, _frame: Any) -> None:
        if signals.received == signal.SIGINT == signum:
            raise KeyboardInterrupt
        signals.received = signum

    before = {signum: signal.signal(signum, remember) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def run(
    task: Task,
    folder: RunFolder,
    *,
    name: str,
    budget: TimeBudget | None = None,
    reporter: Reporter | None = None,
    record_every: int = 20,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Take the steps of `task` that `folder` does not have yet.

    Global random numbers (dropout, drop path) are reseeded from (seed, step) for each step and left as found.

    Under torchrun all processes take every step, with the same global random numbers. `step` and `observe` may
    communicate; `state_dict` may not, as only rank 0 calls it. They stop together and resume from rank 0's checkpoint.

    Raises:
        BudgetReachedError: the budget ended first; the folder resumes.
        InterruptedRunError: SIGINT or SIGTERM; the folder resumes.
        CheckFailedError: a loss is not finite.
        CheckpointError: damaged, or not the same one for all processes.
        OutputNotWritableError: another process takes the folder's steps, or the disk is full.
    """
    main = distribution.main()
    reporter = (reporter if main else None) or Silent()
    done = _resumed(task, folder)
    spent_before = folder.info["seconds"], folder.info.get("cpu_seconds", 0.0)
    begin = saved = time.monotonic()
    cpu_begin = time.process_time()
    slowest = 0.0

    def save(status: str) -> None:
        if main:
            checkpoint.save(folder.checkpoint, {"step": done, "task": task.state_dict()})
        folder.update(
            status=status,
            steps_done=done,
            total_steps=task.total_steps,
            seconds=round(spent_before[0] + time.monotonic() - begin, 2),
            cpu_seconds=round(spent_before[1] + time.process_time() - cpu_begin, 2),
        )

    def interrupted(signum: int) -> InterruptedRunError:
        text = f"stopped after step {done} of {task.total_steps}; the same command with --resume continues"
        return InterruptedRunError(text, signum)

    reporter.start(name, task.total_steps, done)
    alone = exclusive(folder.path, wait=False) if main else nullcontext()
    with alone, deferred_signals() as signals, _own_generators():
        while done < task.total_steps:
            step_begin = time.monotonic()
            if signum := distribution.largest(signals.received):
                save("stopped")
                raise interrupted(signum)
            if budget and distribution.agree(budget.left < slowest):
                save("stopped")
                raise BudgetReachedError(
                    f"the time budget ended after step {done} of {task.total_steps}; "
                    "the same command with --resume continues"
                )
            torch.manual_seed(int(random.integers(1, 0, 2**31 - 1, seed=task.seed, stream="step", draw=done)[0]))
            metrics = task.step(done)
            done += 1
            note = ""
            record = done % record_every == 0 or done == task.total_steps
            keep = main and time.monotonic() - saved > checkpoint_seconds
            if record and isinstance(task, Observed):
                metrics = {**metrics, **task.observe()}
            if record or keep:
                row = _finite(metrics, done)
            if record:
                folder.append({"step": done, **{key: round(value, 6) for key, value in row.items()}})
                note = " ".join(f"{key} {value:.3g}" for key, value in list(row.items())[:2])
            reporter.advance(note)
            slowest = max(slowest, time.monotonic() - step_begin)
            if keep:
                save("running")
                saved = time.monotonic()
        save("finished")
        if signum := distribution.largest(signals.received):
            raise interrupted(signum)


def _resumed(task: Task, folder: RunFolder) -> int:
    """Load the folder's checkpoint, if there is one; the number of steps it has taken."""
    done = 0
    if folder.checkpoint.is_file():
        state = checkpoint.load(folder.checkpoint)
        try:
            done = int(state["step"])
            task.load_state_dict(state["task"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, RnasZooError):
                raise
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise CheckpointError(f"{folder.checkpoint} holds another state ({cause}); choose another -o") from error
    if len(set(distribution.gather(done))) > 1:
        raise CheckpointError(
            f"the processes see different checkpoints; put {folder.path} where all of them can read it"
        )
    folder.forget_after(done)
    return done


def _finite(metrics: Mapping[str, torch.Tensor | float], step: int) -> dict[str, float]:
    row = {key: float(value) for key, value in metrics.items()}
    bad = [key for key, value in row.items() if not math.isfinite(value)]
    if bad:
        raise CheckFailedError(f"{', '.join(bad)} became non-finite at step {step}; lower the learning rate")
    return row


@contextmanager
def _own_generators() -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
