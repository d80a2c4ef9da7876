"""`rnas-zoo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import budget_options, compute_options, computing, json_option, percent, print_json


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--arch", help="Model name, or genotype name or .json file, instead of a recipe.")
@click.option("--data", "data_name", help="digits, cifar10, or FILE.npz.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The run folder.")
@click.option("--objective", type=click.Choice(["pgd", "nfgsm", "fgsm_rs", "clean"]))
@click.option("--norm", type=click.Choice(["linf", "l2"]))
@click.option("--eps", help="Size of the perturbations trained against, in pixels of [0, 1].")
@click.option("--attack-steps", type=click.IntRange(1))
@click.option("--steps", "total_steps", type=click.IntRange(1), help="Optimisation steps.")
@click.option("--fit", is_flag=True, help="Choose the steps that fit into --time-budget.")
@click.option("--batch-size", type=click.IntRange(1))
@click.option("--learning-rate", type=float)
@click.option("--channels", type=click.IntRange(2), help="Width of a cell network.")
@click.option("--layers", type=click.IntRange(3), help="Cells of a cell network.")
@click.option("--stem", type=click.Choice(["cifar", "cifar_stride2", "imagenet"]))
@click.option("--seed", type=click.IntRange(0))
@click.option("--precision", type=click.Choice(["fp32", "bf16"]))
@budget_options
@json_option
@compute_options
def command(
    recipe: Path | None,
    arch: str | None,
    data_name: str | None,
    out: Path,
    channels: int | None,
    layers: int | None,
    stem: str | None,
    fit: bool,
    time_budget: float | None,
    resume: bool,
    as_json: bool,
    device: str,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train a network from a recipe, or from options.

    \b
    rnas-zoo train recipes/NAME.toml -o RUN
    rnas-zoo train --arch rnas_cl_s3 --data cifar10 --eps 8/255 --fit --time-budget 1h -o RUN
    """
    from dataclasses import replace

    from ..engine.progress import reporter
    from ..errors import UsageError
    from ..training.run import TrainConfig, model_for, read_recipe, train

    chosen = {name: value for name, value in settings.items() if value is not None}
    if data_name:
        chosen["data"] = data_name
    sizes = {name: value for name, value in (("channels", channels), ("layers", layers), ("stem", stem)) if value}
    if (recipe is None) == (arch is None):
        raise UsageError("give either a recipe file or --arch")
    if recipe is not None:
        config = replace(read_recipe(recipe), **chosen)
        config = replace(config, model_args={**config.model_args, **sizes})
    else:
        if not data_name:
            raise UsageError("--arch needs --data")
        name, arguments = model_for(str(arch))
        config = TrainConfig(architecture=name, model_args={**arguments, **sizes}, **chosen)
    with computing(threads), reporter() as progress:
        info = train(
            config, out, resume=resume, time_budget=time_budget, fit_budget=fit, device=device, reporter=progress
        )
    if as_json:
        print_json(info)
        return
    result = info["result"]
    click.echo(f"{out}: {info['total_steps']} steps in {info['seconds']:.0f} s")
    click.echo(
        f"held-out training images: clean {percent(result['clean_accuracy'])}, PGD-10 at {config.threat} "
        f"{percent(result['pgd_accuracy'])}"
    )
    click.echo(f"next: rnas-zoo package {out} -o RELEASE_FOLDER")
