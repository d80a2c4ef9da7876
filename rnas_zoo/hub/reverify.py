"""Whether a release folder is what its card says, as far as can be told before anything is attacked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckFailedError, RnasZooError
from ..verification import evidence
from ..verification.folder_check import check_files
from . import card

README = "README.md"
FIGURE = re.compile(r"\d+\.\d+(?= %)")


@dataclass(frozen=True)
class Findings:
    """What was found in a release folder.

    Attributes:
        problems: what refutes its card.
        notes: what could not be compared, and why; it refutes nothing.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(folder: str | Path) -> Findings:
    """Compare a release folder's files, evidence, golden logits, stored adversarial images and card with each other.

    Files are checked as in `folder_check.check_files`. The card must be what the evidence renders to. A card of another
    release of this package may be worded otherwise: of it the figures in the front matter must be the evidence's.

    Raises:
        DataError, WeightsError, OnnxFileError: a file cannot be read at all.
    """
    folder = Path(folder)
    problems, runs = check_files(folder), evidence.read(folder)[0]
    if not (folder / README).is_file():
        return Findings(problems, [f"{folder} has no {README}: there is no card to compare"])
    if problems or not runs:
        return Findings(problems)
    try:
        card.check(folder)
        return Findings()
    except CheckFailedError as error:
        written = runs[-1].get("versions", {}).get("rnas_zoo")
        return Findings([str(error)]) if written == __version__ else _of_other_release(folder, str(written))
    except (RnasZooError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        return Findings([f"{README} cannot be compared with the evidence ({error})"])


def _of_other_release(folder: Path, written: str) -> Findings:
    """The findings about a card that is not what this release renders, and need not be."""
    own, rendered = (folder / README).read_text(encoding="utf-8"), card.render(folder)
    try:
        false = sorted(_stated(own) - _stated(rendered))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        return Findings([f"the front matter of {README} cannot be read ({error})"])
    values = ", ".join(f"{value:g}" for value in false)
    problems = [f"the front matter of {README} states {values}, which the evidence does not"] if false else []
    others = sorted(set(FIGURE.findall(own)) - set(FIGURE.findall(rendered)), key=float)
    unknown = f"; figures of it that are not among ours: {', '.join(others)} %" if others else ""
    note = f"{README} was written by rnas_zoo {written}, this is {__version__}: its wording is not compared{unknown}"
    return Findings(problems, [note])


def _stated(text: str) -> set[float]:
    """The figures of a card's front matter."""
    data: Any = card.read_front_matter(text, README)
    return {float(result.metric_value) for result in data.eval_results or ()}
