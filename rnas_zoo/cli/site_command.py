"""`rnas-zoo site`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("site")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write the site into.")
@click.option(
    "--cards",
    type=click.Path(path_type=Path),
    help="Folder of release folders, or one release folder; the bundled ones by default.",
)
@click.option(
    "--web-demo",
    type=click.Path(path_type=Path),
    help="The built page of export/web (`make web`): copied in and linked.",
)
@click.option(
    "--latency",
    type=click.Path(path_type=Path),
    help="Output of `rnas-zoo bench REF... --json`; by default what the release folders say.",
)
@click.option("--overwrite", is_flag=True, help="Replace a site that this command wrote and nobody has changed.")
def command(out: Path, cards: Path | None, web_demo: Path | None, latency: Path | None, overwrite: bool) -> None:
    """Write a leaderboard of models as a static site: a table to search and sort, plots, and a page per model.

    Open its index.html, or put the folder on any file server. All numbers come from the evidence in the release
    folders, whose files are checked first.

    \b
    rnas-zoo site -o site
    rnas-zoo site -o site --cards my_models --web-demo export/web/dist --overwrite
    """
    from ..hub.site import build

    names = build(out, cards=cards, web_demo=web_demo, latency=latency, overwrite=overwrite)
    click.echo(f"{out / 'index.html'}: {len(names)} model{'s' if len(names) != 1 else ''}")
