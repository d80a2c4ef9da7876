"""Where the data folders of the project are: in the checkout if there is one, else inside the installed package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@cache
def folder(name: str) -> Path:
    """The folder `genotypes`, `recipes` or `model_cards`; it may not exist (nothing bundled)."""
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return PACKAGE / "_data" / name


def commit() -> str | None:
    """The git commit of the checkout this code runs from; None outside one."""
    import subprocess

    try:
        found = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if (PACKAGE.parent / "pyproject.toml").is_file() else None
