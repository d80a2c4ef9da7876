"""Run a page of the documentation: its blocks, from top to bottom, in one folder.

    python docs/run.py docs/howto/fine_tune.md                 # in a new temporary folder, as written
    python docs/run.py --quick docs/howto/fine_tune.md -C out   # budgets cut down, as the tests run it

A `sh` block is a script of its own for bash, all `python` blocks share one namespace, other languages are shown and not
run. A comment on the line before a block says more: `<!-- file: NAME -->` writes the block to a file instead,
`<!-- not run: REASON -->` leaves it out, `<!-- only cut down: REASON -->` leaves it out without `--quick`.

What `--quick` puts in the place of what a block needs: small images for data sets (`small_data`), a CPU for a GPU, two
processes for several GPUs, and for the Hub the local stand-in. Only blocks that need the Hub see the stand-in; a
`python` block of these is a program of its own, since the Hub's client reads where the Hub is when it is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("recipes", "genotypes", "model_cards", "benchmarks", "export")
LANGUAGES = ("sh", "python", "text", "toml", "json", "yaml", "cpp", "bibtex")
REASONS = (
    "needs a GPU",
    "needs several GPUs",
    "needs the real Hub",
    "sets up an environment",
    "opens a server",
    "needs minutes",
    "needs hours",
    "measures time",
)
HUB = "needs the real Hub"
# Of a bundled network on made-up images `verify` says that something is wrong with them.
KNOWN = "model_cards/rnas_wrn10_1.pgd_digits_linf16 --data digits"
QUICK = {
    "sh": (
        # How much: images, steps, seconds, seeds.
        (r"(?<=\s)(--n|-n)([ =])(\d+)", lambda m: f"{m[1]}{m[2]}{min(8, int(m[3]))}"),
        (r"(?<=\s)(--steps)([ =])\d+", r"\1\g<2>2"),
        (r"\btotal_steps=\d+", "total_steps=2"),
        (r"(\b(?:rnas-zoo|rnas_zoo) (?:search|train)\b.*?) --fit\b", r"\1"),
        (r"(\b(?:rnas-zoo|rnas_zoo) (?:search|train)\b.*?) --time-budget[ =]\S+", r"\1 --steps 2"),
        (r"(?<=\s)(--time-budget)([ =])\S+", r"\1\g<2>3s"),
        (r"(--against-card)(?!.* --n )", r"\1 --n 8"),
        (r"\b(rnas-zoo|rnas_zoo) verify (?!.*--(?:protocol|explain|predictions))", r"\1 verify --protocol quick "),
        (r"(?<=\s)(--budget-passes)([ =])\S+", r"\1\g<2>200"),
        (r"(?<=\s)(--(?:proxy-)?passes)([ =])\S+", r"\1\g<2>32"),
        (r"(?<=\s)(--(?:onnx-|also-|limits-)?protocol)([ =])(?:standard|fast|full)", r"\1\g<2>quick"),
        (r"(?<=\s)(--seeds)([ =])\S+", r"\1\g<2>1"),
        (r"(?<=\s)(--(?:repeats|epochs|threads))([ =])\d+", r"\1\g<2>1"),
        (r"(?<=\s)(--seconds)([ =])[\d.]+", r"\1\g<2>0.05"),
        # How large: batches and networks.
        (r"(?<=\s)(--(?:proxy-)?batch(?:-size)?)([ =])(\d+)", lambda m: f"{m[1]}{m[2]}{min(8, int(m[3]))}"),
        (r"(?<=\s)(--(?:channels|layers))([ =])(\d+)", lambda m: f"{m[1]}{m[2]}{min(4, int(m[3]))}"),
        (r"(\b(?:rnas-zoo|rnas_zoo) search\b.*? --max-params)([ =])\S+", r"\1\g<2>30k"),
        (r"(?<=\s)(--target-macs)([ =])\S+", r"\1\g<2>1M"),
        (r"(?<=\s)(--genotypes)([ =])'(\w+),.*,(\w+)'", r"\1\g<2>'\3,\4'"),
        (r"\b(rnas-zoo|rnas_zoo) package (?!.*--n )", r"\1 package --n 8 "),
        (r"(?<=\s)(--stem)([ =])cifar\b", r"\1\g<2>cifar_stride2"),
        (r"(rnas_zoo|rnas-zoo) search (?!.*--stem)", r"\1 search --stem cifar_stride2 "),
        (r"(rnas_zoo|rnas-zoo) search (?!.*--channels)", r"\1 search --channels 2 --layers 4 "),
        (r"(rnas_zoo|rnas-zoo) (search|train) (?!.*(?:--batch-size|recipes/))", r"\1 \2 --batch-size 8 "),
        (r"(rnas_zoo|rnas-zoo) search (?=.*--method[ =]\S+,)", r"\1 search --proxy-steps 2 "),
        (r"\b(rnas-zoo|rnas_zoo) search (?!.*--(?:steps|budget-passes))", r"\1 search --steps 2 "),
        (r"(?<=\s)(\S*recipes/paper/(?!rnas_cl)\S+\.toml)", r"\1 --channels 4 --layers 3"),
        (r"(?<=\s)(\S*recipes/\S+\.toml)", r"\1 --steps 2 --set batch_size=8 --set holdout=0.1"),
        (r"(benchmarks/search\.py)", r"\1 --channels 4 --layers 4 --steps clean --networks rnas_zoo"),
        (r"(benchmarks/(?:search|training)\.py)", r"\1 --batch 4 --repeats 1"),
        # Where: a CPU, two processes, small images, the Hub's stand-in.
        (r"(?<=\s)(--device)([ =])cuda", r"\1\g<2>cpu"),
        (r"\btorchrun --nproc-per-node[ =]\d+", "torchrun --standalone --nproc-per-node 2"),
        (r"(?<=\s)(--arch) rnas_wrn34_10", r"\1 rnas_wrn10_1"),
        (r"(?<=\s)(--data) FOLDER", r"\1 cifar10"),
        (r"(verify .*?)\bmodel_cards/\S+_cifar10_\S+ --data cifar10\b", rf"\1{KNOWN}"),
        (r"\bOWNER/NAME\b", "me/a_model"),
        (r"(?<=\s)(--to) OWNER\b", r"\1 me"),
    ),
    "python": (
        (r"\bprotocol=\"(?:standard|fast|full)\"", 'protocol="quick"'),
        (r"\bn=\d{2,}", "n=8"),
        (r"\b(total_)?steps=\d+", r"\1steps=2"),
        (r"\bOWNER/NAME\b", "me/a_model"),
    ),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, code, first line on the page, and what the comment before it says."""

    language: str
    code: str
    line: int
    file: str | None = None
    not_run: str | None = None
    only_cut_down: str | None = None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: a block without one of LANGUAGES, or left out for none of REASONS.
    """
    found = []
    comment = ""
    for token in MarkdownIt().parse(text):
        if token.type == "fence":
            line = (token.map or [0])[0] + 1
            file = re.fullmatch(r"<!-- file: (\S+) -->", comment)
            left_out = re.fullmatch(r"<!-- (not run|only cut down): (.+) -->", comment)
            if token.info not in LANGUAGES:
                raise ValueError(
                    f"line {line}: a block of {token.info or 'no language'}; known: {', '.join(LANGUAGES)}"
                )
            if left_out and left_out[2] not in REASONS:
                raise ValueError(f"line {line}: {left_out[1]} for {left_out[2]!r}; reasons: {', '.join(REASONS)}")
            reason = {left_out[1].replace(" ", "_"): left_out[2]} if left_out else {}
            found.append(Block(token.info, token.content, line, file[1] if file else None, **reason))
        comment = token.content.strip() if token.type == "html_block" else ""
    return found


def quick(block: Block) -> str:
    """The block's code with budgets cut down: few images and steps, seconds, the shortest protocol."""
    code = block.code
    if block.language == "sh":
        code = re.sub(r"\\\n\s*", " ", code)
    for pattern, replacement in QUICK.get(block.language, ()):
        code = re.sub(pattern, replacement, code)
    return code


