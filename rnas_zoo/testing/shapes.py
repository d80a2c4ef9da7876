"""The JSON in which the Hub describes repositories, files and commits."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from . import front_matter
from .objects import Commit, Entry, pointer
from .store import Store

CARD, CONFIG, WEIGHTS = "README.md", "config.json", ".safetensors"
EVALUATIONS = (".eval_results/", ".yaml")
BY_FILE = {"safetensors": WEIGHTS, "onnx": ".onnx", "pytorch": ".bin"}
LISTED = (
    "_id", "id", "modelId", "author", "private", "downloads", "likes", "tags", "pipeline_tag", "library_name",
    "createdAt", "lastModified", "gated",
)  # fmt: skip
FULL = (*LISTED, "sha", "siblings", "disabled")
HEADER_LIMIT = 100_000_000


def model(store: Store, repo: str, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Everything known about a model at a commit; `blobs` adds sizes and digests to its list of files."""
    settings = store.settings(repo)
    metadata = front_matter.read(text(store, commit, CARD))
    evaluations = _evaluations(store, commit)
    suffixes = [tag for tag, suffix in BY_FILE.items() if any(path.endswith(suffix) for path in commit.files)]
    head: dict[str, Any] = {
        "_id": hashlib.sha1(repo.encode()).hexdigest()[:24],
        "id": repo,
        "modelId": repo,
        "author": repo.partition("/")[0],
        "sha": commit.oid,
        "private": settings["private"],
        "gated": settings["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "trendingScore": 0,
        "tags": list(dict.fromkeys([*front_matter.tags(metadata), *suffixes])),
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.files.items())],
        "lastModified": commit.date,
        "createdAt": settings["created"],
        "usedStorage": sum(entry.size for entry in commit.files.values()),
        "config": _config(store, commit),
    }
    found: dict[str, Any] = {
        name: metadata[name] for name in ("pipeline_tag", "library_name", "model-index") if name in metadata
    }
    optional = {
        "cardData": metadata,
        "safetensors": _parameters(store, commit),
        "evalResults": evaluations,
    }
    return {**head, **found, **{name: value for name, value in optional.items() if value}}


def only(described: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The named parts of a description, and the id."""
    return {name: described[name] for name in ("_id", "id", *names) if name in described}


def file(path: str, entry: Entry) -> dict[str, Any]:
    """A file as lists of files show it."""
    shown: dict[str, Any] = {"type": "file", "path": path, "size": entry.size, "oid": entry.git}
    if entry.lfs:
        shown["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(pointer(entry.sha256, entry.size))}
    return shown


def folder(path: str, commit: Commit) -> dict[str, Any]:
    """A folder as lists of files show it; its id is a digest of what lies in it."""
    inside = [(name, entry.sha256) for name, entry in commit.files.items() if name.startswith(f"{path}/")]
    oid = hashlib.sha1(json.dumps(sorted(inside)).encode()).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def folders(commit: Commit) -> set[str]:
    """Every folder of a commit."""
    found = set()
    for path in commit.files:
        while path := path.rpartition("/")[0]:
            found.add(path)
    return found


def refs(named: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Branches and tags."""
    shown: dict[str, Any] = {"converts": [], "pullRequests": []}
    for kind, prefix in (("branches", "refs/heads/"), ("tags", "refs/tags/")):
        shown[kind] = [{"name": n, "ref": prefix + n, "targetCommit": oid} for n, oid in sorted(named[kind].items())]
    return shown


def commit(one: Commit, user: str) -> dict[str, Any]:
    """A commit as the list of commits shows it."""
    return {
        "id": one.oid,
        "title": one.title,
        "message": one.message,
        "date": one.date,
        "authors": [{"user": user}],
        "formatted": {"title": one.title, "message": one.message},
    }


def text(store: Store, commit: Commit, path: str) -> str:
    """A text file of a commit; empty where there is none."""
    entry = commit.files.get(path)
    return store.blob(entry.sha256).read_text(encoding="utf-8", errors="replace") if entry else ""


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    shown = {"rfilename": path, "size": entry.size, "blobId": entry.git}
    if entry.lfs:
        size = len(pointer(entry.sha256, entry.size))
        shown["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": size}
    return shown


def _config(store: Store, commit: Commit) -> dict[str, Any]:
    try:
        found = json.loads(text(store, commit, CONFIG) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _parameters(store: Store, commit: Commit) -> dict[str, Any] | None:
    """Numbers of values by type, read from the headers of the safetensors files; None without a readable one."""
    counts: Counter[str] = Counter()
    for path, entry in commit.files.items():
        if path.endswith(WEIGHTS):
            try:
                with open(store.blob(entry.sha256), "rb") as weights:
                    (length,) = struct.unpack("<Q", weights.read(8))
                    header = json.loads(weights.read(min(length, HEADER_LIMIT)))
                header.pop("__metadata__", None)
                for tensor in header.values():
                    counts[tensor["dtype"]] += math.prod(tensor["shape"])
            except (ValueError, struct.error, KeyError, TypeError, AttributeError):
                continue
    return {"parameters": dict(counts), "total": counts.total()} if counts else None


def _evaluations(store: Store, commit: Commit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(commit.files):
        if path.startswith(EVALUATIONS[0]) and path.endswith(EVALUATIONS[1]):
            try:
                entries = yaml.safe_load(text(store, commit, path))
                for entry in entries:
                    if not {"id", "task_id"} <= set(entry["dataset"]) or "value" not in entry:
                        raise ValueError("each result needs dataset.id, dataset.task_id and value")
                    found.append({"filename": path, "data": entry})
            except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
                found.append({"filename": path, "error": str(error) or "not a list of results"})
    return found
