"""`rnas-zoo publish`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import json_option, print_json

if TYPE_CHECKING:
    from ..hub.publish import Published


@click.command("publish")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--to", required=True, metavar="OWNER/NAME", help="The repository; with --all, only its owner.")
@click.option("--all", "directory", type=click.Path(path_type=Path), help="Every release folder of this directory.")
@click.option("--private", is_flag=True, help="Make a new repository visible to its owner only.")
@click.option("--tag", help="Give the commit a name, such as v1.")
@click.option("--dry-run", is_flag=True, help="Validate and compare; write nothing.")
@click.option(
    "--record/--no-record",
    default=None,
    help="List the commit in model_cards/published.json: public repositories, folders of model_cards only. "
    "Done by default on huggingface.co.",
)
@json_option
def command(
    folder: Path | None,
    to: str,
    directory: Path | None,
    private: bool,
    tag: str | None,
    dry_run: bool,
    record: bool | None,
    as_json: bool,
) -> int:
    """Put a release folder on the Hub.

    Everything in it is checked first. What differs from the repository goes there as one commit, which is then
    downloaded again and compared. The same command again finds nothing to do, or goes on after an interruption.

    The token is that of `hf auth login`, or HF_TOKEN; another Hub is HF_ENDPOINT. This was developed with the real
    client against a local stand-in, never the real Hub.

    \b
    rnas-zoo publish RELEASE_FOLDER --to me/rnas_cl_s3.nfgsm_cifar10_linf8 --dry-run
    rnas-zoo publish --all model_cards/ --to me --tag v1
    """
    from ..engine.progress import reporter
    from ..errors import RnasZooError, UsageError
    from ..hub.publish import publish, publish_all

    failed: dict[str, RnasZooError] = {}
    with reporter() as progress:
        if folder is not None and directory is None:
            done = [publish(folder, to, private=private, tag=tag, dry_run=dry_run, record=record, reporter=progress)]
        elif directory is not None and folder is None:
            done, failed = publish_all(
                directory, to, private=private, tag=tag, dry_run=dry_run, record=record, reporter=progress
            )
        else:
            raise UsageError("give a release FOLDER and --to owner/name, or --all DIRECTORY and --to owner")
    if as_json:
        shown = [asdict(each) for each in done]
        reasons = {name: str(error) for name, error in failed.items()}
        print_json(shown[0] if directory is None else {"published": shown, "failed": reasons})
    else:
        click.echo("\n".join(_describe(each) for each in done), nl=bool(done))
        if failed:
            click.echo(f"not published: {', '.join(failed)}. The same command goes on with them.", err=True)
    return 1 if failed else 0


def _describe(done: Published) -> str:
    """What was done, or with --dry-run would be: the repository, what differs, the commit, and what to do with it."""
    kind = f"{'private' if done.private else 'public'}{', new' if done.created else ''}"
    files = len(done.new) + len(done.changed) + len(done.unchanged)
    lines = [f"{done.repo} ({kind}): {files} files, {done.bytes:,} bytes"]
    marks = {"new": done.new, "changed": done.changed, "removed": done.removed}
    lines += [f"  {mark:<8} {path}" for mark, paths in marks.items() for path in paths]
    differs = any(marks.values())
    if done.dry_run:
        told = f"would send {done.sent:,} bytes in one commit" if differs else f"is already that of {done.commit}"
        return "\n".join([*lines, f"  {told}; nothing was written"])
    made = "committed as" if differs else "nothing to commit, the head is"
    lines.append(f"  {made} {done.commit}; downloaded again: every file is the folder's")
    lines += [f"  tagged {done.tag}"] if done.tag else []
    lines += ["  listed in model_cards/published.json"] if done.recorded else []
    return "\n".join([*lines, f"next: rnas-zoo verify hf-hub:{done.repo}@{done.commit} --against-card"])