class Notebook:
    """Python blocks with one namespace, in a fork of this process: what has used torch's autograd cannot be forked."""

    def __init__(self) -> None:
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        context.Process(target=self._serve, args=(self.connection, other), daemon=True).start()
        other.close()

    @staticmethod
    def _serve(theirs: Connection, connection: Connection) -> None:
        theirs.close()  # so that the end of that process is the end of this one
        namespace: dict[str, object] = {"__name__": "__main__"}
        while True:
            try:
                code, name = connection.recv()
            except EOFError:
                return
            try:
                exec(compile(code, name, "exec"), namespace)
                failed = False
            except BaseException:
                traceback.print_exc()
                failed = True
            sys.stdout.flush()
            connection.send((failed, dict(os.environ)))

    def run(self, code: str, name: str) -> None:
        """Run a block, whose environment is then that of the commands after it.

        Raises:
            CalledProcessError: it raised something, which has been printed.
        """
        sys.stdout.flush()
        self.connection.send((code, name))
        failed, environment = self.connection.recv()
        if failed:
            raise subprocess.CalledProcessError(1, ["python", name])
        os.environ.update(environment)


class Runner:
    """Runs blocks in a folder, into which it changes, as it changes the environment.

    `cut_down` shortens budgets. `python` is the interpreter of the programs that shell blocks start.
    """

    def __init__(self, folder: Path, cut_down: bool, python: str = sys.executable) -> None:
        self.folder, self.cut_down = folder, cut_down
        for name in LINKED:
            if (ROOT / name).is_dir() and not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)
        commands = folder / ".commands"
        commands.mkdir(exist_ok=True)
        # Scripts, since Python does not find its virtual environment through a link from elsewhere.
        for name, start in (("rnas-zoo", "-m rnas_zoo"), ("torchrun", "-m torch.distributed.run"), ("python", "")):
            script = commands / name
            script.unlink(missing_ok=True)
            script.write_text(f'#!/bin/sh\nexec "{python}" {start} "$@"\n')
            script.chmod(0o755)
        os.environ["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"
        os.environ["PYTHON_EXEC"] = python  # of torchrun's workers
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        sys.path[:0] = [str(folder), str(ROOT)]
        os.chdir(folder)
        self.notebook = Notebook()

    def run(self, page: Path) -> None:
        """Run a page; CalledProcessError where a block fails."""
        found = blocks(page.read_text())
        needs_hub = self.cut_down and any(block.only_cut_down == HUB for block in found)
        with hub(self.folder / ".hub") if needs_hub else contextlib.nullcontext({}) as stand_in:
            for block in found:
                code = quick(block) if self.cut_down else block.code
                if block.file:
                    path = self.folder / block.file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(code)
                elif block.language in ("sh", "python") and not self._left_out(block):
                    print(f"--- {page.name}:{block.line}\n{code.rstrip()}", flush=True)
                    environment = {**os.environ, **stand_in} if block.only_cut_down == HUB else None
                    if block.language == "sh":
                        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, env=environment)
                    elif environment:
                        subprocess.run(["python", "-c", code], check=True, env=environment)
                    else:
                        self.notebook.run("\n" * block.line + code, str(page))

    def _left_out(self, block: Block) -> bool:
        return block.not_run is not None or (block.only_cut_down is not None and not self.cut_down)


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment of programs that find a local stand-in in the place of the Hub; it serves as long."""
    from rnas_zoo.testing.hub import LocalHub

    with LocalHub(folder) as stand_in:
        yield stand_in.environment()


def small_data(folder: Path) -> None:
    """cifar10 and cifar100 of random images in `.data`, which is `$RNAS_ZOO_DATA` then, so that blocks run anywhere.

    `cifar100-own-split.npz`, a file that a page names, is beside it.
    """
    import numpy as np

    draws = np.random.default_rng(0)
    data = folder / ".data"
    data.mkdir(exist_ok=True)
    for path, classes in (
        (data / "cifar10.npz", 10),
        (data / "cifar100.npz", 100),
        (folder / "cifar100-own-split.npz", 100),
    ):
        arrays = {"classes": np.array([f"class {label}" for label in range(classes)])}
        for split, count in (("train", 2 * classes + 140), ("test", classes + 30)):
            arrays[f"x_{split}"] = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(count) % classes
        np.savez(path, **arrays)
    os.environ["RNAS_ZOO_DATA"] = str(data)


def run_page(page: Path, folder: Path, *, cut_down: bool, python: str = sys.executable) -> None:
    """Run all blocks of a page in a folder; see `Runner`."""
    runner = Runner(folder, cut_down, python)
    if cut_down:
        small_data(folder)
    runner.run(page)


def main(arguments: list[str] | None = None) -> int:
    """Run the page that the command line names; the exit code."""
    parser = argparse.ArgumentParser(description="Run the blocks of a page of the documentation.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--quick", action="store_true", help="cut budgets down, on made-up CIFAR images")
    parser.add_argument("-C", "--folder", type=Path, help="run here; a new temporary folder otherwise")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the programs; this one otherwise")
    options = parser.parse_args(arguments)
    page = options.page.resolve()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix=f"{page.stem}-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("bash") is None:
        parser.error("the shell blocks need bash")
    try:
        run_page(page, folder, cut_down=options.quick, python=options.python)
    except subprocess.CalledProcessError as error:
        print(f"{options.page}: a command ended with code {error.returncode}; its files: {folder}", file=sys.stderr)
        return 1
    print(f"--- all blocks of {options.page} ran; their files: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
