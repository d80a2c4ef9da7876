"""Run folders: `run.json` says what the run is and how far it got, `record.jsonl` what it measured on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError, OutputExistsError
from ..files import is_leftover, write_json, write_text

CHECKPOINT = "checkpoint.safetensors"


class RunFolder:
    """A run's folder: created once, reopened only by the same configuration.

    Args:
        path: the folder.
        kind: `train` or `search`.
        config: the run's frozen configuration as JSON values.
        resume: continue a run that is there already.

    Raises:
        OutputExistsError: the folder exists and `resume` is false.
        CheckpointError: the folder holds a different run.
    """

    def __init__(self, path: str | Path, kind: str, config: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        known = self.path / "run.json"
        if known.is_file():
            self.info = read_run(self.path)
            if not resume:
                raise OutputExistsError(
                    f"{self.path} holds a run already. Add --resume to continue it, or choose another -o."
                )
            if self.info["kind"] != kind or self.info["config"] != json.loads(json.dumps(dict(config))):
                changed = [k for k in config if json.loads(json.dumps(config[k])) != self.info["config"].get(k)]
                differing = ", ".join(changed) or self.info["kind"]
                raise CheckpointError(f"{self.path} holds another run ({differing} differ). Choose another -o.")
        elif self.path.exists() and (not self.path.is_dir() or not all(map(is_leftover, self.path.iterdir()))):
            raise OutputExistsError(f"{self.path} exists and is no run folder. Choose another -o.")
        else:
            self.info = {
                "schema": 1,
                "kind": kind,
                "version": __version__,
                "status": "new",
                "steps_done": 0,
                "seconds": 0.0,
            }
            self.info["config"] = json.loads(json.dumps(dict(config)))
            self._save()

    def _save(self) -> None:
        write_json(self.path / "run.json", self.info)

    def update(self, **values: Any) -> None:
        """Write values into run.json."""
        self.info.update(values)
        self._save()

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def finished(self) -> bool:
        return self.info["status"] == "finished"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to record.jsonl."""
        with open(self.path / "record.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop recorded rows of steps a resumed run will take again, and a half-written last line."""
        path = self.path / "record.jsonl"
        if path.is_file():
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step))

    def rows(self) -> list[dict[str, Any]]:
        """The recorded rows, without a half-written last line."""
        path = self.path / "record.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows


def read_run(path: str | Path) -> dict[str, Any]:
    """The content of a run folder's run.json.

    Raises:
        CheckpointError: no run folder, or a damaged one.
    """
    file = Path(path) / "run.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a run folder: it has no run.json") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged ({error}). Remove the run folder and start again.") from error
    if not isinstance(info, dict) or info.get("schema") != 1 or "config" not in info:
        raise CheckpointError(f"{file}: not written by this release of rnas-zoo")
    return info
