"""The reference pages are those of the code, complete, and the code says what its parameters mean."""

import importlib.util
import inspect
import re
from pathlib import Path

import click
import pytest

import rnas_zoo
from rnas_zoo import cli

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.fixture(scope="module")
def pages():
    return {name: (reference.FOLDER / name).read_text(encoding="utf-8") for name in reference.PAGES}


@pytest.fixture(scope="module")
def documented():
    """Dotted name, function or class, and all text that says what its parameters mean."""
    return list(explained())


def explained():
    for name, (_, value) in reference.objects().items():
        shared = importlib.import_module("rnas_zoo.attacks").__doc__ if ".attacks." in name else ""
        yield name, value, f"{value.__doc__}\n{shared}"
        for member, function in reference.members(value):
            yield f"{name}.{member}", function, f"{function.__doc__}\n{value.__doc__}"


def parameters(value):
    if getattr(value, "_is_protocol", False):
        return []
    return [each for each in inspect.signature(value).parameters.values() if each.name not in ("self", "cls")]


def test_pages_are_what_the_code_says(capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_differs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {"cli.md": lambda: "new\n", "api.md": lambda: "same\n"})
    (tmp_path / "cli.md").write_text("old\n")
    (tmp_path / "api.md").write_text("same\n")
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/reference/cli.md is out of date: run `make docs`\n"
    assert (tmp_path / "cli.md").read_text() == "old\n"


def test_the_command_line_does_not_depend_on_the_terminal(pages, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert reference.cli_page() == pages["cli.md"]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_option_of_a_command_is_on_the_page_and_says_what_it_does(pages, name):
    command = cli.group.get_command(click.Context(cli.group), name)
    part = re.search(rf"^## rnas-zoo {name}\n(.*?)(?=^## |\Z)", pages["cli.md"], re.M | re.S)[1]
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in part.splitlines() if row.startswith("| `-")}
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert len(rows) == len(options) + 1  # and --help
    for option in options:
        row = rows[", ".join(f"`{text}`" for text in [*option.opts, *option.secondary_opts])]
        assert option.help, f"{option.opts} has no help"
        assert re.sub(r"[`\\]", "", row).count(re.sub(r"[`\\]", "", option.help)) == 1
        if isinstance(option.default, int | float | str) and not isinstance(option.default, bool):
            assert f"| `{option.default}` |" in row
    for argument in set(command.params) - set(options):
        assert (argument.metavar or argument.name.upper()) in part.splitlines()[2]


def test_every_exit_code_is_on_the_page(pages):
    table = pages["cli.md"].partition("## Exit codes")[2].partition("##")[0]
    assert re.findall(r"^\| (\d[\d +n]*) \|", table, re.M) == ["0", "1", "2", "3", "70", "128 + n"]


def test_every_public_name_is_on_the_page(pages):
    for name in rnas_zoo.__all__:
        assert f"### rnas_zoo.{name}\n" in pages["api.md"] or f"`rnas_zoo.{name}`" in pages["api.md"], name


def test_what_methods_may_use_of_a_search_is_on_the_page(pages):
    from rnas_zoo.searching.methods import Method
    from rnas_zoo.searching.task import SearchTask

    named = set(re.findall(r"`?(\w+)\(", Method.__doc__)) & set(dir(SearchTask))
    assert named <= set(reference.SEARCH)
    for name in reference.SEARCH:
        assert f"#### SearchTask.{name}\n" in pages["api.md"]


def test_everything_public_has_a_docstring(documented):
    made = [
        name for name, value, _ in documented if not value.__doc__ or re.match(rf"{value.__name__}\(", value.__doc__)
    ]
    assert made == []


def test_every_parameter_is_explained(documented):
    missing = {
        name: left
        for name, value, text in documented
        if (left := [each.name for each in parameters(value) if not re.search(rf"(?<!\w){each.name}(?!\w)", text)])
    }
    assert missing == {}


def test_arrays_have_shapes_and_durations_have_units(documented):
    lacking = []
    for name, value, text in documented:
        for each in parameters(value):
            array = re.search(r"Tensor|ndarray", str(each.annotation)) and "Callable" not in str(each.annotation)
            if array and not re.search(r"\([A-Z]*,|without dimensions|any shape|shaped like", text):
                lacking.append(f"{name}: no shape of {each.name}")
            if re.search(r"seconds|time_budget", each.name) and not re.search(r"\bseconds\b(?!`)", text):
                lacking.append(f"{name}: no unit of {each.name}")
    assert lacking == []
