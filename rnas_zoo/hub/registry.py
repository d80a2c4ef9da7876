"""The registry's list of weights that `publish` has put on the Hub and found there again: `model_cards/published.json`.

{"schema": 1, "models": {"<architecture.tag>": {"repo": "owner/name", "commit": "<40 hex>", "digest": "<64 hex>"}}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import resources
from ..errors import DataError
from ..files import exclusive, read_json, write_json
from ..models.weights import PUBLISHED, PUBLISHED_SCHEMA


def holds(folder: Path) -> bool:
    """Whether a release folder is one of the registry's."""
    return folder.resolve().parent == resources.folder("model_cards").resolve()


def references() -> dict[str, Any]:
    """What the list says, by `architecture.tag`; empty if nothing was published.

    Raises:
        DataError: the list is damaged or written by a newer release.
    """
    path = resources.folder("model_cards") / PUBLISHED
    try:
        value = read_json(path)
        if value["schema"] != PUBLISHED_SCHEMA or not isinstance(value["models"], dict):
            raise ValueError(f"schema {value['schema']}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no list of schema {PUBLISHED_SCHEMA} ({error!r}): restore it, or update") from error
    return value["models"]


def record(name: str, repo: str, commit: str, digest: str, pretrained_cfg: dict[str, Any]) -> None:
    """Write one reference into the list; those of other models stay.

    Raises:
        DataError: see `references`. OutputNotWritableError: the file cannot be written.
    """
    entry = {"repo": repo, "commit": commit, "digest": digest, "pretrained_cfg": pretrained_cfg}
    folder = resources.folder("model_cards")
    with exclusive(folder):
        models = {**references(), name: entry}
        ordered = {key: models[key] for key in sorted(models)}
        write_json(folder / PUBLISHED, {"schema": PUBLISHED_SCHEMA, "models": ordered})
