"""The command `rnas-zoo`: one file per command, each a thin shell over the Python API."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from .. import __version__
from ..errors import RnasZooError
from ..files import no_room

COMMANDS = {
    "demo": "The whole line on handwritten digits in under five minutes.",
    "list": "Models and genotypes.",
    "draw": "Draw an architecture as SVG or PNG.",
    "search": "Search an architecture.",
    "train": "Train a network.",
    "package": "Turn a training run into a release folder.",
    "verify": "Measure clean and robust accuracy of any model.",
    "export": "Export a model to ONNX.",
    "predict": "Classify images with an ONNX file, without torch.",
    "bench": "Measure how long models take, beside what they are worth.",
    "card": "Write or check a release folder's card.",
    "download": "Bring a release folder from the Hub.",
    "publish": "Put a release folder on the Hub.",
    "site": "Write a leaderboard of models as a static site.",
    "doctor": "Examine this installation.",
}
INTERNAL_ERROR = 70


class _Commands(click.Group):
    """Imports a command's module only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}_command", __name__)
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rnas-zoo")
def group() -> None:
    """Robust architectures found by search: models, ONNX files, and claims that re-verify themselves.

    A model REF is a timm name, a release folder, the folder of a finished training, hf-hub:owner/name, an .onnx
    file, or path/file.py:function.
    """


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code.

    0 success, 1 a check failed, 2 wrong use or bad input, 3 stopped at the time budget, 70 internal error, 128 + n
    after signal n.
    """
    try:
        result: Any = group.main(args=arguments, prog_name="rnas-zoo", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except RnasZooError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if reason := no_room(error):
            where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            sys.stderr.write(f"error: {where}{reason}. Make room, or write elsewhere.\n")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left for it is lost
            return RnasZooError.exit_code
        traceback.print_exc()
        sys.stderr.write("internal error: please report the lines above together with `rnas-zoo doctor`\n")
        return INTERNAL_ERROR
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
