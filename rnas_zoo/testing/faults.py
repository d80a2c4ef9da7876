"""Faults that the local Hub shows on request, so that clients can be tested against a bad day."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, closest

KINDS = {
    "truncate": "a file is announced whole, but fewer bytes are sent and the connection is closed",
    "corrupt": "a file has its announced length, but one byte in the middle is wrong",
    "etag": "a file is announced with the ETag of other bytes",
    "header": "a file is announced without X-Repo-Commit",
    "error": "a request is answered with an error of the server",
    "slow": "an answer comes late",
    "cut": "the connection is closed in the middle of an upload",
    "commit": "a commit is stored, but the connection is closed instead of an answer",
}
OPTIONS = {"status": ("error",), "seconds": ("slow",), "after": ("truncate", "cut")}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


@dataclass
class Fault:
    """One fault that was asked for, and how often it has happened.

    Attributes:
        kind: one of KINDS.
        path: a shell pattern; it fits if it matches the request's path or that of a file, inside its repository, that
            the request reads or uploads.
        times: how often it shall happen; None for always.
        method: only requests of this HTTP method; None for any.
        seconds: how late the answer is (slow).
        status: the HTTP status (error).
        after: bytes of the body to let pass (truncate, cut); None for half of it.
        happened: how often it has happened.
    """

    kind: str
    path: str = "*"
    times: int | None = 1
    method: str | None = None
    seconds: float = 1.0
    status: int = 500
    after: int | None = None
    happened: int = 0

    @property
    def spent(self) -> bool:
        """Whether it has happened as often as it should."""
        return self.times is not None and self.happened >= self.times

    def fits(self, method: str, names: Iterable[str]) -> bool:
        """Whether a request of this HTTP method about these paths (`names`) meets the fault."""
        right_method = self.method in (None, method)
        return right_method and not self.spent and any(fnmatch.fnmatchcase(name, self.path) for name in names)

    def length(self, size: int) -> int:
        """How many of `size` bytes pass before the connection is closed: always less than `size`."""
        return max(0, min(size // 2 if self.after is None else self.after, size - 1))


class Faults:
    """The faults asked for, in that order; safe to use from several threads."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        path: str = "*",
        times: int | None = 1,
        *,
        method: str | None = None,
        seconds: float | None = None,
        status: int | None = None,
        after: int | None = None,
    ) -> Fault:
        """Ask for a fault; arguments as in `Fault`.

        Raises:
            UsageError: the kind or method is unknown, a number is out of range, or an option is not one of this kind.
        """
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise UsageError(f"the local Hub knows no fault {kind!r}.{closest(kind, list(KINDS))} Known: {known}.")
        if method is not None and method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)} or None, not {method!r}.")
        options = (("seconds", seconds), ("status", status), ("after", after))
        given: dict[str, Any] = {option: value for option, value in options if value is not None}
        for option, value in given.items():
            if kind not in OPTIONS[option]:
                raise UsageError(f"{option} belongs to {' and '.join(OPTIONS[option])}: leave it out for {kind!r}.")
            if value < 0:
                raise UsageError(f"{option} must be 0 or more, not {value}.")
        if times is not None and times < 1:
            raise UsageError(f"times must be 1 or more, or None for always, not {times}.")
        if status is not None and not 400 <= status <= 599:
            raise UsageError(f"status must be that of an error, 400 to 599, not {status}.")
        fault = Fault(kind, path, times, method, **given)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._faults.clear()

    def take(self, kind: str, method: str, names: Iterable[str]) -> Fault | None:
        """The first fault of this kind that the request meets, counted as having happened; None if it meets none."""
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fault.fits(method, names):
                    fault.happened += 1
                    return fault
        return None
