"""`rnas-zoo search`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import budget_options, compute_options, computing, json_option, print_json, threat_options


@click.command("search")
@click.option(
    "--method", default="darts", show_default=True, help="darts (first order; adversarial unless --objective clean)."
)
@click.option("--data", "data_name", required=True, help="digits, cifar10, or FILE.npz.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The genotype .json file to write.")
@click.option("--objective", default="pgd", show_default=True, type=click.Choice(["pgd", "clean"]))
@threat_options()
@click.option("--attack-steps", type=click.IntRange(1), default=7, show_default=True)
@click.option("--channels", type=click.IntRange(2), default=16, show_default=True)
@click.option("--layers", type=click.IntRange(3), default=8, show_default=True)
@click.option("--stem", default="cifar", show_default=True, type=click.Choice(["cifar", "cifar_stride2"]))
@click.option(
    "--steps", type=click.IntRange(1), help="Pairs of architecture and weight steps; fitted to the budget if left out."
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--arch-learning-rate", type=float, default=3e-4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@budget_options
@json_option
@compute_options
def command(
    method: str,
    data_name: str,
    out: Path,
    objective: str,
    norm: str,
    eps: str,
    attack_steps: int,
    channels: int,
    layers: int,
    stem: str,
    steps: int | None,
    batch_size: int,
    arch_learning_rate: float,
    seed: int,
    precision: str,
    time_budget: float | None,
    resume: bool,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Search an architecture; write its genotype and, beside it, the run's record.

    \b
    rnas-zoo search --data digits --eps 16/255 --channels 4 --layers 3 --time-budget 2m -o found.json
    """
    from ..engine.progress import reporter
    from ..searching.run import SearchConfig, search

    config = SearchConfig(
        data=data_name,
        method=method,
        objective=objective,
        norm=norm,
        eps=eps,
        attack_steps=attack_steps,
        channels=channels,
        layers=layers,
        stem=stem,
        total_steps=steps or 0,
        batch_size=batch_size,
        arch_learning_rate=arch_learning_rate,
        seed=seed,
        precision=precision,
    )
    with computing(threads), reporter() as progress:
        found = search(config, out, resume=resume, time_budget=time_budget, device=device, reporter=progress)
    if as_json:
        print_json(found.to_json())
        return
    click.echo(
        f"{out}: genotype {found.hash[:12]}, {found.provenance['cost']['architecture_steps']} architecture steps"
    )
    click.echo(f"next: rnas-zoo draw {out}    rnas-zoo train --arch {out} --data {data_name} --eps {eps} -o RUN ...")
