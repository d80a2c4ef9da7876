"""`rnas-zoo card`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("card")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--check", "only_check", is_flag=True, help="Only compare the card with the evidence; exit code 1 if it differs."
)
@click.option(
    "--twin",
    type=click.Path(path_type=Path),
    help="Release folder of the same network with standard training: its numbers are copied to stand beside.",
)
def command(folder: Path, only_check: bool, twin: Path | None) -> None:
    """Write a release folder's card from its evidence, or check the one that is there.

    \b
    rnas-zoo card RELEASE_FOLDER --check
    """
    from ..errors import UsageError
    from ..hub import card
    from ..hub.twin import attach

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a release folder: it has no config.json")
    if only_check and twin:
        raise UsageError("--check changes nothing, --twin writes: give one of them")
    if twin:
        attach(folder, twin)
    if only_check:
        card.check(folder)
        click.echo(f"{folder}: the card says what the evidence says")
    else:
        card.write(folder)
        click.echo(str(folder / "README.md"))
