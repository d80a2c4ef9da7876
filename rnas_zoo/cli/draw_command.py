"""`rnas-zoo draw`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("draw")
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="An .svg or .png file; NAME.svg by default.")
def command(name: str, out: Path | None) -> None:
    """Draw the cells or blocks of an architecture.

    NAME is a model or genotype name, a genotype .json file, or genotypes.py:NAME.

    \b
    rnas-zoo draw rnas_arnas -o arnas.svg
    """
    from .. import genotype
    from ..drawing.genotypes import draw_genotype
    from ..errors import UnknownNameError

    try:
        found = genotype.resolve(name)
    except UnknownNameError as unknown:
        # A model may be a genotype at another size: rnas_arnas_c16l8.
        try:
            found = genotype.resolve(name.rpartition("_")[0])
        except UnknownNameError:
            raise unknown from None
    click.echo(str(draw_genotype(found, out or Path(f"{found.name}.svg"))))
