"""Progress with time left: bars on a terminal, silence in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Reporter(Protocol):
    """What a long command reports to."""

    def start(self, name: str, total: int, done: int = 0, *, timed: bool = True) -> None:
        """A stage of `total` units, called `name`, begins, `done` of them from an earlier session; `timed` if they take
        equally long, so that their number tells the time left.
        """

    def advance(self, note: str = "", by: int = 1) -> None:
        """`by` units of the current stage are done; `note` stands beside their number."""

    def say(self, text: str) -> None:
        """One line of news, the `text`."""


class Silent:
    """Reports nothing."""

    def start(self, name: str, total: int, done: int = 0, *, timed: bool = True) -> None:
        pass

    def advance(self, note: str = "", by: int = 1) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class Lines(Silent):
    """News as plain lines on standard error; no bars."""

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class Bars:
    """rich progress bars on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class TimeLeft(TimeRemainingColumn):
            def render(self, task: Task) -> Text:
                return super().render(task) if task.fields["timed"] else Text("")

        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeLeft(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task: Any = None

    def start(self, name: str, total: int, done: int = 0, *, timed: bool = True) -> None:
        self._task = self._progress.add_task(name, total=total, completed=done, note="", timed=timed)

    def advance(self, note: str = "", by: int = 1) -> None:
        if self._task is not None:
            fields: dict[str, Any] = {"note": note} if note else {}
            self._progress.update(self._task, advance=by, **fields)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Reporter]:
    """Bars if standard error is a terminal, plain lines otherwise, nothing if `quiet`."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        bars = Bars()
        with bars._progress:
            yield bars
    else:
        yield Lines()
