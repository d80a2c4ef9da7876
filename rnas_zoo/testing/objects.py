"""What a repository of the local Hub is made of: commits, their files, and the changes that lead to the next one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class Entry:
    """A file of a commit: SHA-256 and size in bytes of its contents, whether it is stored with LFS, its git blob id."""

    sha256: str
    size: int
    lfs: bool
    git: str

    @property
    def etag(self) -> str:
        """What identifies the contents to clients: SHA-256 with LFS, else the git blob id."""
        return self.sha256 if self.lfs else self.git


@dataclass(frozen=True)
class Commit:
    """One state of a repository; `oid` is 40 hexadecimal digits, `date` is UTC in ISO 8601."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, Entry]


@dataclass(frozen=True)
class Change:
    """One line of a commit: contents (bytes), an uploaded LFS object (SHA-256), or what to delete."""

    path: str
    data: bytes | None = field(default=None, repr=False)
    sha256: str | None = None
    size: int | None = None
    folder: bool = False


def git_id(data: bytes) -> str:
    """The id git gives these bytes as a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def numbered(parent: str | None, title: str, message: str, files: dict[str, Entry]) -> Commit:
    """A commit with its id."""
    commit = Commit("", parent, title, message, now(), files)
    text = json.dumps(asdict(commit), sort_keys=True)
    return Commit(hashlib.sha1(text.encode()).hexdigest(), parent, title, message, commit.date, files)
