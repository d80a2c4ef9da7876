"""Finished pieces of a verification on disk, so that a killed one continues where it was."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_arrays
from ..errors import CheckpointError
from ..files import atomic_path, is_leftover, read_json, write_json

Part = dict[str, np.ndarray]


class Store:
    """A folder with the identity of one verification and one file per finished piece of it.

    Args:
        folder: created if it is not there.
        identity: what must be equal for pieces to fit together.

    Raises:
        CheckpointError: the folder belongs to another verification, or is damaged.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder)
        path = self.folder / "verification.json"
        identity = json.loads(json.dumps(identity))
        if not path.exists():
            others = [p.name for p in self.folder.iterdir() if not is_leftover(p)] if self.folder.is_dir() else []
            if others and not path.exists():  # else another process has just begun the same
                raise CheckpointError(f"{folder} holds other files ({others[0]}); give --resume an empty or new folder")
            write_json(path, identity)
            return
        try:
            found = read_json(path)
            differing = [key for key in {**identity, **found} if identity.get(key) != found.get(key)]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); remove {folder} and begin anew") from error
        if differing:
            key = differing[0]
            raise CheckpointError(
                f"{folder} belongs to another verification: {key} is {found.get(key)!r} there and "
                f"{identity.get(key)!r} here; give --resume another folder"
            )

    def write(self, order: int, stage: str, part: Part) -> None:
        """Keep a finished piece; `order` is the place of its stage in the protocol."""
        rows = part["rows"]
        name = f"{order:02d}.{stage}.{rows[0]:07d}-{zlib.crc32(rows.tobytes()):08x}.npz"
        with atomic_path(self.folder / name) as temporary, open(temporary, "wb") as file:
            np.savez(file, **part, arrays=np.array(sorted(part)))  # type: ignore[arg-type]

    def read(self) -> list[tuple[str, Part]]:
        """All pieces as (stage, part), in the protocol's order.

        Raises:
            CheckpointError: a piece is damaged.
        """
        found = []
        for path in sorted(self.folder.glob("*.npz")):
            if is_leftover(path):
                continue
            try:
                arrays = read_arrays(path)
                part = {str(key): arrays[str(key)] for key in arrays["arrays"]}
                found.append((path.name.split(".")[1], part))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{path} is damaged ({error}); remove it to attack its images again") from error
        return found
