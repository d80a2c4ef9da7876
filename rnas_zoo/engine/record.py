"""Run folders: `run.json` says what the run is and how far it got, `record.jsonl` what it measured on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError, OutputExistsError, RnasZooError
from ..files import append_line, is_leftover, read_json, write_json, write_text
from . import distribution

CHECKPOINT, RUN, RECORD = "checkpoint.safetensors", "run.json", "record.jsonl"


class RunFolder:
    """A run's folder: created once, reopened only by the same configuration.

    Under torchrun only rank 0 opens, checks and writes it; the others wait until it has, and share its information.

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
        outcome: dict[str, Any] | RnasZooError = {}
        if distribution.main():
            try:
                outcome = self._opened(kind, json.loads(json.dumps(dict(config))), resume)
            except RnasZooError as error:
                outcome = error
        outcome = distribution.gather(outcome)[0]
        if isinstance(outcome, RnasZooError):
            raise outcome
        self.info: dict[str, Any] = outcome

    def _opened(self, kind: str, config: dict[str, Any], resume: bool) -> dict[str, Any]:
        """The content of run.json, which is there afterwards."""
        known = self.path / RUN
        if known.is_file():
            info = read_run(self.path)
            if not resume:
                raise OutputExistsError(
                    f"{self.path} holds a run already. Add --resume to continue it, or choose another -o."
                )
            if info["kind"] != kind or info["config"] != config:
                changed = [name for name in config if config[name] != info["config"].get(name)]
                differing = ", ".join(changed) or info["kind"]
                raise CheckpointError(f"{self.path} holds another run ({differing} differ). Choose another -o.")
            return info
        if self.path.exists() and (not self.path.is_dir() or not all(map(is_leftover, self.path.iterdir()))):
            raise OutputExistsError(f"{self.path} exists and is no run folder. Choose another -o.")
        info = {"schema": 1, "kind": kind, "version": __version__, "status": "new", "steps_done": 0}
        info |= {"seconds": 0.0, "cpu_seconds": 0.0, "config": config}
        write_json(known, info)
        return info

    def update(self, **values: Any) -> None:
        """Write values into run.json."""
        self.info.update(values)
        if distribution.main():
            write_json(self.path / RUN, self.info)

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def finished(self) -> bool:
        return self.info["status"] == "finished"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to record.jsonl."""
        if distribution.main():
            append_line(self.path / RECORD, json.dumps(dict(row)))

    def forget_after(self, step: int) -> None:
        """Drop recorded rows of steps a resumed run will take again, and a half-written last line."""
        path = self.path / RECORD
        if distribution.main() and path.is_file():
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step))

    def rows(self) -> list[dict[str, Any]]:
        """The recorded rows, without a half-written last line."""
        path = self.path / RECORD
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                break
        return rows


def read_run(path: str | Path) -> dict[str, Any]:
    """The content of a run folder's run.json.

    Raises:
        CheckpointError: no run folder, or a damaged one.
    """
    file = Path(path) / RUN
    try:
        info = read_json(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a run folder: it has no run.json") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged ({error}). Remove the run folder and start again.") from error
    if not isinstance(info, dict) or info.get("schema") != 1 or not isinstance(info.get("config"), dict):
        raise CheckpointError(f"{file}: not written by this release of rnas-zoo")
    return info


def is_run(path: str | Path) -> bool:
    """Whether a folder is that of a run, and no release folder."""
    return (Path(path) / RUN).is_file() and not (Path(path) / "config.json").exists()


def finished_training(path: str | Path) -> dict[str, Any]:
    """The run.json of the folder of a finished training run.

    Raises:
        CheckpointError: it is another kind of run, or not finished.
    """
    info = read_run(path)
    if info.get("kind") != "train" or info.get("status") != "finished":
        raise CheckpointError(
            f"{path} is no finished training run (it is {info.get('kind')}, {info.get('status')}); rnas-zoo train with "
            "--resume finishes one that has stopped"
        )
    return info
