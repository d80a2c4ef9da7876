"""`rnas-zoo verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .common import (
    DATA,
    DURATION,
    chosen_preprocessing,
    compute_options,
    computing,
    image_size_option,
    json_option,
    percent,
    preprocessing_options,
    print_json,
    table,
    threat_options,
)


@click.command("verify")
@click.argument("ref", required=False)
@click.option("--data", "data_name", help=f"{DATA}; --against-card takes the card's.")
@image_size_option
@click.option(
    "--protocol",
    help="quick: noise, FGSM, PGD-20. fast: a tenth of standard's passes. standard: AutoAttack (the default). "
    "full: standard, PGD-100 x 5, margin PGD towards 9 classes, Square with 20,000 queries.",
)
@threat_options(None, None)
@click.option("-n", "--n", type=click.IntRange(1), help="First N test images in official order; 256 by default.")
@click.option("--indices", type=click.Path(path_type=Path), help="File of positions (text or .npy) instead of --n.")
@click.option("--seed", type=click.IntRange(0), help="Seeds attacks, never the choice of images; 0 by default.")
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for a timm name (.safetensors).")
@click.option("--transfer-from", metavar="REF", help="Attack this model and judge what breaks it by REF.")
@click.option("--adversarial", type=click.Path(path_type=Path), help="Judge the images x_adv of an .npz file.")
@click.option("--against-card", is_flag=True, help="Compare with the card of the release folder, image by image.")
@click.option(
    "--against", type=click.Path(path_type=Path), help="Compare with a robustness.json or RobustBench's JSON."
)
@click.option("--claim", type=click.FloatRange(0, 1), help="Compare with a bare robust accuracy, such as 0.4773.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Keep finished work in DIR, or go on.")
@click.option("--time-budget", type=DURATION, help="Stop after 90s, 10m, ... with what is settled (exit code 3).")
@click.option("--save", is_flag=True, help="Add the run to the release folder's evidence and write its card anew.")
@click.option("--save-adversarial", type=click.Path(path_type=Path), help="Write the adversarial images to an .npz.")
@click.option("--format", "form", type=click.Choice(["table", "robustbench"]), default="table", show_default=True)
@click.option("--explain", metavar="FLAG", help="Say what a flag means and what to do, and exit.")
@preprocessing_options
@json_option
@compute_options
def command(
    ref: str | None,
    data_name: str | None,
    image_size: tuple[int, int] | None,
    protocol: str | None,
    norm: str | None,
    eps: str | None,
    n: int | None,
    indices: Path | None,
    seed: int | None,
    batch_size: int,
    checkpoint: Path | None,
    transfer_from: str | None,
    adversarial: Path | None,
    against_card: bool,
    against: Path | None,
    claim: float | None,
    resume: Path | None,
    time_budget: float | None,
    save: bool,
    save_adversarial: Path | None,
    form: str,
    explain: str | None,
    mean: str | None,
    std: str | None,
    input_size: str | None,
    layout: str | None,
    pixel_range: str | None,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Measure clean and robust accuracy of a model, or test a claim about it.

    \b
    rnas-zoo verify RELEASE_FOLDER --data digits --eps 16/255 --n 256
    rnas-zoo verify RELEASE_FOLDER --against-card
    rnas-zoo verify model.onnx --data images.npz --protocol quick --json
    rnas-zoo verify resnet18 --data cifar10 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26 --checkpoint W.safetensors
    rnas-zoo verify REF --data cifar10 --eps 2/255,4/255,8/255 --protocol fast
    torchrun --nproc-per-node 2 -m rnas_zoo verify REF --data cifar10 -n 1000

    Exit code 1 only if a claim is refuted.
    """
    from ..engine import distribution
    from ..engine.progress import reporter
    from ..errors import FlaggedError, OnnxFileError, UsageError, WeightsError
    from ..files import write_text
    from ..hub import card
    from ..verification import claims, evidence, flags
    from ..verification.request import Request

    if explain:
        click.echo(flags.explain(explain))
        return
    if ref is None:
        raise click.UsageError(
            "Missing argument 'REF': a timm name, a release folder, an .onnx file, file.py:function."
        )
    request = Request.make(
        ref,
        data=data_name,
        image_size=image_size,
        protocol=protocol,
        norm=norm,
        eps=eps,
        n=n,
        indices=indices,
        seed=seed,
        against_card=against_card,
        against=against,
        claim=claim,
        transfer_from=transfer_from,
        adversarial=adversarial,
        save=save,
    )
    if save_adversarial and save_adversarial.suffix != ".npz":
        raise UsageError(f"adversarial images are written to an .npz file, got {save_adversarial}")
    if len(request.sizes) > 1 and (save_adversarial or form != "table"):
        raise UsageError("several sizes in --eps ask for a curve: no --save-adversarial and no --format with it")
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "checkpoint": checkpoint,
        "preprocessing": chosen_preprocessing(mean, std, input_size, layout, pixel_range),
        "resume": resume,
        "time_budget": time_budget,
        "device": device,
    }
    quiet = distribution.rank() > 0
    with computing(threads), reporter(quiet) as progress:
        if len(request.sizes) > 1:
            count, points = request.curve(**options, reporter=progress)
            if not quiet:
                _print_curve(request, count, points, as_json)
            return
        try:
            report = request.verify(**options, reporter=progress)
        except (FlaggedError, OnnxFileError, WeightsError):
            outcome = request.refuted_by_files()
            if outcome is None:
                raise
            if as_json and not quiet:
                print_json({"claim": claims.as_json(outcome)})
            elif not quiet:
                click.echo(outcome.text)
            raise click.exceptions.Exit(outcome.exit_code) from None
        if quiet:
            return
        outcome = request.outcome(report)
    if save and request.folder is not None:
        evidence.append(request.folder, report.run, report.verdicts)
        write_text(request.folder / "README.md", card.render(request.folder))
    if save_adversarial:
        request.save_adversarial(report, save_adversarial)
    if form == "robustbench":
        from ..verification.robustbench import model_info

        click.echo(json.dumps(model_info(report.run), indent=2))
    elif as_json:
        print_json(report.run if outcome is None else {**report.run, "claim": claims.as_json(outcome)})
    else:
        _print_report(request, report, outcome)
    if outcome is not None and outcome.exit_code:
        raise click.exceptions.Exit(outcome.exit_code)
    if report.partial:
        raise click.exceptions.Exit(3)


