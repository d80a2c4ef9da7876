"""`rnas-zoo train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    DATA,
    budget_options,
    compute_options,
    computing,
    image_size_option,
    json_option,
    percent,
    print_json,
    threat_options,
)

if TYPE_CHECKING:
    from ..training.config import TrainConfig

OBJECTIVES = ("clean", "pgd", "nfgsm", "fgsm_rs", "trades", "rslad", "rnas_cl")


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--arch", help="Model name, or genotype name or .json file, instead of a recipe.")
@click.option("--init", metavar="REF", help="Start from this model's body; without a recipe, of its architecture.")
@click.option("--data", "data_name", help=f"{DATA}.")
@image_size_option
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The run folder.")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="What is learned from; pgd by default.")
@threat_options(None, None)
@click.option("--attack-steps", type=click.IntRange(1), help="Of multi-step attacks.")
@click.option("--teacher", metavar="REF", help="Robust teacher to distil from.")
@click.option("--steps", "total_steps", type=click.IntRange(1), help="Optimisation steps.")
@click.option("--fit", is_flag=True, help="Choose the steps that fit into --time-budget.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per step.")
@click.option("--learning-rate", type=float, help="The largest of its schedule.")
@click.option("--channels", type=click.IntRange(2), help="Width of a cell network.")
@click.option("--layers", type=click.IntRange(3), help="Cells of a cell network.")
@click.option(
    "--stem", type=click.Choice(["cifar", "cifar_stride2", "imagenet"]), help="First layers of a cell network."
)
@click.option("--seed", type=click.IntRange(0), help="Of weights and draws; 0 by default.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), help="Of forward and backward passes; fp32 by default."
)
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Any other setting; may be repeated.")
@budget_options
@json_option
@compute_options
def command(
    recipe: Path | None,
    arch: str | None,
    init: str | None,
    data_name: str | None,
    out: Path,
    channels: int | None,
    layers: int | None,
    stem: str | None,
    settings: tuple[str, ...],
    fit: bool,
    time_budget: float | None,
    resume: bool,
    as_json: bool,
    device: str,
    threads: int | None,
    **given: Any,
) -> None:
    """Train a network from a recipe, or from options; several GPUs by torchrun.

    \b
    rnas-zoo train recipes/NAME.toml -o RUN
    rnas-zoo train --arch rnas_cl_s3 --data cifar10 --eps 8/255 --fit --time-budget 1h -o RUN
    rnas-zoo train --init model_cards/NAME --data FOLDER --eps 4/255 --fit --time-budget 20m -o RUN
    """
    from ..engine import distribution
    from ..engine.overrides import changes
    from ..engine.progress import reporter
    from ..training.config import TrainConfig
    from ..training.run import train

    apart = ("architecture", "data", "init", "model_args")
    chosen = {**changes(settings, TrainConfig, apart), **{name: v for name, v in given.items() if v is not None}}
    if data_name:
        chosen["data"] = data_name
    sizes = {name: value for name, value in (("channels", channels), ("layers", layers), ("stem", stem)) if value}
    config = _configured(recipe, arch, init, chosen, sizes)
    with computing(threads), reporter(quiet=distribution.rank() > 0) as progress:
        info = train(
            config, out, resume=resume, time_budget=time_budget, fit_budget=fit, device=device, reporter=progress
        )
    if not distribution.main():
        return
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


def _configured(
    recipe: Path | None, arch: str | None, init: str | None, chosen: dict[str, Any], sizes: dict[str, Any]
) -> TrainConfig:
    """The configuration of a recipe, a named network or one that starts from another, with what options change."""
    from dataclasses import replace

    from ..errors import UsageError
    from ..training.config import TrainConfig, model_for, read_recipe
    from ..training.transfer import architecture_of

    if (recipe is None and init is None) == (arch is None):
        raise UsageError("give a recipe file (with --init, if it is to start from that model), or --arch, or --init")
    if recipe is not None:
        config = replace(read_recipe(recipe), **chosen)
        return replace(config, init=init or config.init, model_args={**config.model_args, **sizes})
    if "data" not in chosen:
        raise UsageError(f"--{'arch' if arch else 'init'} needs --data")
    if init is not None and sizes:
        raise UsageError("--init brings its own size: leave --channels, --layers and --stem out")
    name, arguments = architecture_of(init) if init is not None else model_for(str(arch))
    return TrainConfig(architecture=name, init=init or "", model_args={**arguments, **sizes}, **chosen)
