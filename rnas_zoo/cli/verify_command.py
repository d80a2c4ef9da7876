"""`rnas-zoo verify`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import compute_options, computing, json_option, percent, print_json, table, threat_options


@click.command("verify")
@click.argument("ref")
@click.option("--data", "data_name", required=True, help="digits, cifar10, or FILE.npz.")
@click.option(
    "--protocol", default="quick", show_default=True, help="quick: noise, FGSM, PGD-20; standard: AutoAttack."
)
@threat_options()
@click.option(
    "--n", type=click.IntRange(1), default=256, show_default=True, help="First N test images in official order."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seeds attacks, never the choice of images."
)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for a timm name (.safetensors).")
@click.option("--save", is_flag=True, help="Add the run to the release folder's evidence and write its card anew.")
@json_option
@compute_options
def command(
    ref: str,
    data_name: str,
    protocol: str,
    norm: str,
    eps: str,
    n: int,
    seed: int,
    batch_size: int,
    checkpoint: Path | None,
    save: bool,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Measure clean and robust accuracy of a model.

    \b
    rnas-zoo verify RELEASE_FOLDER --data digits --eps 16/255 --n 256
    rnas-zoo verify model.onnx --data images.npz --json
    """
    from ..attacks import Threat
    from ..engine.progress import reporter
    from ..errors import UsageError
    from ..files import write_text
    from ..hub import card
    from ..verification import evidence
    from ..verification.run import verify

    threat = Threat(norm, eps)  # type: ignore[arg-type]
    folder = Path(ref) if Path(ref).is_dir() else Path(ref).parent
    if save and not (folder / "config.json").is_file():
        raise UsageError(f"--save needs a release folder or a file inside one, got {ref}")
    with computing(threads), reporter() as progress:
        report = verify(
            ref,
            data_name=data_name,
            threat=threat,
            protocol=protocol,
            n=n,
            seed=seed,
            batch_size=batch_size,
            checkpoint=checkpoint,
            device=device,
            reporter=progress,
        )
    if save:
        evidence.append(folder, report.run, report.verdicts)
        write_text(folder / "README.md", card.render(folder))
    if as_json:
        print_json(report.run)
        return
    run = report.run
    rows = [["attack", "broken", "accuracy"], ["none (clean)", "", percent(report.clean_accuracy)]]
    for name, totals in run["attacks"].items():
        label = "random noise (control)" if name == "noise" else name
        rows.append([label, str(totals["broken"]), percent(report.accuracy_under(name))])
    low, high = run["interval"]
    rows.append(["all together", "", percent(report.robust_accuracy)])
    click.echo(f"{ref} on the first {run['n']} images of {data_name}, {threat}, protocol {protocol}")
    click.echo(table(rows))
    click.echo(f"95 % interval of robust accuracy: {percent(low)} to {percent(high)}; stronger attacks may lower it")
    for flag in run["flags"]:
        click.echo(f"flag: {flag}")
