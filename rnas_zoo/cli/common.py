"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..engine.budget import parse_count, parse_duration
from ..errors import UsageError
from ..preprocessing import Preprocessing

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType):
    """A value from text that a function of the library reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parse(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(str(error), param, ctx)


def _image_size(text: str) -> tuple[int, int]:
    from ..data import parse_size

    return parse_size(text)


DURATION = Parsed("duration", parse_duration)
COUNT = Parsed("count", parse_count)
IMAGE_SIZE = Parsed("size", _image_size)
DATA = "digits, cifar10, cifar100, svhn, tiny-imagenet, FILE.npz, or a FOLDER of images"  # what --data takes


def compute_options(command: F) -> F:
    """--device and --threads."""
    command = click.option("--threads", type=click.IntRange(1), help="CPU threads; torch's choice by default.")(command)
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")(command)


def threat_options(eps: str | None = "8/255", norm: str | None = "linf") -> Callable[[F], F]:
    """--norm and --eps; None where the command chooses."""

    def decorate(command: F) -> F:
        command = click.option("--eps", default=eps, show_default=eps is not None, help="Size, in pixels of [0, 1].")(
            command
        )
        choice = click.Choice(["linf", "l2"])
        return click.option(
            "--norm", default=norm, show_default=norm is not None, type=choice, help="Of the perturbations."
        )(command)

    return decorate


def preprocessing_options(command: F) -> F:
    """--mean, --std, --input-size, --layout and --range; `chosen_preprocessing` turns them into a `Preprocessing`."""
    for option in (
        click.option(
            "--range",
            "pixel_range",
            type=click.Choice(["1", "255"]),
            help="Value of a white pixel in the model's input; 1 by default.",
        ),
        click.option(
            "--layout",
            type=click.Choice(["nchw", "nhwc"]),
            help="Place of the channels in the model's input; nchw, or what an ONNX file says, by default.",
        ),
        click.option(
            "--input-size", help="224 or HEIGHTxWIDTH: resize images to it inside the model; eps stays in data pixels."
        ),
        click.option("--std", help="Three numbers R,G,B in units of --range that the model's input is divided by."),
        click.option("--mean", help="Three numbers R,G,B in units of --range subtracted from the model's input."),
    ):
        command = option(command)
    return command


def chosen_preprocessing(
    mean: str | None, std: str | None, input_size: str | None, layout: str | None, pixel_range: str | None
) -> Preprocessing | None:
    """What `preprocessing_options` say about a model's input, None if no option was given.

    Raises:
        UsageError: see `Preprocessing`.
    """
    return Preprocessing.parse(mean=mean, std=std, input_size=input_size, layout=layout, range=pixel_range)


def budget_options(command: F) -> F:
    """--time-budget and --resume."""
    command = click.option("--resume", is_flag=True, help="Continue the run that is there already.")(command)
    return click.option("--time-budget", type=DURATION, help="Stop resumably (exit code 3) after 90s, 10m, 1h30m, ...")(
        command
    )


image_size_option = click.option(
    "--image-size",
    type=IMAGE_SIZE,
    metavar="N|HxW",
    help="Bring the data's images to 32 or HEIGHTxWIDTH: padded if a little smaller, else scaled and cropped.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on standard output.")


def fetched(ref: str) -> str:
    """A model reference to resolve once: the folder of one on the Hub, brought here; any other as it is."""
    from ..engine.progress import Lines
    from ..hub import client

    if not client.is_hub(ref):
        return ref
    from ..hub.download import download

    return str(download(ref, reporter=Lines()))


@contextmanager
def computing(threads: int | None) -> Iterator[None]:
    """The block computes with so many CPU threads, and keeps the memory it frees."""
    from ..engine.device import threads as limit
    from ..engine.memory import keep_freed_memory

    keep_freed_memory()
    with limit(threads):
        yield


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first row a header; numbers (all columns but the first) to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if index == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def percent(value: float) -> str:
    """`81.2 %`."""
    return f"{100 * value:.1f} %"
