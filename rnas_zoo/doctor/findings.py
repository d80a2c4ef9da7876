"""What an examination found, and the table of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination: `warning` works but not as expected, `problem` does not work; `fix` mends it."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def render(findings: Iterable[Finding], width: int = 110) -> str:
    """The findings as a plain-text table `width` columns wide, each fix on one line (never broken), then a count."""
    findings = list(findings)
    column = max((len(finding.name) for finding in findings), default=0)
    margin = " " * (column + 11)
    lines = []
    for finding in findings:
        room = max(width - len(margin), 30)
        first, *rest = textwrap.wrap(finding.detail, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{finding.status:<9}{finding.name:<{column}}  {first}".rstrip())
        lines += [margin + line for line in rest]
        if finding.fix:
            lines.append(f"{margin}fix: {finding.fix}")
    counts = {word: sum(finding.status == word for finding in findings) for word in ("problem", "warning")}
    return "\n".join([*lines, "", ", ".join(f"{n or 'no'} {word}{'s' * (n != 1)}" for word, n in counts.items())])
