"""`rnas-zoo list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .common import COUNT, json_option, percent, print_json, table

if TYPE_CHECKING:
    from ..hub.zoo import Model, Query


@click.command("list")
@click.argument("filter", default="*")
@click.option("--genotypes", "only_genotypes", is_flag=True, help="Genotypes with their provenance instead of models.")
@click.option("--pretrained", is_flag=True, help="Only models whose weights can be had.")
@click.option("--max-params", type=COUNT, metavar="N", help="At most so many parameters: 350k, 1e6, 2M.")
@click.option("--min-robust", type=float, metavar="PERCENT", help="At least this robust accuracy: 40 is 40 %.")
@click.option("--dataset", metavar="NAME", help="Trained on it: cifar10, digits, ...")
@click.option("--threat", metavar="NORM:EPS", help="Measured under it: linf:8/255. The one trained against by default.")
@click.option("--protocol", metavar="NAME", help="Measured by it: quick, fast, standard or full. Strongest by default.")
@click.option("--sort", metavar="KEY", help="robust, clean, params, macs or name.")
@click.option("--results", "only_results", is_flag=True, help="What was measured on the weights that can be had.")
@click.option("--markdown", is_flag=True, help="With --results: as Markdown, the papers' own figures below.")
@json_option
def command(
    filter: str,
    only_genotypes: bool,
    pretrained: bool,
    max_params: int | None,
    min_robust: float | None,
    dataset: str | None,
    threat: str | None,
    protocol: str | None,
    sort: str | None,
    only_results: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """List models, or genotypes, or results.

    \b
    rnas-zoo list 'rnas_cl*'
    rnas-zoo list --max-params 1e6 --min-robust 30 --dataset cifar10 --threat linf:8/255 --sort robust
    rnas-zoo list --genotypes --json
    rnas-zoo list --results
    """
    from ..errors import UsageError

    if (markdown and not only_results) or (markdown and as_json) or (only_results and only_genotypes):
        raise UsageError("--markdown goes with --results and without --json; --results and --genotypes are two lists")
    asked = (max_params, min_robust, dataset, threat, protocol, sort)
    if only_genotypes and any(each is not None for each in asked):
        raise UsageError("--genotypes has no sizes or results to choose by: leave it out, or the other options")
    if only_genotypes:
        _genotypes(as_json)
        return
    from ..hub.zoo import Query, names

    query = Query(filter, pretrained or only_results, max_params, min_robust, dataset, threat, protocol, sort)
    if only_results:
        _results(query, markdown, as_json)
    elif not query.by_name:
        _chosen(query, as_json)
    elif as_json:
        print_json({"models": names(filter, pretrained)})
    else:
        click.echo("\n".join(names(filter, pretrained)) or "none")


def _genotypes(as_json: bool) -> None:
    from .. import genotype

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


def _chosen(query: Query, as_json: bool) -> None:
    from ..hub import results, zoo

    releases = results.collect() if query.about_weights else None
    found = zoo.select(query, releases)
    near = "" if found else zoo.nearest(query, releases)
    if as_json:
        details = [model.to_json() for model in found]
        print_json({"models": [model.name for model in found], "details": details, "nearest": near or None})
    elif not found:
        click.echo(f"none. {near}" if near else "none")
    elif query.about_weights:
        head = [
            "model",
            "data",
            "parameters",
            "MACs",
            "clean",
            "threat",
            "protocol",
            "robust",
            "95 % interval",
            "images",
        ]
        click.echo(table([head, *map(_measured, found)]))
        click.echo("robust: an upper bound, on the first test images; the weaker the protocol, the looser")
    else:
        with_macs = query.sort == "macs"
        head = ["architecture", "parameters", *["MACs"] * with_macs]
        click.echo(table([head, *([model.name, *_size(model, with_macs)] for model in found)]))


def _size(model: Model, with_macs: bool = True) -> list[str]:
    return [f"{model.parameters:,}", *([f"{model.macs / 1e6:,.1f} M"] if with_macs else [])]


def _measured(model: Model) -> list[str]:
    from ..hub.sections import threat_name

    result: Any = model.result
    cells = [model.name, result.dataset, *_size(model), percent(result.clean["clean_accuracy"])]
    run = model.run
    if run is None:
        return [*cells, "", "", "", "", ""]
    low, high = run["interval"]
    robust = [percent(run["robust_accuracy"]), f"{percent(low)} to {percent(high)}", f"{run['n']:,}"]
    return [*cells, threat_name(run), run["protocol"], *robust]


def _results(query: Query, markdown: bool, as_json: bool) -> None:
    from ..hub import results, results_page, zoo

    if markdown and query == zoo.Query(pretrained=True):
        click.echo(results_page.document(results.collect()), nl=False)
        return
    releases = results.collect()
    chosen = [model.result for model in zoo.select(query, releases) if model.result]
    found = chosen if query.sort else [result for result in releases if result in chosen]
    near = "" if found else zoo.nearest(query, releases)
    if as_json:
        print_json({"results": [result.to_json() for result in found]})
    elif markdown:
        click.echo(results_page.measured(found), nl=False)
    elif found:
        rows = [[result.dataset, *(cell.strip("`") for cell in result.cells())] for result in found]
        click.echo(table([["data", *results.HEADER], *rows]))
        click.echo(results_page.EXPLANATION, nl=False)
    else:
        click.echo(f"none. {near}" if near else "none")
