"""`rnas-zoo card`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("card")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--check", "only_check", is_flag=True, help="Only compare the card with the evidence; exit code 1 if it differs."
)
def command(folder: Path, only_check: bool) -> None:
    """Write a release folder's card from its evidence, or check the one that is there.

    \b
    rnas-zoo card RELEASE_FOLDER --check
    """
    from ..errors import UsageError
    from ..files import write_text
    from ..hub import card

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a release folder: it has no config.json")
    if only_check:
        card.check(folder)
        click.echo(f"{folder}: the card says what the evidence says")
    else:
        write_text(folder / "README.md", card.render(folder))
        click.echo(str(folder / "README.md"))
