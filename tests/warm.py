"""An interpreter with the large imports done: programs start in a fork of it, in milliseconds instead of seconds.

`python(folder)` gives an executable to be called as `python` is. It hands its arguments, working directory,
environment and standard streams to a server, which runs the program in a fork of its own and answers with the exit
code. Run as a script, this file is that client: it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

PRELOADED = [
    "torch",
    "torch.distributed.run",
    "timm",
    "onnx",
    "onnxruntime",
    "scipy.stats",
    "sklearn.datasets",
    "matplotlib.figure",
    "rnas_zoo.cli",
]
READ_AT_IMPORT = ("HF_", "OMP_", "MKL_")  # variables of these names
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def python(folder: Path) -> Iterator[Path]:
    """The executable, written to `folder`; its server ends with the block, or with this process."""
    import shutil
    import subprocess
    import tempfile

    place = tempfile.mkdtemp(prefix="warm-")  # a short path, as sockets need
    address = os.path.join(place, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-c", f"from tests.warm import serve; serve({listener.fileno()})"],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # whose end tells of that of this process
            pass_fds=[listener.fileno()],
        )
    settings = {"address": address, "environment": _read_at_import(dict(os.environ))}
    (folder / "warm.json").write_text(json.dumps(settings))
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{folder}/warm.json" "$@"\n')
    program.chmod(0o755)
    try:
        yield program
    finally:
        server.communicate()
        shutil.rmtree(place)


def _read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def serve(number: int) -> None:
    """Answer the clients of a listening socket, the file `number`, until standard input ends."""
    import importlib
    import select

    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(fileno=number) as listener:
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the program of one client; does not return."""
    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("r") as lines:
            request = json.loads(lines.readline())
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        _end_with(connection)
        code = _run(request["arguments"])
    finally:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                file.flush()
        connection.sendall(bytes([code & 0xFF]))
        os._exit(code)


def _end_with(connection: socket.socket) -> None:
    """End this process and those it has started when the client ends."""
    import threading

    def wait() -> None:
        connection.recv(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _run(arguments: list[str]) -> int:
    """Run what Python's command line names: `-m MODULE`, `-c CODE` or FILE, and its arguments; the exit code."""
    import runpy
    import traceback
    import types

    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, "")
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(arguments[1], "<string>", "exec"), vars(main))
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _client(settings: str, arguments: list[str]) -> int:
    arguments = arguments[1:] if arguments[:1] == ["-u"] else arguments
    with open(settings) as file:
        known = json.load(file)
    environment = dict(os.environ)
    plain = bool(arguments) and (arguments[0] in ("-m", "-c") or not arguments[0].startswith("-"))
    if not plain or _read_at_import(environment) != known["environment"]:
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(known["address"])
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": environment}
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = connection.recv(1)
    return answer[0] if answer else 70


if __name__ == "__main__":
    sys.exit(_client(sys.argv[1], sys.argv[2:]))
