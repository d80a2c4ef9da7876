"""Files appear whole or not at all: written beside their target under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputExistsError, OutputNotWritableError


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it onto `target` if the block succeeds.

    Raises:
        OutputNotWritableError: the folder cannot be created or written, or `target` is a folder or device.
    """
    target = Path(target)
    try:
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "not a regular file"
            raise OutputNotWritableError(f"cannot write {target}: it is {what}. Choose the path of a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp" + target.suffix, dir=target.parent)
    except OutputNotWritableError:
        raise
    except OSError as error:
        raise _not_writable(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _not_writable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `target` if the block succeeds.

    Raises:
        OutputExistsError: `target` exists and `overwrite` is false.
        OutputNotWritableError: the parent folder cannot be created or written.
    """
    target = Path(target)
    try:
        if os.path.lexists(target) and not overwrite:
            raise _exists(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OutputExistsError:
        raise
    except OSError as error:
        raise _not_writable(target, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if not os.path.lexists(target):
            os.replace(temporary, target)
        elif overwrite:
            _swap(temporary, target)
        else:
            raise _exists(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; if that fails, `target` is what it was."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        os.replace(target, aside / "old")
        try:
            os.replace(new, target)
        except OSError:
            os.replace(aside / "old", target)
            raise
    except OSError as error:
        raise _not_writable(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exists(target: Path) -> OutputExistsError:
    return OutputExistsError(f"{target} exists already and was left as it is. Choose another -o, or remove it first.")


def _not_writable(target: Path, error: OSError) -> OutputNotWritableError:
    return OutputNotWritableError(
        f"cannot write {target}: {error.strerror or error}. Choose an output path you may write to."
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_readable(folder: str | Path) -> None:
    """Give every file under a folder the permissions that new files get (some writers make private ones)."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~_umask())


def is_leftover(path: Path) -> bool:
    """Whether a path is a temporary one of ours, left by a process that was killed while it wrote."""
    return path.name.startswith(".") and ".tmp" in path.suffixes
