"""`rnas-zoo package`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import compute_options, computing, json_option, percent, print_json


@click.command("package")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The release folder to make.")
@click.option(
    "--protocol", default="quick", show_default=True, help="quick: noise, FGSM, PGD-20; standard: AutoAttack."
)
@click.option("--onnx-protocol", help="Of the ONNX file; --protocol by default.")
@click.option("--eps", help="Size of the perturbations; the run's own by default.")
@click.option(
    "--n", type=click.IntRange(1), default=256, show_default=True, help="First N test images in official order."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the attacks' draws.")
@click.option("--no-onnx", is_flag=True, help="Leave the ONNX file out.")
@click.option("--int8", is_flag=True, help="Add model.int8.onnx, if it costs little accuracy.")
@click.option("--limits-protocol", default="quick", show_default=True, help="Attacks beyond the threat model.")
@click.option("--also", multiple=True, metavar="EPS", help="Measure the weights at this size as well; repeatable.")
@click.option("--also-protocol", default="fast", show_default=True, help="Attacks at these sizes.")
@click.option("--no-limits", is_flag=True, help="Do not measure other norms, larger eps and corruptions.")
@json_option
@compute_options
def command(
    run: Path,
    out: Path,
    protocol: str,
    onnx_protocol: str | None,
    eps: str | None,
    n: int,
    seed: int,
    no_onnx: bool,
    int8: bool,
    limits_protocol: str,
    also: tuple[str, ...],
    also_protocol: str,
    no_limits: bool,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Turn a finished training run into a release folder.

    Weights, genotype, recipe, ONNX file, evidence on both, what it is not robust to, pictures and card; built beside
    its place, then renamed. Interrupted, the same command goes on with what OUT.work has kept.

    \b
    rnas-zoo package RUN -o model_cards/my_model --n 256
    """
    from ..attacks import Threat
    from ..engine.progress import reporter
    from ..engine.record import read_run
    from ..hub.release import package

    threat = Threat(read_run(run)["config"].get("norm", "linf"), eps) if eps else None  # type: ignore[arg-type]
    with computing(threads), reporter() as progress:
        made = package(
            run,
            out,
            threat=threat,
            protocol=protocol,
            onnx_protocol=onnx_protocol,
            n=n,
            seed=seed,
            with_onnx=not no_onnx,
            with_int8=int8,
            with_limits=not no_limits,
            limits_protocol=limits_protocol,
            sizes=also,
            sizes_protocol=also_protocol,
            device=device,
            reporter=progress,
        )
    if as_json:
        print_json(made)
        return
    click.echo(f"{out}: {made['name']}")
    for evidence_run in made["runs"]:
        click.echo(
            f"{evidence_run['subject']['file']:<18} clean {percent(evidence_run['clean_accuracy'])}, robust "
            f"{percent(evidence_run['robust_accuracy'])} "
            f"(first {evidence_run['n']} images, {evidence_run['norm']} {evidence_run['eps']})"
        )
    click.echo(f"next: open {out / 'README.md'}")
