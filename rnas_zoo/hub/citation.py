"""Which paper an architecture comes from, as BibTeX; the papers stand in docs/papers.json."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .. import resources
from ..errors import DataError
from ..genotype import Genotype

FIELDS = ("author", "title", "booktitle", "year", "note", "url")


def references(path: Path | None = None) -> list[dict[str, Any]]:
    """The papers of docs/papers.json: each with `methods` (of searches) or `architectures` (patterns of names), and
    what is known of key, author, title, booktitle, year, eprint (arXiv), note and url.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = path or resources.folder("docs") / "papers.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["references"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable file of papers ({error!r})") from error


def reference(architecture: str, found: Genotype | None) -> dict[str, Any] | None:
    """The paper of a searched architecture's method, or of a hand-designed one; None if the file has none."""
    for each in references():
        if found is not None and found.provenance.get("method") in each.get("methods", ()):
            return each
        if found is None and any(fnmatch(architecture, pattern) for pattern in each.get("architectures", ())):
            return each
    return None


def bibtex(paper: dict[str, Any]) -> str:
    """A BibTeX entry of what is known of a paper."""
    known = {name: paper[name] for name in FIELDS if name in paper}
    if "eprint" in paper:
        known |= {"eprint": paper["eprint"], "archivePrefix": "arXiv"}
    kind = "inproceedings" if "booktitle" in paper else "misc"
    lines = [f"  {name} = {{{value}}}" for name, value in known.items()]
    return f"@{kind}{{{paper['key']},\n" + ",\n".join(lines) + "\n}"


def sentence(found: Genotype | None) -> str:
    """What the paper is to the model."""
    if found is None:
        return "The architecture is that of this paper; the weights are ours:"
    if "cost" in found.provenance:
        return "The architecture was found by our implementation of this paper's method:"
    return "The architecture is this paper's; the weights are ours:"
