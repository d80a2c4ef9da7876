"""Spoilt files fed to every reader of files that we did not write: crashes, hangs and memory blow-ups.

    python benchmarks/fuzz.py [--seconds 300] [--seed 0] [--only NAME …] [--first N] [--out fuzz_found]

Each reader gets its share of the time. An input is told by (reader, seed, number), so `--only "check pack" --seed 0
--first 123 --count 1` reads one again. It is read in a child process under limits of time and memory. Refusals must be
errors of `rnas_zoo.errors`; whatever else is raised, takes longer than `--limit` seconds or more than `--memory` MiB is
printed, its file saved in `--out`, and the exit code is 1. Printed at the end: inputs, accepted, refused and found, for
each reader.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_mutations import mutated
from fuzz_targets import Target, targets

MEBI = 1 << 20


@dataclass
class Tally:
    """What became of one reader's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)


def spoilt(target: Target, name: str, seed: int, number: int) -> bytes:
    """Input `number` of a reader."""
    return mutated(target.form, target.seeds, random.Random(f"{seed}/{name}/{number}"))


def attempt(target: Target, folder: Path, content: bytes) -> tuple[str, str]:
    """`accepted`, `refused` with the refusal, or `crash` with the exception and where it was raised.

    The spoilt file is gone afterwards, and the valid one of a folder of several back in its place.
    """
    from rnas_zoo.errors import RnasZooError

    path = folder / target.file
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problems = target.read(path)
    except RnasZooError as error:
        return ("refused", str(error)) if "\n" not in str(error) else ("crash", f"several lines: {error}")
    except Exception as error:  # what we look for
        last = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in last if "rnas_zoo" in frame.filename] or last
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno} ({last[-1].name})"
        return "crash", f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]}"
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    return ("refused", "; ".join(problems)) if isinstance(problems, list) and problems else ("accepted", "")


def child(connection: Connection, folder: str, memory: int) -> None:
    """Read the inputs that the parent names, until it ends."""
    import resource

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = targets(Path(folder))
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * memory, used + 6 * memory))
    connection.send("ready")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what C++ complains of
    for name, seed, number in iter(connection.recv, None):
        content = spoilt(known[name], name, seed, number)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = attempt(known[name], Path(folder), content)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
        connection.send(("memory", f"{grown / MEBI:.0f} MiB more") if grown > memory else found)


class Reader:
    """A child process, started anew when it hangs or dies."""

    def __init__(self, folder: Path, memory: int) -> None:
        self.arguments = str(folder), memory
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=child, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()

    def ask(self, name: str, seed: int, number: int, limit: float) -> tuple[str, str]:
        """What became of an input."""
        self.connection.send((name, seed, number))
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
            found = "hang", f"longer than {limit:g} s"
        except EOFError:
            self.process.join()
            found = "death", f"the process ended with {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return found


def run(given: argparse.Namespace, folder: Path) -> dict[str, Tally]:
    """Feed all readers; returns what became of their inputs."""
    known = targets(folder / "parent")
    chosen = given.only or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    reader, tallies = Reader(folder / "child", int(given.memory * MEBI)), {name: Tally() for name in chosen}
    begin = time.monotonic()
    for place, name in enumerate(chosen, 1):
        tally, number, end = tallies[name], given.first, begin + given.seconds * place / len(chosen)
        while time.monotonic() < end and (given.count is None or tally.inputs < given.count):
            what, text = reader.ask(name, given.seed, number, given.limit)
            tally.inputs += 1
            tally.accepted += what == "accepted"
            tally.refused += what == "refused"
            if given.verbose:
                print(f"{name} {number}: {what} {text[:200]}", flush=True)
            if what not in ("accepted", "refused"):
                kind = f"{what}: {re.sub(r'[0-9a-f]{12,}|0x[0-9a-f]+', '…', text)}"
                alike = tally.found.setdefault(kind.partition("): ")[0], [])
                if not alike:
                    print(f"{name}, seed {given.seed}, number {number}: {kind}", flush=True)
                    given.out.mkdir(parents=True, exist_ok=True)
                    file = f"{name}-{given.seed}-{number}{Path(known[name].file).suffix}".replace(" ", "_").replace(
                        "/", "_"
                    )
                    (given.out / file).write_bytes(spoilt(known[name], name, given.seed, number))
                alike.append(number)
            number += 1
    return tallies


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these readers")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, help="inputs of each reader; as many as the time allows by default")
    parser.add_argument("--limit", type=float, default=30, help="seconds for one input")
    parser.add_argument("--memory", type=float, default=768, help="MiB for one input")
    parser.add_argument("--out", type=Path, default=Path("fuzz_found"))
    parser.add_argument("--verbose", action="store_true", help="a line for each input")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tallies = run(given, Path(folder))
    print(f"{'reader':<32}{'inputs':>8}{'accepted':>10}{'refused':>9}{'found':>7}")
    for name, tally in tallies.items():
        found = sum(map(len, tally.found.values()))
        print(f"{name:<32}{tally.inputs:>8}{tally.accepted:>10}{tally.refused:>9}{found:>7}")
    every: list[Any] = [tally.found for tally in tallies.values() if tally.found]
    print(f"{sum(tally.inputs for tally in tallies.values())} inputs, {sum(map(len, every))} kinds of faults")
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
