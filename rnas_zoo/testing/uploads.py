"""The uploading half of the local Hub: which way a file goes, LFS objects, commits."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections import defaultdict
from typing import Any

from . import front_matter
from .objects import Change
from .shapes import CARD
from .store import LARGE, Refused, Store
from .wire import Answer, Request, answer_json

SMALL_LIMIT = 10 * 1024 * 1024
FILES_PER_CALL = 256
LFS_JSON = "application/vnd.git-lfs+json"
CHANGES = ("file", "lfsFile", "deletedFile", "deletedFolder")


class Uploads:
    """Takes files into a store; remembers which LFS objects were announced, and for which paths."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._announced: dict[str, int] = {}
        self._sizes: dict[tuple[str, int], set[str]] = defaultdict(set)

    def preupload(self, request: Request, repo: str, revision: str) -> Answer:
        """Whether each file goes through LFS, and what is stored under its path now, so that the same is not sent."""
        commit = self.store.at(repo, revision)
        given = _entries(request.json(), "files")
        if len(given) > FILES_PER_CALL:
            raise Refused(400, f"at most {FILES_PER_CALL} files per call, not {len(given)}")
        files = []
        for file in given:
            path, size = _text(file, "path"), _size(file)
            self._sizes[repo, size].add(path)
            mode = "lfs" if _is_large(path, size, _decoded(file.get("sample", ""))) else "regular"
            shown = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in commit.files:
                shown["oid"] = commit.files[path].etag
            files.append(shown)
        return answer_json({"files": files, "commitOid": commit.oid})

    def batch(self, request: Request, repo: str) -> Answer:
        """Where to send the LFS objects that are not stored yet."""
        wanted = request.json()
        if wanted.get("operation") != "upload":
            raise Refused(400, "only the operation upload is offered")
        objects = []
        for wish in _entries(wanted, "objects"):
            oid, size = _text(wish, "oid"), _size(wish)
            shown: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if len(oid) != 64 or set(oid) - set("0123456789abcdef"):
                shown["error"] = {"code": 422, "message": f"{oid!r} is no SHA-256"}
            elif (stored := self.store.size(oid)) is None:
                self._announced[oid] = size
                href = f"{request.base}/{repo}.git/info/lfs/objects/{oid}"
                shown["actions"] = {
                    "upload": {"href": href, "header": {}},
                    "verify": {"href": f"{href}/verify", "header": {}},
                }
            elif stored != size:
                shown["error"] = {"code": 422, "message": f"the object {oid} has {stored} bytes, not {size}"}
            objects.append(shown)
        return answer_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": LFS_JSON})

    def names(self, repo: str, oid: str) -> set[str]:
        """The paths an LFS object may be meant for: those announced with its size."""
        size = self._announced.get(oid)
        return set() if size is None else self._sizes[repo, size]

    def put(self, request: Request, repo: str, oid: str) -> Answer:
        """Take an announced LFS object; nothing is kept if its length or digest is another."""
        if oid not in self._announced:
            raise Refused(403, f"the object {oid} was not announced: ask objects/batch first")
        self.store.receive(oid, self._announced[oid], request.body)
        return Answer(200, {"ETag": f'"{oid}"'})

    def verify(self, request: Request, repo: str, oid: str) -> Answer:
        """Whether an LFS object arrived."""
        wanted, size = request.json(), self.store.size(oid)
        if size is None:
            raise Refused(404, f"the object {oid} was not uploaded")
        if (wanted.get("oid"), wanted.get("size")) != (oid, size):
            raise Refused(400, f"the object {oid} has {size} bytes, not what was said")
        return answer_json({})

    def commit(self, request: Request, repo: str, branch: str) -> Answer:
        """One commit, given as a JSON value per line: its words, then its changes."""
        if request.flag("create_pr"):
            raise Refused(400, "the local Hub has no pull requests")
        try:
            lines = [json.loads(line) for line in request.body.read().splitlines() if line.strip()]
            header, rest = lines[0], lines[1:]
            title = header["value"]["summary"]
            if header["key"] != "header" or not isinstance(title, str) or not title.strip():
                raise ValueError("no title")
        except (ValueError, LookupError, TypeError) as error:
            raise Refused(400, "a commit is one JSON value per line, the first a header with a summary") from error
        changes = [_change(line) for line in rest]
        request.names.update(change.path for change in changes)
        for change in changes:
            if change.path == CARD and change.data is not None:
                errors = front_matter.examine(change.data.decode("utf-8", errors="replace"))[1]
                if errors:
                    raise Refused(400, f"Invalid metadata in {CARD}: {'; '.join(errors)}")
        words, parent = header["value"].get("description") or "", header["value"].get("parentCommit") or ""
        made = self.store.commit(repo, branch, changes, title, words, parent)
        url = f"{request.base}/{repo}/commit/{made.oid}"
        return answer_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _is_large(path: str, size: int, sample: bytes) -> bool:
    if path.endswith(LARGE) or size > SMALL_LIMIT or b"\0" in sample:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return True
    return False


def _change(line: Any) -> Change:
    try:
        kind, value = line["key"], line["value"]
        path = value["path"]
        if kind not in CHANGES or not isinstance(path, str):
            raise ValueError(kind)
        if kind == "file":
            if value.get("encoding") != "base64":
                raise ValueError("encoding")
            return Change(path, data=_decoded(value["content"]))
        if kind == "lfsFile":
            return Change(path, sha256=str(value["oid"]), size=value.get("size"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refused(400, f"a change must be one of {', '.join(CHANGES)}, with its path and contents") from error
    return Change(path, folder=kind == "deletedFolder")


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Refused(400, "contents must be base64") from error


def _entries(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Refused(400, f'"{name}" must be a list of objects')
    return found


def _text(value: dict[str, Any], name: str) -> str:
    if not isinstance(value.get(name), str):
        raise Refused(400, f'"{name}" must be a string')
    return value[name]


def _size(value: dict[str, Any]) -> int:
    if not isinstance(value.get("size"), int) or value["size"] < 0:
        raise Refused(400, '"size" must be a number of bytes')
    return value["size"]
