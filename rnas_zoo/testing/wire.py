"""HTTP as the local Hub needs it: bodies that arrive in pieces, requests, answers, byte ranges, pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .faults import Fault
from .store import Refused

PIECE = 1 << 20
UNFIT = re.compile(r"[^\x20-\x7e]+")


class Broken(ConnectionError):
    """The connection ended, or is to be ended, before its request was complete."""


class Body:
    """The body of a request, read from the connection as it is asked for: whole, or in pieces of at most 1 MiB.

    With `cut`, a fault, only part of it is read before Broken is raised.
    """

    def __init__(self, stream: BufferedIOBase, headers: Message) -> None:
        self._stream = stream
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = headers.get("Content-Length") or "0"
        self.announced = 0 if self._chunked or not length.isdecimal() else int(length)
        self.cut: Fault | None = None
        self.read_so_far = 0
        self._rest = self._pieces()

    @property
    def empty(self) -> bool:
        """Whether the client announced no bytes."""
        return not self._chunked and self.announced == 0

    def __iter__(self) -> Iterator[bytes]:
        return self._rest

    def read(self) -> bytes:
        """What has not been read yet."""
        return b"".join(self._rest)

    def _pieces(self) -> Iterator[bytes]:
        if not self._chunked:
            yield from self._exactly(self.announced)
            return
        while True:
            size = int(self._stream.readline().split(b";")[0].strip() or b"0", 16)
            if size:
                yield from self._exactly(size)
            self._stream.readline()
            if not size:
                return

    def _exactly(self, size: int) -> Iterator[bytes]:
        passing = size if self.cut is None else self.cut.length(size)
        for start in range(0, passing, PIECE):
            piece = self._stream.read(min(PIECE, passing - start))
            if len(piece) < min(PIECE, passing - start):
                raise Broken("the client went away before its request was complete")
            self.read_so_far += len(piece)
            yield piece
        if passing < size:
            raise Broken("cut, as a fault asked for")


@dataclass
class Request:
    """One request.

    Attributes:
        path: still percent-encoded, without the query.
        base: how the client calls this server, `http://host:port`.
        authorized: whether it brought the token.
        names: the path, and the paths of files in a repository that it is about; faults are matched with these.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: Body
    base: str
    authorized: bool = False
    names: set[str] = field(default_factory=set)

    def value(self, name: str, default: str = "") -> str:
        """The query's value of this name."""
        return self.query.get(name, [default])[-1]

    def flag(self, name: str) -> bool:
        """Whether the query switches this on."""
        return self.value(name).lower() in ("true", "1")

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one without a body.

        Raises:
            Refused: 400, it is none.
        """
        try:
            value = json.loads(self.body.read() or b"{}")
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise Refused(400, "the body must be a JSON object")
        return value


@dataclass
class Answer:
    """What to send: bytes, or `length` bytes of a file from `start` on."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    length: int = 0

    @property
    def size(self) -> int:
        return self.length if self.file else len(self.body)

    def content(self, corrupt: bool = False) -> Iterator[bytes]:
        """The bytes in pieces; with `corrupt`, the one in the middle is another."""
        done, middle = 0, self.size // 2
        for piece in self._pieces():
            if corrupt and done <= middle < done + len(piece):
                at = middle - done
                piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
            done += len(piece)
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        if self.file is None:
            yield self.body
            return
        with open(self.file, "rb") as file:
            file.seek(self.start)
            left = self.length
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece


def answer_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer in JSON; dates and the like become text."""
    body = json.dumps(value, default=str, ensure_ascii=False).encode()
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def answer_refusal(refused: Refused) -> Answer:
    """The answer from which the client builds its exception."""
    message = str(refused)
    headers = {"X-Error-Message": UNFIT.sub("?", message), **refused.headers}
    if refused.code:
        headers["X-Error-Code"] = refused.code
    return answer_json({"error": message}, refused.status, headers)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and one past the last byte that a Range header asks for; None for the whole file.

    Raises:
        Refused: 416, no byte of the file lies in the range.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    if start >= stop:
        raise Refused(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def answer_page(request: Request, items: Iterable[Any], page_size: int) -> Answer:
    """One page of a list, with a link to the next one if there is more; `cursor` in the query is where it starts."""
    everything = list(items)
    start = int(request.value("cursor")) if request.value("cursor").isdecimal() else 0
    limit = int(request.value("limit")) if request.value("limit").isdecimal() else page_size
    stop = start + max(1, min(limit, page_size))
    headers = {}
    if stop < len(everything):
        query = urlencode({**request.query, "cursor": [str(stop)]}, doseq=True)
        headers["Link"] = f'<{request.base}{request.path}?{query}>; rel="next"'
    return answer_json(everything[start:stop], headers=headers)
