"""A local stand-in for the Hub: the real client talks to it over HTTP, and it is never the real Hub.

It speaks as much of the Hub's protocol as `huggingface_hub` (1.x and 2.x) and timm need to publish, list and download
models, keeps everything in a folder, and shows faults on request. What works against it has not been tried on the real
Hub: permissions, quotas, spam checks, its CDN and xet are missing, and clients must switch xet off. It listens on this
machine only.

`python -m rnas_zoo.testing.hub FOLDER` serves one by hand.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ..errors import RnasZooError, UsageError
from .faults import Fault, Faults
from .routes import Api
from .server import Seen, Server
from .store import Store

TOKEN = "hf_test"


class LocalHub:
    """A Hub on this machine, serving between `start` and `stop`, or inside a `with` block.

    Args:
        folder: where its repositories lie; what an earlier Hub left there is served again.
        token: the one that gives access to everything; clients without it read what is public.
        host: a loopback address.
        port: 0 takes a free one, and keeps it when the same object starts again.
        page_size: how many entries a list has before it goes on on the next page.

    Raises:
        UsageError: `host` is not on this machine, or the port is taken.
        OutputNotWritableError: the folder cannot be written.
    """

    def __init__(
        self, folder: str | Path, token: str = TOKEN, *, host: str = "127.0.0.1", port: int = 0, page_size: int = 1000
    ) -> None:
        if not _is_loopback(host):
            raise UsageError(f"the local Hub serves this machine only: host must be a loopback address, not {host!r}.")
        if not token or not token.isascii() or any(c.isspace() for c in token):
            raise UsageError("the token must be ASCII text without spaces, as 'hf_test'.")
        self.folder, self.token = Path(folder), token
        self.requests: list[Seen] = []
        self.store = Store(self.folder)
        self.api = Api(self.store, token, page_size)
        self.faults = Faults()
        self._address = (host, port)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What clients take as HF_ENDPOINT.

        Raises:
            UsageError: the Hub was never started, so it has no port yet.
        """
        host, port = self._address
        if not port:
            raise UsageError("the local Hub has no address before it is started: use it in a `with` block.")
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def environment(self, home: str | Path | None = None) -> dict[str, str]:
        """Variables that make a process use this Hub, to be added to its environment before it starts.

        Args:
            home: the client's own folder (cache, token); `client` beside the repositories if not given.
        """
        around = ",".join(filter(None, (os.environ.get("NO_PROXY"), self._address[0])))
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(Path(home or self.folder / "client").absolute()),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": around,
        }

    def fail(
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
        """Show a fault the next `times` times (None: always) that a request fits.

        Args:
            kind: one of `faults.KINDS`, such as `truncate` or `error`.
            path, method, seconds, status, after: see `faults.Fault`.

        Raises:
            UsageError: an unknown kind, or arguments that do not belong to it.
        """
        return self.faults.add(kind, path, times, method=method, seconds=seconds, status=status, after=after)

    def gate(self, repo: str, closed: bool = True) -> None:
        """Refuse everyone the files of a repository, as the Hub does to those without access, or open them again.

        Args:
            repo: owner/name.
            closed: False opens it.

        Raises:
            Refused: there is no such repository.
        """
        self.store.settings(repo, gated="manual" if closed else False)

    def start(self) -> None:
        """Begin to serve, in a thread.

        Raises:
            UsageError: the port is taken, or it serves already.
        """
        if self._server is not None:
            raise UsageError("this local Hub serves already.")
        try:
            self._server = Server(self._address, self.api, self.faults, self.requests)
        except (OSError, OverflowError) as error:
            host, port = self._address
            cause = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot serve on {host}:{port}: {cause}. Choose another port.") from error
        self._address = (self._address[0], self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="local Hub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to serve and close every connection; the folder stays."""
        if self._server is None or self._thread is None:
            return
        self._server.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> LocalHub:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a Hub until Ctrl-C; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rnas_zoo.testing.hub", description="Serve a local stand-in for the Hub, on this machine only."
    )
    parser.add_argument("folder", metavar="FOLDER", help="where its repositories lie; made if missing")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--token", default=TOKEN, help=f"what clients must send to write (default: {TOKEN})")
    given = parser.parse_args(arguments)
    try:
        with LocalHub(given.folder, given.token, port=given.port) as hub:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            sys.stdout.write(usage(hub))
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except RnasZooError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


def usage(hub: LocalHub) -> str:
    """How a client uses the `hub`, which serves: two lines for a shell and a few words."""
    values = hub.environment()
    who = [f"{name}={shlex.quote(values.pop(name))}" for name in ("HF_TOKEN", "HF_HOME")]
    how = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return (
        f"A local stand-in for the Hub serves {hub.folder}. In another shell:\n"
        f"export {' '.join(how)}\nexport {' '.join(who)}\nCtrl-C ends it; the folder stays.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