def _print_report(request: Any, report: Any, outcome: Any) -> None:
    run = report.run
    rows = [
        ["attack", "broken", "accuracy", "passes per image"],
        ["none (clean)", "", percent(report.clean_accuracy), ""],
    ]
    for name, totals in run["attacks"].items():
        label = "random noise (control)" if name == "noise" else name
        each = f"{totals['passes'] / run['n']:,.0f}"
        rows.append([label, str(totals["broken"]), percent(report.accuracy_under(name)), each])
    low, high = run["interval"]
    rows.append(["all together", "", percent(report.robust_accuracy), f"{run['passes'] / run['n']:,.0f}"])
    click.echo(
        f"{request.ref} on {run['n']} images of {run['dataset']['name']}, {request.threat}, protocol {run['protocol']}"
    )
    click.echo(table(rows))
    click.echo(f"95 % interval of robust accuracy: {percent(low)} to {percent(high)}; stronger attacks may lower it")
    for route, count in request.routes(report).items():
        click.echo(f"broken through the {route}: {count}")
    for text in run["flags"]:
        click.echo(f"flag: {text} (rnas-zoo verify --explain {text.partition(':')[0]})")
    if outcome is not None:
        click.echo(outcome.text)
        if outcome.verdict == "refuted" and outcome.positions:
            click.echo("images: " + ", ".join(map(str, outcome.positions)))


def _print_curve(request: Any, count: int, points: list[tuple[float, float]], as_json: bool) -> None:
    if as_json:
        print_json({"norm": request.threat.norm, "protocol": request.protocol, "n": count, "curve": points})
        return
    rows = [["eps", "accuracy"]]
    rows += [[size, percent(accuracy)] for size, (_, accuracy) in zip(request.sizes, points, strict=True)]
    size = f" at {'x'.join(map(str, request.image_size))}" if request.image_size else ""
    click.echo(f"{request.ref} on {count} images of {request.data}{size}, {request.norm}, protocol {request.protocol}")
    click.echo(table(rows))
