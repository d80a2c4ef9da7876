"""`rnas-zoo demo`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DURATION, json_option, print_json


@click.command("demo")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="The folder to write."
)
@click.option(
    "--time-budget", type=DURATION, default="130s", show_default=True, help="For search and training together."
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads; the networks are tiny."
)
@json_option
def command(out: Path, time_budget: float, threads: int, as_json: bool) -> None:
    """The whole line on handwritten digits, offline: search, train, export, verify, package.

    Ctrl-C stops it; the same command continues. A finished demo only shows its results again.

    \b
    rnas-zoo demo
    """
    from ..demo import render, run
    from ..engine.progress import reporter
    from .common import computing

    with computing(threads), reporter() as progress:
        summary = run(out, seconds=time_budget, reporter=progress)
    if as_json:
        print_json(summary)
    else:
        click.echo(render(summary, out))
