"""The zoo page: a static leaderboard and a page per model, written from release folders and from nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ... import __version__
from ...errors import OutputExistsError, UsageError
from ...files import atomic_folder, is_leftover, sha256_file, write_json
from ...models.weights import bundled_releases, declared_digest, published_releases
from ...verification import evidence
from ..sections import percent
from ..sections import read as read_part
from ..usage import FOLDER, claim_command
from . import markdown, plots
from .entries import SIZES, Entry, collect

SCHEMA, MANIFEST, MADE_BY = 1, "site.json", "rnas-zoo site"
STATIC = ("site.css", "site.js")
SHOWN = (".json", ".md", ".npz", ".onnx", ".png", ".safetensors", ".svg", ".toml", ".txt")  # what a release may offer
FIRST = ("model.onnx", "model.int8.onnx", "model.safetensors", "robustness.json", "verdicts.npz", "check.npz")
WHAT = {
    "model.onnx": "the network for onnxruntime",
    "model.int8.onnx": "the network in 8 bits",
    "model.safetensors": "weights for timm",
    "robustness.json": "evidence: every measurement",
    "verdicts.npz": "evidence: every image",
    "check.npz": "images and the logits expected",
    "README.md": "the card",
    "config.json": "configuration for timm",
    "genotype.json": "the architecture",
    "recipe.toml": "how it was trained",
}
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Column:
    """A column of the table; `first` is the direction that a first click sorts in."""

    key: str
    label: str
    note: str = ""
    first: str = "ascending"
    numeric: bool = True


@dataclass(frozen=True)
class File:
    """A file that a release offers: path in its folder, bytes, sha256, and what it is."""

    path: str
    bytes: int
    sha256: str
    what: str

    @property
    def size(self) -> str:
        """`1.3 MB`."""
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e6 else f"{max(1, round(self.bytes / 1e3))} kB"


def build(
    out: str | Path,
    *,
    cards: str | Path | None = None,
    web_demo: str | Path | None = None,
    latency: str | Path | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the site into the folder `out`; the same input gives the same bytes.

    `out` appears only when it is complete. Nothing in it needs a server: index.html can be opened as it is.

    Args:
        out: a folder that does not exist, or with `overwrite` a site of ours that nobody has changed.
        cards: a folder of release folders, or one release folder; the bundled ones by default.
        web_demo: the built page of export/web (`make web`), which is copied in and linked.
        latency: the JSON of `rnas-zoo bench`; by default latencies are those that the release folders tell.

    Returns:
        The names of the models shown.

    Raises:
        OutputExistsError: `out` is there and is not to be replaced.
        UsageError: there are no release folders, or `web_demo` is no built page.
        CheckFailedError, DataError: a release whose files are not what they say, or a damaged file; see `collect`.
    """
    out = Path(out).absolute()
    check_replaceable(out, overwrite)
    demo = Path(web_demo) if web_demo is not None else None
    if demo is not None and not all((demo / name).is_file() for name in ("index.html", "about.json")):
        raise UsageError(f"{demo} is no built web page: `make web` writes one into export/web/dist")
    entries = collect(cards, latency)
    with atomic_folder(out, overwrite=overwrite) as folder:
        for name in STATIC:
            shutil.copyfile(TEMPLATES / name, folder / name)
        networks = _copy_demo(demo, folder / "demo") if demo else set()
        offered = [_copy_files(entry, folder) for entry in entries]
        in_demo = [any(file.sha256 in networks for file in files) for files in offered]
        _write_pages(folder, entries, offered, demo is not None, in_demo)
        files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(_files(folder))}
        write_json(folder / MANIFEST, {"schema": SCHEMA, "made_by": MADE_BY, "files": files})
    return [entry.result.name for entry in entries]


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Nothing but a site of ours, just as we wrote it, may be replaced.

    Raises:
        OutputExistsError: naming what would be lost.
    """
    if not (out.exists() or out.is_symlink()):
        return
    advice = "Choose another -o, or remove it first."
    try:
        listed = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        ours = listed["made_by"] == MADE_BY and isinstance(listed["files"], dict) and not out.is_symlink()
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise OutputExistsError(f"{out} exists already, is no site of ours and was left as it is. {advice}")
    if not overwrite:
        raise OutputExistsError(f"{out} exists already and was left as it is: --overwrite replaces it.")
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if not path.is_dir()}
    for name, path in sorted(found.items()):
        if name != MANIFEST and (path.is_symlink() or listed["files"].get(name) != sha256_file(path)):
            raise OutputExistsError(
                f"{out} was left as it is: {name} in it is not what `{MADE_BY}` wrote and would be lost. {advice}"
            )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _copy_demo(source: Path, target: Path) -> set[str]:
    """Copy the built web page; the sha256 of the networks in it."""
    for path in sorted(_files(source)):
        if not any(part.startswith(".") for part in path.relative_to(source).parts):
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))
    return {sha256_file(path) for path in target.rglob("*.onnx")}


def _copy_files(entry: Entry, folder: Path) -> list[File]:
    """Copy what a release offers into its place in the site; the files by importance, then by name."""
    target, found = folder / "models" / entry.folder.name / "files", []
    for path in _files(entry.folder):
        name = path.relative_to(entry.folder)
        if any(part.startswith(".") for part in name.parts) or is_leftover(path) or path.suffix not in SHOWN:
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        digest, what = sha256_file(target / name), WHAT.get(name.as_posix(), "")
        found.append(File(name.as_posix(), path.stat().st_size, digest, what))
    order = {name: i for i, name in enumerate(FIRST)}
    return sorted(found, key=lambda file: ("/" in file.path, order.get(file.path, len(order)), file.path))


def _write_pages(
    folder: Path, entries: Sequence[Entry], offered: Sequence[Sequence[File]], demo: bool, in_demo: Sequence[bool]
) -> None:
    environment = _environment()
    shared = {"version": __version__, "demo": demo}
    about = {"columns": columns(entries), "entries": entries, "data": [entry.values() for entry in entries]}
    drawn = {"scatters": plots.scatters(entries), "curves": plots.curves(entries), "box": plots}
    text = environment.get_template("index.html.jinja").render(root="", **shared, **about, **drawn)
    (folder / "index.html").write_text(text, encoding="utf-8")
    bundled = {path.resolve(): name for name, path in bundled_releases().items()}
    published = published_releases()
    template = environment.get_template("model.html.jinja")
    for entry, files, shown in zip(entries, offered, in_demo, strict=True):
        hub = _on_the_hub(entry, published)
        own = {"entry": entry, "files": files, "shown_in_demo": shown, "hub": hub, "card": _card(entry, files)}
        own |= {"timm_name": bundled.get(entry.folder.resolve(), hub), "claim": _claim(entry, hub)}
        page = folder / "models" / entry.folder.name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(template.render(root="../../", **shared, **own), encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, points=points, address=address, around=around, place=place)
    return environment


def points(value: float) -> str:
    """`40.3`, of 0.403."""
    return f"{100 * value:.1f}"


def around(interval: tuple[float, float]) -> str:
    """`37.2–43.4`, of an interval in 0..1."""
    return "–".join(points(end) for end in interval)


def place(value: float) -> str:
    """A length in a drawing."""
    return f"{value:.1f}"


def address(entry: Entry) -> str:
    """Where an entry's page is, seen from the index."""
    return f"models/{quote(entry.folder.name)}/index.html"


def columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns of the table: those for which at least one entry has a value."""
    sizes = [size for size in SIZES if any(size in entry.attacked for entry in entries)]
    found = [
        Column("name", "Model", numeric=False),
        Column("dataset", "Data set", numeric=False),
        Column("threat", "Threat model", numeric=False),
        Column("robust", "Robust", "under the threat model, with its 95 % interval", "descending"),
        Column("n", "Images", "attacked", "descending"),
        Column("clean", "Clean", "", "descending"),
        *(Column(size, f"at {size.removeprefix('L∞ ')}", f"robust under {size}", "descending") for size in sizes),
        Column("parameters", "Parameters"),
        Column("macs", "MACs", "multiply-accumulates for one image, in millions"),
        Column("latency", "Latency", "median of one image with onnxruntime, float32"),
        Column("method", "Method", "the search that found the architecture", numeric=False),
        Column("status", "Status", "where the architecture comes from", numeric=False),
    ]
    return [column for column in found if column.key != "latency" or any(entry.latency for entry in entries)]


def _card(entry: Entry, files: Sequence[File]) -> Markup:
    path = entry.folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return Markup(markdown.render(text, {file.path for file in files}, "files/"))  # escaped by the renderer


def _on_the_hub(entry: Entry, published: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The reference by which just these weights can be had from the Hub."""
    found = published.get(entry.result.name)
    config = read_part(entry.folder, "config.json") or {}
    if found is None or found["digest"] != declared_digest(config.get("pretrained_cfg") or {}):
        return None
    return f"hf-hub:{found['repo']}@{found['commit']}"


def _claim(entry: Entry, hub: str | None) -> str:
    """The command that compares the release with its card."""
    return claim_command(evidence.strongest(list(entry.result.runs))[0], hub or FOLDER)
