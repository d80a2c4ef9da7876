"""`rnas-zoo download`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import json_option, print_json


@click.command("download")
@click.argument("ref")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write; without it, the client's cache.")
@click.option("--offline", is_flag=True, help="Take it from the cache, without network.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
def command(ref: str, out: Path | None, offline: bool, force: bool, as_json: bool) -> None:
    """Bring a release from the Hub: a folder that every other command takes.

    REF is owner/name or owner/name@REVISION (a branch, tag or commit), with or without hf-hub: before it, or a name
    whose weights are published. Checksums are compared, pickles are never fetched, and what is cached needs no network.
    A private or gated release needs a token: `hf auth login`, or HF_TOKEN.

    \b
    rnas-zoo download hf-hub:owner/name -o FOLDER
    rnas-zoo download owner/name@v1
    rnas-zoo verify hf-hub:owner/name --against-card     (downloads by itself)
    """
    from ..engine.progress import Lines
    from ..hub.download import fetch

    found = fetch(ref, out, offline=offline or None, overwrite=force, reporter=Lines())
    if as_json:
        print_json({"folder": str(found.folder), "ref": found.ref, "files": found.files})
    else:
        click.echo(str(found.folder))
