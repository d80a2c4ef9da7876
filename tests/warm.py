"""An interpreter with the large imports done: programs start in a fork of it, in milliseconds instead of seconds.

`python(folder)` gives an executable to be called as `python` is. It hands its arguments, working directory,
environment and standard streams to a server, which runs the program in a fork of its own and answers with the exit
code. Run as a script, this file is that client: it imports the standard library only.

There are two servers, each made by its first client: one has imported what reads nothing of the environment but the
number of threads, its child has the rest of the package's imports as well, for programs with the settings of the
Hub's client that this process has.
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

PLAIN = [
    "torch",
    "torch.distributed.run",
    "onnx",
    "onnxruntime",
    "scipy.stats",
    "sklearn.datasets",
    "matplotlib.figure",
]
WHOLE = ["timm", "rnas_zoo.cli"]
READ_BY = {"plain": ("OMP_", "MKL_"), "whole": ("OMP_", "MKL_", "HF_")}  # variables that imports read, by their start
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def python(folder: Path) -> Iterator[Path]:
    """The executable, written to `folder`; its servers end with the block, or with this process."""
    import shutil
    import subprocess
    import tempfile

    place = tempfile.mkdtemp(prefix="warm-")  # a short path, as sockets need
    addresses = {name: os.path.join(place, name) for name in READ_BY}
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in addresses]
        for listener, address in zip(listeners, addresses.values(), strict=True):
            listener.bind(address)
            listener.listen()
        numbers = [listener.fileno() for listener in listeners]
        server = subprocess.Popen(
            [sys.executable, "-c", f"from tests.warm import serve; serve(*{numbers})"],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # whose end tells of that of this process
            pass_fds=numbers,
        )
    known = {name: _read(dict(os.environ), name) for name in addresses}
    (folder / "warm.json").write_text(json.dumps({"addresses": addresses, "known": known}))
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{folder}/warm.json" "$@"\n')
    program.chmod(0o755)
    try:
        yield program
    finally:
        server.communicate()
        shutil.rmtree(place)


def _read(environment: dict[str, str], by: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_BY[by])}


def serve(*numbers: int) -> None:
    """Answer the clients of two listening sockets, these files, until standard input ends."""
    plain, whole = (socket.socket(fileno=number) for number in numbers)
    _asked(plain, whole)
    _import(PLAIN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while asked := _asked(plain, whole):
        if asked is plain:
            _serve_one(plain)
            continue
        if os.fork() == 0:
            plain.close()
            _import(WHOLE)
            while _asked(whole):
                _serve_one(whole)
            os._exit(0)
        whole.close()
        while _asked(plain):
            _serve_one(plain)
        return


def _asked(*listeners: socket.socket) -> socket.socket | None:
    """The one whose client waits, None when standard input has ended."""
    import select

    ready = select.select([sys.stdin, *listeners], [], [])[0]
    return None if sys.stdin in ready else ready[0]


def _import(names: list[str]) -> None:
    import importlib

    for name in names:
        importlib.import_module(name)


def _serve_one(listener: socket.socket) -> None:
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
    runnable = bool(arguments) and (arguments[0] in ("-m", "-c") or not arguments[0].startswith("-"))
    fitting = [name for name in ("whole", "plain") if _read(environment, name) == known["known"][name]]
    if not runnable or not fitting:
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(known["addresses"][fitting[0]])
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": environment}
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = connection.recv(1)
    return answer[0] if answer else 70


if __name__ == "__main__":
    sys.exit(_client(sys.argv[1], sys.argv[2:]))
