"""`rnas-zoo list`."""

from __future__ import annotations

import click

from .common import json_option, print_json, table


@click.command("list")
@click.argument("filter", default="*")
@click.option("--genotypes", "only_genotypes", is_flag=True, help="Genotypes with their provenance instead of models.")
@click.option("--pretrained", is_flag=True, help="Only models whose weights can be had.")
@json_option
def command(filter: str, only_genotypes: bool, pretrained: bool, as_json: bool) -> None:
    """List models, or genotypes.

    \b
    rnas-zoo list 'rnas_cl*'
    rnas-zoo list --genotypes --json
    """
    from .. import genotype

    if only_genotypes:
        found = [genotype.named(name) for name in genotype.names()]
        if as_json:
            print_json({"genotypes": [g.to_json() | {"sha256": g.hash} for g in found]})
            return
        rows = [["genotype", "kind", "status", "parameters", "million MACs", "hash"]]
        for g in found:
            params, macs = g.check.get("params"), g.check.get("macs")
            rows.append(
                [
                    g.name,
                    g.kind,
                    g.provenance.get("status", ""),
                    f"{params:,}" if params else "",
                    f"{macs / 1e6:,.1f}" if macs else "",
                    g.hash[:12],
                ]
            )
        click.echo(table(rows))
        click.echo("sizes: at the paper's channels and layers, 10 classes, one 32x32 image")
        return
    from ..reference import list_models

    names = list_models(filter, pretrained=pretrained)
    if as_json:
        print_json({"models": names})
    else:
        click.echo("\n".join(names) if names else "none")
