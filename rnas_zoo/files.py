"""Files appear whole or not at all: written beside their target under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputExistsError, OutputNotWritableError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it onto `target` if the block succeeds.

    Raises:
        OutputNotWritableError: the folder cannot be created or written, the disk is full, or `target` is a folder or
            device. What was there before is still there.
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
    except Exception as error:
        if no_room(error):
            raise _no_room(target, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `target` if the block succeeds.

    Raises:
        OutputExistsError: `target` exists and `overwrite` is false.
        OutputNotWritableError: the parent folder cannot be created or written, or the disk is full.
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
        if not (overwrite and os.path.lexists(target)):
            _appear(temporary, target)
        else:
            _swap(temporary, target)
    except Exception as error:
        if no_room(error):
            raise _no_room(target, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _appear(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target`, which must not be there: another process may have been faster."""
    if os.path.lexists(target):
        raise _exists(target)
    try:
        os.replace(new, target)
    except OSError as error:
        raise (_exists(target) if os.path.lexists(target) else _not_writable(target, error)) from error


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


def _no_room(target: Path, error: Exception) -> OutputNotWritableError:
    fix = f"Make room in {target.parent}, or choose another output path; what was there before is unchanged."
    return OutputNotWritableError(f"cannot write {target}: {no_room(error)}. {fix}")


def no_room(error: BaseException | None) -> str | None:
    """The system's words where an error comes of a full or read-only disk, a quota or a limit of a file's size."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OutputNotWritableError):  # of a file inside the folder that is written
        return no_room(error.__cause__)
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"(?:os error|code:) (\d+)", str(error))):
        number = int(found[1])
    return os.strerror(number) if number in NO_ROOM else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: str | Path, text: str) -> None:
    """Add a line to a text file in UTF-8, or leave the file as it was.

    Raises:
        OutputNotWritableError: it cannot be written, or the disk is full.
    """
    left = f"{text}\n".encode()
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise (_no_room if no_room(error) else _not_writable)(Path(path), error) from error


@contextlib.contextmanager
def exclusive(folder: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder, made if it is not there, alone among the processes of this machine that ask for it.

    Where the system has no such locks (Windows, some network disks) nothing is held. It is not re-entrant.

    Raises:
        OutputNotWritableError: it cannot be made, or, with `wait` false, another process holds it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        import fcntl
    except ImportError:
        yield
        return
    except OSError as error:
        raise _not_writable(Path(folder), error) from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise OutputNotWritableError(
                f"{folder} is in use by another process. Wait until it has ended, or choose another output path."
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file in UTF-8.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: no JSON, nested too deeply, or with an integer of thousands of digits.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
