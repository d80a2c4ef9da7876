"""`rnas-zoo doctor`."""

from __future__ import annotations

import dataclasses

import click

from .common import json_option, print_json


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Examine this installation: versions, devices, execution providers that really work, known broken installs.

    \b
    rnas-zoo doctor
    """
    from ..doctor import examine, render

    findings = examine()
    if as_json:
        print_json({"findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        click.echo(render(findings))
    if any(finding.status == "problem" for finding in findings):
        ctx.exit(1)
