"""`rnas-zoo bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .common import DURATION, IMAGE_SIZE, compute_options, json_option, percent, print_json, table

BASELINES = "resnet18,mobilenetv3_small_050"
BUSY = 0.9


@click.command("bench")
@click.argument("refs", metavar="REF...", nargs=-1, required=True)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Draw robust accuracy against latency: .svg or .png."
)
@click.option("--baselines", default=BASELINES, show_default=True, help="timm names, measured untrained.")
@click.option("--no-baselines", is_flag=True, help="Only what is named.")
@click.option("--no-compile", is_flag=True, help="Leave out torch.compile, which takes minutes to build.")
@click.option("--seconds", type=DURATION, default="2", show_default=True, help="Time for each cell of the table.")
@click.option("--repeats", type=click.IntRange(1), default=1000, show_default=True, help="Most timed calls per cell.")
@click.option("--image-size", type=IMAGE_SIZE, metavar="N|HxW", help="By default what each model declares, else 32.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@json_option
@compute_options
def command(
    refs: tuple[str, ...],
    out: Path | None,
    baselines: str,
    no_baselines: bool,
    no_compile: bool,
    seconds: float,
    repeats: int,
    image_size: tuple[int, int] | None,
    markdown: bool,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Measure how long models take in torch and onnxruntime, beside what they are worth.

    All take turns in one process, on equally many threads, and only after their logits agree.

    \b
    rnas-zoo bench RELEASE_FOLDER -o pareto.png --threads 2
    rnas-zoo bench rnas_cl_s3 rnas_cl_s7 --no-compile --baselines resnet18,resnet34
    rnas-zoo bench model.onnx model.int8.onnx --no-baselines --json

    Exit code 1 if an ONNX file computes another function than the model it belongs to.
    """
    from ..deploy.bench import bench
    from ..deploy.contestants import Settings
    from ..drawing.bench import draw_bench
    from ..drawing.canvas import check_suffix
    from ..engine import device as devices
    from ..engine.progress import reporter
    from ..errors import UsageError
    from ..hub.sections import markdown_table

    if markdown and as_json:
        raise UsageError("--markdown and --json are two forms of one answer: give one of them")
    if out:
        check_suffix(out)
    others = [] if no_baselines else [name.strip() for name in baselines.split(",") if name.strip()]
    settings = Settings(seconds, repeats, not no_compile, image_size, device)
    with devices.threads(threads), reporter() as progress:
        report = bench(refs, settings, baselines=others, reporter=progress)
    if out:
        draw_bench(report, out)
    if as_json:
        print_json(report)
        return
    rows = table_rows(report)
    click.echo(markdown_table(rows[0], rows[1:]) + "\n" if markdown else table(rows))
    click.echo("\n".join(notes(report)))
    if out:
        click.echo(f"picture: {out}")


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A header, and for each model a row per runtime; what belongs to the model stands in its first row."""
    small, large = (str(batch) for batch in (report["batches"][0], report["batches"][-1]))
    rows = [
        [
            "model",
            "parameters",
            "MACs",
            "runtime",
            "file",
            "robust",
            f"batch {small}: ms",
            "vs torch",
            f"batch {large}: ms",
            "images/s",
            "logits differ",
        ]
    ]
    for model in report["models"]:
        name = f"{model['model']} (untrained)" if model["untrained"] else model["model"]
        parameters, macs = model["parameters"], model["macs"]
        own = [name, f"{parameters:,}" if parameters else "–", f"{macs / 1e6:,.1f} M" if macs else "–"]
        for run in model["runs"]:
            latency, size, accuracy = run["latency"] or {}, run["bytes"], run["accuracy"]
            speed, rate, difference = run["speedup"], run["images_per_second"], run["difference"]
            rows.append(
                [
                    *own,
                    run["runtime"],
                    f"{size / 1e6:.2f} MB" if size else "–",
                    percent(accuracy["robust"]) if accuracy else "–",
                    _milliseconds(latency.get(small)),
                    f"{speed:.1f}x" if speed else "–",
                    _milliseconds(latency.get(large)),
                    f"{rate:,.0f}" if rate else "–",
                    f"{difference:.1e}" if difference is not None else "–",
                ]
            )
            own = ["", "", ""]
    return rows


def _milliseconds(times: Mapping[str, float] | None) -> str:
    if times is None:
        return "–"
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in _in_ms(times))


def _in_ms(times: Mapping[str, float]) -> tuple[float, float]:
    return 1000 * times["p50"], 1000 * times["p95"]


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the table needs to be understood: units, machine, where each accuracy comes from, what could not run."""
    threads, versions = report["threads"], report["versions"]
    place = f"{threads} CPU thread{'s' * (threads > 1)}" if report["device"] == "cpu" else report["device"].upper()
    found = [
        f"ms: median / 95th percentile of a call; {place}, torch {versions['torch']}, "
        f"onnxruntime {versions['onnxruntime']}"
    ]
    if any(model["untrained"] for model in report["models"]):
        found.append("untrained: random weights, so there is a latency and no accuracy")
    for model in report["models"]:
        name, runs = model["model"], model["runs"]
        known: dict[str, list[str]] = {}
        for run in runs:
            if run["accuracy"]:
                known.setdefault(_evidence(run["accuracy"]), []).append(run["runtime"])
        for text, runtimes in known.items():
            whose = f" ({', '.join(runtimes)})" if len(known) > 1 else ""
            found.append(f"{name}{whose}: {text}")
        found += [f"{name}, {run['runtime']}: cannot run it ({run['note']})" for run in runs if run["note"]]
    if report["cpu_share"] is not None and report["cpu_share"] < BUSY:
        found.append(
            f"warning: the machine was busy: this process got {percent(report['cpu_share'])} of a core, and the longer "
            "a call, the more of its time is waiting. Measure again on an idle machine"
        )
    return found


def _evidence(accuracy: Mapping[str, Any]) -> str:
    return (
        f"robust under {accuracy['threat']} by {accuracy['protocol']} on {accuracy['n']:,} images of "
        f"{accuracy['dataset']}, clean {percent(accuracy['clean'])}"
    )
