"""What `rnas-zoo verify` prints for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import percent, print_json, table


def print_comparison(found: Any, path: Path, predictions: Path) -> None:
    rows = [["", "theirs", "95 % interval", "ours"]]
    for name, share, own in (
        ("our class, clean images", found.agreement, None),
        ("our class, adversarial twins", found.adversarial_agreement, None),
        ("clean accuracy", found.clean_accuracy, found.our_clean_accuracy),
        ("transfer-robust accuracy", found.transfer_accuracy, found.our_transfer_accuracy),
    ):
        if share is not None:
            low, high = share.interval
            between = f"{100 * low:.1f} to {percent(high)}"
            rows.append([name, percent(share.value), between, percent(own.value) if own else ""])
    click.echo(f"{predictions} on the {found.agreement.n} images of {path}")
    click.echo(table(rows))
    if found.transfer_accuracy is None:
        click.echo("No answers to the adversarial twins: nothing is said about robustness.")
    else:
        click.echo(
            "transfer-robust: right on an image and on its adversarial twin. The twins were found against our torch\n"
            "model, not against this program: attacks on itself may find more, so this is an upper bound of its\n"
            "robust accuracy."
        )
        if found.adversarial_agreement is None:
            click.echo("This pack holds no answers of ours to the twins: agreement is that on clean images.")
    differing = ", ".join(map(str, found.differing)) or "none"
    allowed = "passed" if found.passed else "FAILED, at most one may be"
    click.echo(f"images with another class than ours: {differing} ({allowed})")


def print_report(ref: str, request: Any, report: Any, outcome: Any) -> None:
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
    click.echo(f"{ref} on {run['n']} images of {run['dataset']['name']}, {request.threat}, protocol {run['protocol']}")
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


def print_curve(ref: str, request: Any, count: int, points: list[tuple[float, float]], as_json: bool) -> None:
    if as_json:
        print_json({"norm": request.threat.norm, "protocol": request.protocol, "n": count, "curve": points})
        return
    rows = [["eps", "accuracy"]]
    rows += [[size, percent(accuracy)] for size, (_, accuracy) in zip(request.sizes, points, strict=True)]
    size = f" at {'x'.join(map(str, request.image_size))}" if request.image_size else ""
    click.echo(f"{ref} on {count} images of {request.data}{size}, {request.norm}, protocol {request.protocol}")
    click.echo(table(rows))
