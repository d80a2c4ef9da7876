"""A folder's files and a repository's: what differs, one commit that makes them equal, and the proof that they are."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckFailedError, HubError
from ..files import sha256_file
from .session import asking

ATTRIBUTES = ".gitattributes"  # written by the Hub when it makes a repository, and left to it
STALE = 412
PIECE = 1 << 20


@dataclass(frozen=True)
class LocalFile:
    """A file to publish: where it lies, its size in bytes, its SHA-256, and the id git would give it."""

    source: Path
    size: int
    sha256: str
    git: str


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, its SHA-256 if it is stored with LFS, the id of its git blob."""

    size: int
    sha256: str | None
    git: str

    def holds(self, file: LocalFile) -> bool:
        """Whether it has the bytes of a local file."""
        same = self.git == file.git if self.sha256 is None else self.sha256 == file.sha256
        return same and self.size == file.size


@dataclass(frozen=True)
class Remote:
    """A repository as it was read: its head, whether it is private, its files there, its tags and their commits."""

    commit: str | None
    private: bool
    files: dict[str, RemoteFile]
    tags: dict[str, str]
    branches: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a commit must do: paths inside the repository, each sorted."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.new or self.changed or self.removed)


def paths(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything under a folder that is no folder itself (links to folders are not entered), sorted, but the Hub's own
    `.gitattributes`.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != ATTRIBUTES and (path.is_symlink() or not path.is_dir()):
            yield name, path


def local_files(folder: Path) -> dict[str, LocalFile]:
    """The files of a folder by their path in it."""
    found = {}
    for name, path in paths(folder):
        if path.is_file():
            size, sha256 = path.stat().st_size, hashlib.sha256()
            git = hashlib.sha1(b"blob %d\0" % size)
            with open(path, "rb") as file:
                while piece := file.read(PIECE):
                    sha256.update(piece)
                    git.update(piece)
            found[name] = LocalFile(path, size, sha256.hexdigest(), git.hexdigest())
    return found


def read(api: Any, repo: str) -> Remote | None:
    """A repository's head; None if there is none, or none that the token may see.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with asking(f"{repo} cannot be read", repo, api.endpoint):
        try:
            info = api.repo_info(repo)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
        files = {}
        for entry in api.list_repo_tree(repo, recursive=True, revision=info.sha) if info.sha else ():
            if hasattr(entry, "blob_id"):
                lfs = entry.lfs.sha256 if entry.lfs else None
                files[entry.path] = RemoteFile(entry.size, lfs, entry.blob_id)
        refs = api.list_repo_refs(repo)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    return Remote(info.sha, bool(info.private), files, tags, tuple(branch.name for branch in refs.branches))


def plan(files: Mapping[str, LocalFile], remote: Remote | None) -> Plan:
    """What it takes to make a repository equal to local files."""
    there = {path: file for path, file in (remote.files if remote else {}).items() if path != ATTRIBUTES}
    same = {path for path in files.keys() & there.keys() if there[path].holds(files[path])}
    return Plan(
        new=tuple(sorted(files.keys() - there.keys())),
        changed=tuple(sorted((files.keys() & there.keys()) - same)),
        removed=tuple(sorted(there.keys() - files.keys())),
        unchanged=tuple(sorted(same)),
    )


def commit(api: Any, repo: str, files: Mapping[str, LocalFile], wanted: Plan, parent: str | None, title: str) -> str:
    """Carry a plan out in one commit on top of `parent`; its id. LFS objects that the Hub has already are not sent.

    Raises:
        HubError: the repository has other commits since it was read, the connection ended, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    with asking(f"{repo} cannot be written", repo, api.endpoint):
        operations: list[Any] = [CommitOperationDelete(path, is_folder=False) for path in wanted.removed]
        operations += [CommitOperationAdd(path, str(files[path].source)) for path in (*wanted.new, *wanted.changed)]
        try:
            made = api.create_commit(repo, operations, commit_message=title, parent_commit=parent)
        except HfHubHTTPError as error:
            if error.response.status_code != STALE:
                raise
            raise HubError(
                f"{repo} has been changed by someone else since it was read at {str(parent)[:12]}; nothing was "
                "overwritten. Look at what changed there, then run the same command again."
            ) from error
    return str(made.oid)


def compare(api: Any, repo: str, revision: str, files: Mapping[str, LocalFile]) -> None:
    """Download a commit into an empty cache and compare every file with the local ones, by SHA-256.

    Raises:
        CheckFailedError: naming the files that differ, are missing, or are there too many.
        HubError: they cannot be downloaded.
    """
    with tempfile.TemporaryDirectory(prefix="rnas-zoo-publish-", ignore_cleanup_errors=True) as cache:
        what = f"commit {revision[:12]} of {repo} cannot be downloaded to compare it"
        with asking(what, repo, api.endpoint):
            found = dict(paths(Path(api.snapshot_download(repo, revision=revision, cache_dir=cache))))
        problems = [f"{path} is missing" for path in sorted(files.keys() - found.keys())]
        problems += [f"{path} should not be there" for path in sorted(found.keys() - files.keys())]
        problems += [
            f"{path} differs" for path in sorted(files.keys() & found) if sha256_file(found[path]) != files[path].sha256
        ]
    if problems:
        raise CheckFailedError(
            f"commit {revision[:12]} of {repo} is not what the folder holds: {', '.join(problems)}. Run the same "
            "command again; if they still differ, do not use that commit."
        )
