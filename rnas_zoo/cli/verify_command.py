"""`rnas-zoo verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .common import (
    DATA,
    DURATION,
    chosen_preprocessing,
    compute_options,
    computing,
    fetched,
    image_size_option,
    json_option,
    preprocessing_options,
    print_json,
    threat_options,
)
from .verify_output import print_comparison, print_curve, print_report


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
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Images asked at once.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for a timm name (.safetensors).")
@click.option("--transfer-from", metavar="REF", help="Attack this model and judge what breaks it by REF.")
@click.option("--adversarial", type=click.Path(path_type=Path), help="Judge the images x_adv of an .npz file.")
@click.option("--against-card", is_flag=True, help="Compare with the release's card: files, figures, image by image.")
@click.option(
    "--against", type=click.Path(path_type=Path), help="Compare with a robustness.json or RobustBench's JSON."
)
@click.option("--claim", type=click.FloatRange(0, 1), help="Compare with a bare robust accuracy, such as 0.4773.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Keep finished work in DIR, or go on.")
@click.option("--time-budget", type=DURATION, help="Stop after 90s, 10m, ... with what is settled (exit code 3).")
@click.option("--save", is_flag=True, help="Add the run to the release folder's evidence and write its card anew.")
@click.option("--save-adversarial", type=click.Path(path_type=Path), help="Write the adversarial images to an .npz.")
@click.option(
    "--format", "form", type=click.Choice(["table", "robustbench"]), default="table", show_default=True,
    help="A table, or RobustBench's model_info as JSON.",
)  # fmt: skip
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Judge what any program answered on the images of a check pack: lines index,clean,adversarial below that "
    "very header, the classes as numbers from 0 or as names. REF, a folder with check.npz, may stand for --pack.",
)
@click.option("--pack", type=click.Path(path_type=Path), help="The check.npz of a release folder or a bundle.")
@click.option("--explain", metavar="FLAG", help="Say what a flag means and what to do, and exit.")
@preprocessing_options
@json_option
@compute_options
@click.pass_context
def command(
    context: click.Context,
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
    predictions: Path | None,
    pack: Path | None,
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
    rnas-zoo verify hf-hub:owner/name --against-card --protocol fast
    rnas-zoo verify model.onnx --data images.npz --protocol quick --json
    rnas-zoo verify resnet18 --data cifar10 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26 --checkpoint W.safetensors
    rnas-zoo verify REF --data cifar10 --eps 2/255,4/255,8/255 --protocol fast
    torchrun --nproc-per-node 2 -m rnas_zoo verify REF --data cifar10 -n 1000
    rnas-zoo verify --predictions answers.csv --pack check.npz

    Exit code 1 only if a claim is refuted, or if predictions differ from ours on more than one image.
    """
    if predictions or pack:
        _judge_predictions(context, as_json)
        return
    if explain:
        from ..verification import flags

        click.echo(flags.explain(explain))
        return
    from ..engine import distribution
    from ..engine.progress import reporter
    from ..errors import UsageError
    from ..files import exclusive, write_text
    from ..hub import card, client, reverify
    from ..verification import claims, evidence
    from ..verification.request import Request

    if ref is None:
        raise click.UsageError(
            "Missing argument 'REF': a timm name, a release folder, a training run, hf-hub:owner/name, an .onnx file, "
            "file.py:function."
        )
    if save and client.is_hub(ref):
        raise UsageError(f"--save writes into a folder of yours: `rnas-zoo download {ref} -o FOLDER` makes one")
    request = Request.make(
        fetched(ref),
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
                print_curve(ref, request, count, points, as_json)
            return
        if against_card and request.folder is not None:
            progress.say(f"comparing the files, answers and card of {ref} with its evidence")
            found = reverify.examine(request.folder)
            for note in found.notes:
                progress.say(f"note: {note}")
            if found.problems:
                refuted = claims.refuted(found.problems)
                if not quiet:
                    print_json({"claim": claims.as_json(refuted)}) if as_json else click.echo(refuted.text)
                raise click.exceptions.Exit(refuted.exit_code)
        report = request.verify(**options, reporter=progress)
        if quiet:
            return
        outcome = request.outcome(report)
    if save and request.folder is not None:
        evidence.append(request.folder, report.run, report.verdicts)
        with exclusive(request.folder):
            write_text(request.folder / "README.md", card.render(request.folder))
    if save_adversarial:
        request.save_adversarial(report, save_adversarial)
    if form == "robustbench":
        from ..verification.robustbench import model_info

        click.echo(json.dumps(model_info(report.run), indent=2))
    elif as_json:
        print_json(report.run if outcome is None else {**report.run, "claim": claims.as_json(outcome)})
    else:
        print_report(ref, request, report, outcome)
    if outcome is not None and outcome.exit_code:
        raise click.exceptions.Exit(outcome.exit_code)
    if report.partial:
        raise click.exceptions.Exit(3)


WITH_PREDICTIONS = {"ref", "predictions", "pack", "as_json", "device", "threads"}


def _judge_predictions(context: click.Context, as_json: bool) -> None:
    """--predictions and --pack; without torch."""
    from ..errors import UsageError
    from ..verification import pack as packs

    given = context.params
    for option in context.command.params:
        name = str(option.name)
        if name not in WITH_PREDICTIONS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--predictions compares with a check pack only: leave out {option.opts[0]}")
    if given["predictions"] is None:
        raise UsageError("--pack goes with --predictions, a CSV file: index,clean,adversarial")
    if (given["pack"] is None) == (given["ref"] is None):
        raise UsageError("which images were predicted? give --pack check.npz, or a folder that holds check.npz as REF")
    path = given["pack"] or Path(fetched(given["ref"])) / "check.npz"
    pack = packs.read_pack(path)
    found = packs.compare(pack, packs.read_predictions(given["predictions"], pack))
    if as_json:
        print_json({"pack": str(path), "predictions": str(given["predictions"]), **found.to_json()})
    else:
        print_comparison(found, path, given["predictions"])
    if not found.passed:
        raise click.exceptions.Exit(1)
