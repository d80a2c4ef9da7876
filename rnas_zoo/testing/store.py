"""The repositories of the local Hub as a folder on disk: reopening the folder shows the same repositories.

    blobs/<2 hex>/<sha256>                               contents, each once
    repositories/<owner>/<name>/settings.json            private, gated, when it was made
    repositories/<owner>/<name>/refs.json                branches and tags: name to commit
    repositories/<owner>/<name>/commits/<40 hex>.json    parent, words, date, and every file

One process at a time may write to a folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import OutputNotWritableError
from ..files import atomic_folder, atomic_path, write_json
from .objects import Change, Commit, Entry, git_id, numbered, pointer

P = ParamSpec("P")
R = TypeVar("R")
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][A-Za-z0-9._-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9]")
REF = re.compile(r"(?!.*(\.\.|//|@\{))[A-Za-z0-9_][A-Za-z0-9._/@+-]*(?<![/.])")
MAIN = "main"
LARGE = (".safetensors", ".onnx", ".npz", ".npy", ".png", ".bin", ".pt", ".pth", ".h5", ".zip", ".gz", ".parquet")
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


class Refused(Exception):
    """A request that the Hub refuses: an HTTP status, the code by which clients choose their exception, and words."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


def _locked(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    @functools.wraps(method)
    def call(self: Store, *args: P.args, **options: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **options)

    return call


class Store:
    """Repositories under a folder, which is created if it is missing; safe to use from several threads.

    Raises:
        OutputNotWritableError: the folder cannot be created.
        Refused: what was asked for does not exist, exists already, or does not fit together.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.lock = threading.RLock()
        self._commits: dict[tuple[str, str], Commit] = {}
        try:
            for part in ("blobs", "repositories"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputNotWritableError(
                f"cannot keep a Hub in {self.folder}: {error.strerror or error}. Choose a folder you may write to."
            ) from error

    def names(self) -> list[str]:
        """Every repository as owner/name, sorted."""
        found = (self.folder / "repositories").glob("*/*/settings.json")
        return sorted(f"{path.parts[-3]}/{path.parts[-2]}" for path in found if not path.parts[-2].startswith("."))

    def exists(self, repo: str) -> bool:
        return all(NAME.fullmatch(part) for part in repo.split("/")) and (self._home(repo) / "settings.json").is_file()

    @_locked
    def create(self, repo: str, *, private: bool = False) -> None:
        """Make a repository with one commit on its branch main."""
        if repo.count("/") != 1 or not all(NAME.fullmatch(part) for part in repo.split("/")):
            raise Refused(400, f"{repo!r} is no name of a repository: it is owner/name, of letters, digits, '-_.'.")
        if self.exists(repo):
            raise Refused(409, "You already created this model repo")
        first = numbered(None, "initial commit", "", {".gitattributes": self._put(ATTRIBUTES)})
        with atomic_folder(self._home(repo), overwrite=True) as folder:
            write_json(folder / "settings.json", {"private": private, "gated": False, "created": first.date})
            write_json(folder / "refs.json", {"branches": {MAIN: first.oid}, "tags": {}})
            _write_commit(folder, first)

    @_locked
    def delete(self, repo: str) -> None:
        """Remove a repository; its contents stay among the blobs."""
        shutil.rmtree(self._home(repo))
        self._commits = {key: commit for key, commit in self._commits.items() if key[0] != repo}

    @_locked
    def settings(self, repo: str, **changes: bool | str) -> dict[str, Any]:
        """What is set for a repository, after these changes."""
        path = self._home(repo) / "settings.json"
        if not self.exists(repo):
            raise Refused(404, "Repository not found", "RepoNotFound")
        settings = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        if changes:
            write_json(path, settings)
        return settings

    def refs(self, repo: str) -> dict[str, dict[str, str]]:
        """Commits by name, under `branches` and `tags`."""
        return json.loads((self._home(repo) / "refs.json").read_text(encoding="utf-8"))

    @_locked
    def set_ref(self, repo: str, kind: str, name: str, oid: str | None) -> None:
        """Make a branch or tag (`kind`: branches, tags), or remove it (`oid` None)."""
        refs = self.refs(repo)
        if oid is None:
            if name not in refs[kind]:
                raise Refused(404, f"{name!r} is not among the {kind}", "RevisionNotFound")
            if (kind, name) == ("branches", MAIN):
                raise Refused(403, f"the branch {MAIN} cannot be deleted")
            del refs[kind][name]
        else:
            if not REF.fullmatch(name):
                raise Refused(400, f"{name!r} cannot be a name in {kind}")
            if name in refs[kind]:
                raise Refused(409, f"{name!r} exists already among the {kind}")
            refs[kind][name] = oid
        write_json(self._home(repo) / "refs.json", refs)

    def at(self, repo: str, revision: str) -> Commit:
        """The commit that a branch, tag, or at least 7 digits of a commit's id names."""
        refs = self.refs(repo)
        oid = refs["branches"].get(revision) or refs["tags"].get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            found = [path.stem for path in (self._home(repo) / "commits").glob(f"{revision}*.json")]
            oid = found[0] if len(found) == 1 else None
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if (repo, oid) not in self._commits:
            stored = json.loads((self._home(repo) / "commits" / f"{oid}.json").read_text(encoding="utf-8"))
            files = {path: Entry(**entry) for path, entry in stored.pop("files").items()}
            self._commits[repo, oid] = Commit(oid, **stored, files=files)
        return self._commits[repo, oid]

    def history(self, repo: str, revision: str) -> list[Commit]:
        """A commit and all before it, the newest first."""
        commits = [self.at(repo, revision)]
        while parent := commits[-1].parent:
            commits.append(self.at(repo, parent))
        return commits

    @_locked
    def commit(
        self, repo: str, branch: str, changes: Iterable[Change], title: str, message: str = "", parent: str = ""
    ) -> Commit:
        """Apply changes to the head of a branch; without any difference, the head itself is returned.

        Raises:
            Refused: 412 if `parent` is given and is no longer the head; 400 or 404 for changes that do not apply.
        """
        head = self.at(repo, branch)
        if branch not in self.refs(repo)["branches"]:
            raise Refused(400, f"a commit goes to a branch, and {branch!r} is none")
        if parent and not head.oid.startswith(parent):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for change in changes:
            self._apply(files, change)
        for path in files:
            above = path
            while above := above.rpartition("/")[0]:
                if above in files:
                    raise Refused(400, f"{above!r} cannot be a file and the folder of {path!r}")
        if files == head.files:
            return head
        new = numbered(head.oid, title, message, dict(sorted(files.items())))
        _write_commit(self._home(repo), new)
        refs = self.refs(repo)
        refs["branches"][branch] = new.oid
        write_json(self._home(repo) / "refs.json", refs)
        return new

    def _apply(self, files: dict[str, Entry], change: Change) -> None:
        path = change.path.rstrip("/") if change.folder else change.path
        if "\\" in path or any(part in ("", ".", "..", ".git") for part in path.split("/")):
            raise Refused(400, f"{change.path!r} cannot be the path of a file in a repository")
        if change.data is not None:
            files[path] = self._put(change.data)
        elif change.sha256 is not None:
            size = self.size(change.sha256)
            if size is None or change.size not in (None, size):
                raise Refused(400, f"{path}: no LFS object {change.sha256} of {change.size} bytes was uploaded")
            files[path] = Entry(change.sha256, size, True, git_id(pointer(change.sha256, size)))
        else:
            gone = [name for name in files if (name.startswith(f"{path}/") if change.folder else name == path)]
            if not gone:
                kind = "folder" if change.folder else "file"
                raise Refused(404, f"A {kind} with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]

    def blob(self, sha256: str) -> Path:
        """Where the contents with this digest lie, if they do."""
        return self.folder / "blobs" / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Bytes of the contents with this digest; None if they are not here."""
        with contextlib.suppress(OSError):
            if re.fullmatch("[0-9a-f]{64}", sha256):
                return self.blob(sha256).stat().st_size
        return None

    def receive(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store uploaded contents; nothing is kept unless length and digest are those announced."""
        digest, length = hashlib.sha256(), 0
        with atomic_path(self.blob(sha256)) as temporary:
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    length += len(chunk)
                    file.write(chunk)
            if (digest.hexdigest(), length) != (sha256, size):
                raise Refused(400, f"the upload has {length} bytes with SHA-256 {digest.hexdigest()}, not {sha256}")

    def _put(self, data: bytes) -> Entry:
        sha256 = hashlib.sha256(data).hexdigest()
        if self.size(sha256) is None:
            self.receive(sha256, len(data), [data])
        return Entry(sha256, len(data), False, git_id(data))

    def _home(self, repo: str) -> Path:
        return self.folder / "repositories" / repo


def _write_commit(home: Path, commit: Commit) -> None:
    stored = asdict(commit)
    write_json(home / "commits" / f"{stored.pop('oid')}.json", stored)
