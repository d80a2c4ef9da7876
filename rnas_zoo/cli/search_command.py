"""`rnas-zoo search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    COUNT,
    DATA,
    budget_options,
    compute_options,
    computing,
    image_size_option,
    json_option,
    percent,
    print_json,
    table,
    threat_options,
)

if TYPE_CHECKING:
    from ..searching.config import SearchConfig
    from ..searching.proxy import ProxyConfig
    from ..searching.study import StudyResult


@click.command("search")
@click.option("--method", "names", default="darts", show_default=True, help="One, or several with commas.")
@click.option("--data", "data_name", required=True, help=f"{DATA}.")
@image_size_option
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The genotype .json file to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, halves and draws.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="So many of them, from --seed on.")
@click.option(
    "--preset",
    default="fast",
    show_default=True,
    type=click.Choice(["fast", "paper"]),
    help="Of all that is not given.",
)
@click.option("--teacher", metavar="REF", help="Robust teacher, for rnas_cl.")
@click.option("--attack", type=click.Choice(["clean", "pgd", "nfgsm", "fgsm_rs"]), help="Images weights learn from.")
@click.option("--attack-steps", type=click.IntRange(1), help="Of PGD, which this chooses.")
@threat_options(None, None)
@click.option("--channels", type=click.IntRange(2), help="Of the supernet's first cells.")
@click.option("--layers", type=click.IntRange(3), help="Cells of the supernet.")
@click.option("--stem", type=click.Choice(["cifar", "cifar_stride2"]), help="Keep or halve the resolution first.")
@click.option("--partial", type=click.IntRange(1), help="Search in one of so many parts of the channels.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per step, of each half.")
@click.option("--arch-learning-rate", type=float, help="Of Adam on the architecture; 0 fits it to the steps.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), help="Of forward and backward passes; fp32 by default."
)
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Any other setting; may be repeated.")
@click.option("--steps", "total_steps", type=click.IntRange(1), help="Steps of each search; else they fit the budget.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each search without steps or budget.")
@click.option("--budget-passes", type=COUNT, help="Image passes to fit everything to, such as 2M.")
@click.option("--max-params", type=COUNT, help="Most parameters of the network to be deployed, such as 1e6.")
@click.option("--max-macs", type=COUNT, help="Most multiply-accumulates of one image, such as 50M.")
@click.option(
    "--proxy-share", type=float, default=0.4, show_default=True, help="Of the budget, for comparing searches."
)
@click.option("--proxy-steps", type=click.IntRange(1), help="Training steps that compare searches; else they fit.")
@budget_options
@json_option
@compute_options
def command(
    names: str,
    data_name: str,
    out: Path,
    seed: int,
    seeds: int,
    preset: str,
    settings: tuple[str, ...],
    budget_passes: int | None,
    max_params: int | None,
    max_macs: int | None,
    proxy_share: float,
    proxy_steps: int | None,
    time_budget: float | None,
    resume: bool,
    as_json: bool,
    device: str,
    threads: int | None,
    **given: Any,
) -> None:
    """Search an architecture; write its genotype and, beside it, the run's record.

    Several methods or seeds share the budget. Each network found is trained briefly under the same attack, and the one
    that does best under PGD on held-out images is kept; the folder OUT.study has the comparison.

    \b
    rnas-zoo search --data digits --eps 16/255 --channels 4 --layers 3 --time-budget 2m -o found.json
    rnas-zoo search --method rnas_vuln,darts,random --seeds 2 --data cifar10 --budget-passes 20M --max-params 1e6 \\
      -o best.json

    \b
    rnas_vuln    under a limit on network vulnerability (RNAS beyond DARTS)
    rnas_noise   noise examples in the place of adversarial ones (a reconstruction)
    arnas        accurate cells, then robust ones, with two objectives
    e2rnas       accuracy and size, with adversarially trained weights
    rnas_cl      compact students that learn from a robust teacher's layers
    darts        control: first-order DARTS with adversarially trained weights
    darts_clean  control: DARTS without an adversary
    random       control: cells drawn at random
    file.py:Class  a method of your own; this runs the file
    """
    from ..engine import distribution
    from ..engine.progress import reporter
    from ..errors import UsageError
    from ..searching.overrides import overrides
    from ..searching.run import configured
    from ..searching.study import Limits, study

    chosen = {name: value for name, value in given.items() if value is not None}
    if "attack_steps" in chosen:
        chosen.setdefault("attack", "pgd")
    methods = [name.strip() for name in names.split(",") if name.strip()]
    several = len(methods) * seeds > 1
    if several and not 0 < proxy_share < 1:
        raise UsageError("several searches are compared by a proxy: --proxy-share must lie between 0 and 1")
    changes = overrides(settings, methods)
    configs = [
        configured(data_name, name, preset, **{**chosen, **changes[name], "seed": number})
        for number in range(seed, seed + seeds)
        for name in methods
    ]
    with computing(threads), reporter(quiet=distribution.rank() > 0) as progress:
        result = study(
            configs,
            out,
            proxy_config=_proxy(configs[0], chosen, proxy_share, proxy_steps) if several else None,
            limits=Limits(max_params, max_macs),
            time_budget=time_budget,
            pass_budget=budget_passes,
            resume=resume,
            device=device,
            reporter=progress,
        )
    if not distribution.main():
        return
    if as_json:
        print_json(result.best.to_json())
    else:
        _print(result, out, configs[0])


def _proxy(config: SearchConfig, chosen: dict[str, Any], share: float, steps: int | None) -> ProxyConfig:
    """The proxy trains under the threat model, in the batches and the precision that were asked for."""
    from ..searching.proxy import ProxyConfig

    default = ProxyConfig()
    known = {name: chosen[name] for name in ("norm", "eps", "precision") if name in chosen}
    batch = chosen.get("batch_size", default.batch_size)
    rate = default.learning_rate * batch / default.batch_size
    return ProxyConfig(share=share, total_steps=steps or 0, seed=config.held_out_seed, batch_size=batch,
                       learning_rate=rate, **known)  # fmt: skip


def _print(result: StudyResult, out: Path, config: SearchConfig) -> None:
    best = result.best
    if result.candidates:
        rows = [["search", "parameters", "MACs", "clean", "PGD-10"]]
        rows += [
            [c.name, f"{c.params:,}", f"{c.macs:,}", percent(c.measured.clean), percent(c.measured.pgd)]
            for c in sorted(result.candidates, key=lambda c: c.rank, reverse=True)
        ]
        click.echo(table(rows))
    click.echo(f"{out}: genotype {best.hash[:12]}, {best.provenance['cost']['architecture_steps']} architecture steps")
    size = "".join(f" --{name} {value}" for name, value in best.default.items())
    stem = f" --stem {config.stem}" if best.default else ""
    click.echo(f"next: rnas-zoo draw {out}")
    click.echo(f"      rnas-zoo train --arch {out} --data {config.data} --eps {config.eps}{size}{stem} -o RUN ...")
