"""The HTTP server of the local Hub: one thread per connection, faults, and a record of what was asked."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Fault, Faults
from .routes import Api
from .store import Refused
from .wire import Answer, Body, Broken, Request, answer_refusal

UNTOUCHED = "harnesses"  # asked at a time of the client's choice: it would use up faults meant for others
DRAIN_LIMIT = 1 << 20


@dataclass(frozen=True)
class Seen:
    """A request that the Hub got.

    Attributes:
        path: decoded, without the query.
        status: the answer's; None if the connection was closed instead.
        range: the Range header.
        authorized: whether it brought the right token.
        faults: the kinds it met.
    """

    method: str
    path: str
    status: int | None
    range: str | None
    authorized: bool
    faults: tuple[str, ...]


class Server(ThreadingHTTPServer):
    """Listens, and knows its open connections so that it can end them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], api: Api, faults: Faults, requests: list[Seen]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.api, self.faults, self.requests = api, faults, requests
        self.stopping = threading.Event()
        self._open: set[Any] = set()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """As HTTPServer's, but without asking the name service for the machine's name."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = f"{host!s}:{port}", port

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End what clients keep open, so that a stopped Hub is out of reach at once."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news here."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Visit:
    """One request with the name of what answers it, and the faults it has met."""

    def __init__(self, request: Request, api: Api, faults: Faults) -> None:
        self.request = request
        self.name, self.given = api.find(request)
        self.met: list[str] = []
        self._faults = faults

    def meets(self, kind: str, possible: bool = True) -> Fault | None:
        """The fault of this kind that strikes now, if it is possible here and was asked for."""
        if not possible or self.name == UNTOUCHED:
            return None
        fault = self._faults.take(kind, self.request.method, self.request.names)
        if fault is not None:
            self.met.append(kind)
        return fault


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = "rnas_zoo-local-hub"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None:
        """Requests are kept in `LocalHub.requests` instead."""

    def _serve(self) -> None:
        where = urlsplit(self.path)
        query = parse_qs(where.query, keep_blank_values=True)
        base = f"http://{self.headers['Host'] or self.server.server_name}"
        body = Body(self.rfile, self.headers)
        request = Request(self.command, where.path, query, self.headers, body, base, names={unquote(where.path)})
        visit = _Visit(request, self.server.api, self.server.faults)
        try:
            answer = self._answer(visit)
        except Broken:
            self.close_connection = True
            self._note(visit, None)
            return
        is_file = visit.name == "resolve" and answer.status in (200, 206)
        if visit.meets("etag", is_file):
            answer.headers |= {key: f'"{"0" * 40}"' for key in ("ETag", "X-Linked-Etag") if key in answer.headers}
        if visit.meets("header", is_file):
            del answer.headers["X-Repo-Commit"]
        has_bytes = is_file and self.command == "GET" and answer.size > 0
        corrupt = visit.meets("corrupt", has_bytes)
        truncate = visit.meets("truncate", has_bytes)
        self._finish_reading(body)
        self._note(visit, answer.status)
        self._send(answer, corrupt is not None, answer.size if truncate is None else truncate.length(answer.size))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _answer(self, visit: _Visit) -> Answer:
        """What the request is answered, late or wrongly if a fault says so.

        Raises:
            Broken: the client went away, or a fault says to close the connection without an answer.
        """
        body = visit.request.body
        if slow := visit.meets("slow"):
            self.server.stopping.wait(slow.seconds)
        body.cut = visit.meets("cut", visit.name in ("lfs_put", "commit") and not body.empty)
        try:
            if error := visit.meets("error", body.cut is None):
                raise Refused(error.status, "a fault that was asked for")
            answer = self.server.api.answer(visit.request, visit.name, visit.given)
        except Refused as refused:
            if body.cut is not None:
                raise Broken("cut, as a fault asked for") from refused
            return answer_refusal(refused)
        if visit.meets("commit", visit.name == "commit" and answer.status == 200):
            raise Broken("the answer is lost, as a fault asked for")
        return answer

    def _note(self, visit: _Visit, status: int | None) -> None:
        request = visit.request
        seen = Seen(
            self.command, unquote(request.path), status, self.headers["Range"], request.authorized, tuple(visit.met)
        )
        self.server.requests.append(seen)

    def _finish_reading(self, body: Body) -> None:
        """Read what an early answer left of a small body; close the connection rather than read a large one."""
        if body.announced - body.read_so_far > DRAIN_LIMIT:
            self.close_connection = True
            return
        try:
            body.read()
        except Broken:
            self.close_connection = True

    def _send(self, answer: Answer, corrupt: bool, passing: int) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or answer.status == 304:
            return
        sent = 0
        for piece in answer.content(corrupt):
            self.wfile.write(piece[: passing - sent])
            sent += len(piece)
            if sent >= passing < answer.size:
                self.close_connection = True
                return
