"""`rnas-zoo list`."""

from __future__ import annotations

import click

from .common import json_option, print_json, table


@click.command("list")
@click.argument("filter", default="*")
@click.option("--genotypes", "only_genotypes", is_flag=True, help="Genotypes with their provenance instead of models.")
@click.option("--pretrained", is_flag=True, help="Only models whose weights can be had.")
@click.option("--results", "only_results", is_flag=True, help="What was measured on the weights that can be had.")
@click.option("--markdown", is_flag=True, help="With --results: as Markdown, the papers' own figures below.")
@json_option
def command(
    filter: str, only_genotypes: bool, pretrained: bool, only_results: bool, markdown: bool, as_json: bool
) -> None:
    """List models, or genotypes, or results.

    \b
    rnas-zoo list 'rnas_cl*'
    rnas-zoo list --genotypes --json
    rnas-zoo list --results
    """
    from .. import genotype
    from ..errors import UsageError

    if (markdown and not only_results) or (markdown and as_json) or (only_results and only_genotypes):
        raise UsageError("--markdown goes with --results and without --json; --results and --genotypes are two lists")
    if only_results:
        _results(filter, markdown, as_json)
        return

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


def _results(filter: str, markdown: bool, as_json: bool) -> None:
    from fnmatch import fnmatch

    from ..hub import results

    if markdown and filter == "*":
        click.echo(results.document(), nl=False)
        return
    found = [result for result in results.collect() if fnmatch(result.name, filter)]
    if as_json:
        print_json({"results": [result.to_json() for result in found]})
    elif markdown:
        click.echo(results.measured(found), nl=False)
    elif found:
        rows = [[result.dataset, *(cell.strip("`") for cell in result.cells())] for result in found]
        click.echo(table([["data", *results.HEADER], *rows]))
        click.echo(results.EXPLANATION, nl=False)
    else:
        click.echo("none")
