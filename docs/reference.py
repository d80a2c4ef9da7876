"""Write docs/reference/ from the code: the command line from click, the Python interface from its docstrings.

python docs/reference.py            # writes cli.md and api.md
python docs/reference.py --check    # exit code 1 if a page is out of date
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
GENERATED = "This page is generated from the code by `make docs`; change the code's own texts, not this page."
SEARCH = ("attack", "gradients", "average", "unrolled", "update", "expected", "expected_at_start")
SECTIONS = (  # title, package whose whole __all__ is shown, further names
    ("The package", "rnas_zoo", ""),
    ("What these functions take", "", "searching.config.SearchConfig searching.run.configured "
     "training.config.TrainConfig training.config.model_for training.config.read_recipe deploy.form.Form hub.zoo.Query "
     "hub.download.fetch subject.Subject engine.progress.Reporter"),
    ("What they return", "", "verification.run.Report hub.publish.Published hub.download.Downloaded genotype.Genotype "
     "genotype.Cells genotype.Cell genotype.Edge genotype.DenseCells genotype.Channels genotype.Stage"),
    ("Genotypes", "", "genotype.load genotype.named genotype.names genotype.resolve genotype.from_json"),
    ("Attacks", "rnas_zoo.attacks", ""),
    ("Search methods of your own", "", "searching.methods.Method searching.task.SearchTask searching.methods.find "
     "searching.methods.build"),
    ("A local Hub for tests", "", "testing.hub.LocalHub testing.hub.usage testing.faults.Fault"),
)  # fmt: skip


def escaped(text: str) -> str:
    """Text as Markdown shows it, code spans as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(?<!\w)_|_(?!\w)|[*<]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def prose(text: str) -> str:
    """Paragraphs and lists of a docstring or of click's help as Markdown; what follows \\b is shown as it stands."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        first, _, rest = paragraph.partition("\n")
        if first == "\b" or first.startswith("    "):
            found.append(f"```text\n{rest or first.strip()}\n```")
        elif first.startswith("* "):
            items = [" ".join(item.split()) for item in re.split(r"^\s*\* ", paragraph, flags=re.M) if item.strip()]
            found.append("\n".join(f"- {escaped(item)}" for item in items))
        else:
            found.append(escaped(" ".join(paragraph.split())))
    return "\n\n".join(found)


def markdown(doc: str | None) -> str:
    """A docstring as Markdown; its Args, Attributes and Raises as lists, an Example as code."""
    head, *parts = re.split(r"^(Args|Attributes|Returns|Raises|Example):\n", inspect.cleandoc(doc or ""), flags=re.M)
    found = [prose(head)]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        body = inspect.cleandoc("\n" + body)
        entries = [" ".join(entry.split()).partition(": ") for entry in re.split(r"\n(?! )", body)]
        shown = "\n\n" + "\n".join(f"- `{key}`: {escaped(text)}" for key, _, text in entries)
        found.append(f"**{name}:** {prose(body)}" if name == "Returns" else f"**{name}:**{shown}")
        if name == "Example":
            found[-1] = f"```python\n{body}\n```"
    return "\n\n".join(found)


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells))


def value_of(param: dict[str, Any]) -> str:
    """What an option takes, such as `8|16` or `INTEGER >= 1`."""
    kind = param["type"]
    text = param["metavar"] or "|".join(kind.get("choices", ())) or kind["name"].upper().removesuffix(" RANGE")
    bounds = [f" {sign} {kind[key]}" for key, sign in (("min", ">="), ("max", "<=")) if kind.get(key) is not None]
    return f"`{text}{''.join(bounds)}`" + ", repeatable" * param["multiple"]


def command_page(name: str, command: click.Command) -> str:
    usage, rows = " ".join(["rnas-zoo", name, *command.collect_usage_pieces(click.Context(command))]), []
    for param in [each for each in command.params if isinstance(each, click.Option)]:
        info: dict[str, Any] = param.to_info_dict() | {"metavar": param.metavar}
        names = ", ".join(f"`{text}`" for text in [*info["opts"], *info["secondary_opts"]])
        default = "" if info["is_flag"] or info["default"] is None else f"`{info['default']}`"
        meaning = escaped(info["help"] or "") + " Required." * info["required"]
        rows.append([names, "" if info["is_flag"] else value_of(info), default, meaning])
    rows.append(["`-h`, `--help`", "", "", "Show the command's help and exit."])
    options = table(["option", "value", "default", "meaning"], rows)
    return "\n\n".join([f"## rnas-zoo {name}", f"```text\n{usage}\n```", markdown(command.help), options])


def cli_page() -> str:
    from rnas_zoo import cli

    links = [[f"[`{name}`](#rnas-zoo-{name})", escaped(text)] for name, text in cli.COMMANDS.items()]
    codes = re.findall(r"(128 \+ n|\d+)\s+(.+?)[,.]", (cli.run.__doc__ or "").partition("\n\n")[2])
    top = ["# Command line", GENERATED, markdown(cli.group.help), table(["command", "what it does"], links)]
    top += ["`rnas-zoo --version` names the version.", "## Exit codes", table(["code", "meaning"], codes)]
    found = [(name, cli.group.get_command(click.Context(cli.group), name)) for name in cli.COMMANDS]
    return "\n\n".join([*top, *(command_page(name, command) for name, command in found if command)]) + "\n"


def signature(name: str, found: Any) -> str:
    """`name(...)` as it is written in the code: annotations as text, fractions as fractions."""
    if getattr(found, "_is_protocol", False):
        return f"class {name}"
    own, texts = inspect.signature(found), list[str]()
    for param in [each for each in own.parameters.values() if each.name not in ("self", "cls")]:
        if param.kind is param.KEYWORD_ONLY and "*" not in texts:
            texts.append("*")
        default = "" if param.default is param.empty else f" = {param.default!r}".replace("<factory>", "{}")
        if isinstance(param.default, float) and len(default) > 12:
            default = " = {} / {}".format(*Fraction(param.default).limit_denominator(1000).as_integer_ratio())
        texts.append(f"{param.name}: {param.annotation}{default}")
    end = "" if inspect.isclass(found) or own.return_annotation is own.empty else f" -> {own.return_annotation}"
    line = f"{name}({', '.join(texts)}){end}"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {text},\n" for text in texts) + f"){end}"


def members(found: Any) -> Iterator[tuple[str, Any]]:
    """Name and function of public methods and properties, in the order of the code; of a search what methods use."""
    for base in [each for each in getattr(found, "__mro__", ()) if each.__module__.startswith("rnas_zoo")]:
        for name, value in vars(base).items():
            value = getattr(value, "__func__", value)
            shown = name in SEARCH if found.__name__ == "SearchTask" else not name.startswith("_")
            if shown and (inspect.isfunction(value) or isinstance(value, property | cached_property)):
                yield name, getattr(value, "fget", None) or getattr(value, "func", value)


def objects() -> dict[str, tuple[str, Any]]:
    """Section and object of every class and function on the page, by dotted name; each once."""
    found: dict[str, tuple[str, Any]] = {}
    for section, package, names in SECTIONS:
        offered = [f"{package}.{each}" for each in importlib.import_module(package).__all__] if package else []
        for name in [*offered, *(f"rnas_zoo.{each}" for each in names.split())]:
            value = getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
            if callable(value) and not any(value is known for _, known in found.values()):
                found[name] = section, value
    return found


def entry(name: str, found: Any) -> str:
    path = Path(inspect.getsourcefile(found) or "").resolve().relative_to(ROOT).as_posix()
    parts = [f"### {name}", f"```text\n{signature(name.rpartition('.')[2], found)}\n```", markdown(found.__doc__)]
    for member, function in members(found):
        called = inspect.isroutine(inspect.getattr_static(found, member))
        shown = signature(member, function) if called else f"{member}: {function.__annotations__['return']}"
        parts += [f"#### {found.__name__}.{member}", f"```text\n{shown}\n```", markdown(function.__doc__)]
    return "\n\n".join([*parts, f"Source: [{path}](../../{path})"])


def api_page() -> str:
    from rnas_zoo import errors

    found = ["# Python interface", GENERATED, "`rnas_zoo.__version__` is the version of the package, as text."]
    every, anchors = objects(), dict[str, str]()
    for name in every:  # GitHub counts headings that differ in case only
        earlier = sum(name.lower() == other.lower() for other in anchors)
        anchors[name] = name.lower().replace(".", "") + (f"-{earlier}" if earlier else "")
    for section, package, _ in SECTIONS:
        own = {name: value for name, (where, value) in every.items() if where == section}
        about = [markdown(importlib.import_module(package).__doc__)] if package else []
        links = ", ".join(f"[`{name.rpartition('.')[2]}`](#{anchors[name]})" for name in own)
        found += [f"## {section}", *about, links, *(entry(name, value) for name, value in own.items())]
    kinds = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.RnasZooError)]
    codes = {each: "128 + n" if "__init__" in vars(each) else str(each.exit_code) for each in kinds}
    rows = [[f"`{each.__name__}`", code, markdown(each.__doc__)] for each, code in codes.items()]
    found += ["## Errors", markdown(errors.__doc__), table(["error", "exit code", "meaning"], rows)]
    return "\n\n".join(found) + "\n"


PAGES = {"cli.md": cli_page, "api.md": api_page}


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` compare them; the exit code."""
    FOLDER.mkdir(exist_ok=True)
    texts = {FOLDER / name: page() for name, page in PAGES.items()}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if arguments == ["--check"]:
            sys.stderr.write(f"docs/reference/{path.name} is out of date: run `make docs`\n")
        else:
            path.write_text(texts[path], encoding="utf-8")
    return int(arguments == ["--check"] and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
