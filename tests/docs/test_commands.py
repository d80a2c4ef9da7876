"""Every `rnas-zoo` command of a page, also of blocks that the tests do not run, has the options that it names."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from rnas_zoo.cli import COMMANDS, group

from .pages import ROOT, load, pages

runner = load("run")
PAGES = pages("README.md", "docs/**/*.md", "recipes/README.md", "model_cards/README.md", "CONTRIBUTING.md")
START = re.compile(r"(?<![\w./-])(?:rnas-zoo|-m rnas_zoo) ")
VALUE = "1m"  # of a variable of the shell: a duration as well as a name


def commands(text: str) -> list[list[str]]:
    """The arguments of the commands of a shell script, without what the shell does with them."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for part in re.split(r"\|\|?|&&|;", re.sub(r"\$\([^)]*\)|\$\w+", VALUE, line)):
            if start := START.search(part):
                words = shlex.split(part[start.end() :], comments=True)
                ends = [index for index, word in enumerate(words) if word.startswith((">", "2>"))]
                found.append(words[: ends[0]] if ends else words)
    return found


def parse(arguments: list[str]) -> None:
    """Read the arguments of a command without running it."""
    context = click.Context(group, info_name="rnas-zoo")
    if arguments and arguments[0] in COMMANDS and "--help" not in arguments:
        command = group.get_command(context, arguments[0])
        assert command is not None
        command.make_context(arguments[0], arguments[1:], parent=context)
    else:
        assert arguments[:1] in (["--help"], ["--version"]) or "--help" in arguments


def test_commands_are_found_in_scripts():
    script = (
        'for a in 1 2; do\n  rnas-zoo list \\\n    --json > x || true; torchrun -m rnas_zoo verify "a b" $a\ndone\n'
    )
    assert commands(script) == [["list", "--json"], ["verify", "a b", VALUE]]
    assert commands("python docs/rnas-zoo x\nls # rnas-zoo") == []


@pytest.mark.parametrize("arguments", [["list", "--jsn"], ["verify", "m", "--n", "x"], ["lst"]])
def test_wrong_commands_are_refused(arguments):
    with pytest.raises((click.UsageError, AssertionError)):
        parse(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_have_the_options_they_name(page):
    scripts = [
        block.code for block in runner.blocks((ROOT / page).read_text(encoding="utf-8")) if block.language == "sh"
    ]
    for arguments in (each for script in scripts for each in commands(script)):
        try:
            parse(arguments)
        except click.UsageError as error:
            raise AssertionError(f"{page}: rnas-zoo {shlex.join(arguments)}: {error.format_message()}") from error
