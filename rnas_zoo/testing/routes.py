"""What the local Hub answers: one method per endpoint, and the table that finds it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote

from . import front_matter, shapes
from .objects import Commit
from .store import MAIN, Refused, Store
from .uploads import Uploads
from .wire import Answer, Request, answer_json, answer_page, byte_range

USER = "tester"
MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"
OBJECTS = r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects"
TABLE = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("GET", r"/api/agent-harnesses", "harnesses"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("DELETE", r"/api/repos/delete", "delete"),
    ("GET", r"/api/models", "list_models"),
    ("GET", MODEL, "info"),
    ("GET", MODEL + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", MODEL + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("POST", MODEL + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", MODEL + r"/refs", "refs"),
    ("GET", MODEL + r"/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", MODEL + r"/auth-check(?P<write>/write)?", "auth_check"),
    ("POST", MODEL + r"/tag/(?P<revision>[^/]+)", "tag"),
    ("DELETE", MODEL + r"/tag/(?P<name>[^/]+)", "untag"),
    ("POST", MODEL + r"/branch/(?P<name>[^/]+)", "branch"),
    ("DELETE", MODEL + r"/branch/(?P<name>[^/]+)", "unbranch"),
    ("POST", MODEL + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", MODEL + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", OBJECTS + r"/batch", "lfs_batch"),
    ("PUT", OBJECTS + r"/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", OBJECTS + r"/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
    ("GET|HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
ROUTES = tuple((frozenset(methods.split("|")), re.compile(path), name) for methods, path, name in TABLE)
SORTS = ("trendingScore", "downloads", "likes", "createdAt", "lastModified")
FILTERS = {
    "filter", "author", "search", "limit", "cursor", "sort", "direction", "full", "cardData", "config", "expand",
    "gated", "pipeline_tag",
}  # fmt: skip


class Api:
    """Answers requests from a store.

    Args:
        token: what a client must bring to write, or to read what is private.
        page_size: how many entries a list has before it goes on on the next page.
    """

    def __init__(self, store: Store, token: str, page_size: int = 1000) -> None:
        self.store, self.token, self.page_size = store, token, page_size
        self.uploads = Uploads(store)

    def find(self, request: Request) -> tuple[str, dict[str, str]]:
        """The name of the method that answers a request, and its arguments; empty where there is none."""
        for methods, pattern, name in ROUTES:
            if request.method in methods and (match := pattern.fullmatch(request.path)):
                given = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                request.names |= {given["path"]} if "path" in given else set()
                request.names |= self.uploads.names(given["repo"], given["oid"]) if "oid" in given else set()
                return name, given
        return "", {}

    def answer(self, request: Request, name: str, given: dict[str, str]) -> Answer:
        """The answer of the method `find` found.

        Raises:
            Refused: the request cannot be met.
        """
        sent = request.headers.get("Authorization")
        if sent is not None and sent != f"Bearer {self.token}":
            raise Refused(401, "Invalid credentials in Authorization header")
        request.authorized = sent is not None
        if not name:
            raise Refused(404, f"the local Hub has no {request.method} {request.path}; it holds models only")
        return getattr(self, name)(request, **given)

    # Who asks, and for what

    def whoami(self, request: Request) -> Answer:
        self._need_token(request)
        access = {"type": "access_token", "accessToken": {"displayName": "local", "role": "write"}}
        who = {"type": "user", "id": "0" * 24, "name": USER, "fullname": "Tester", "orgs": [], "auth": access}
        return answer_json({**who, "email": f"{USER}@localhost", "emailVerified": True, "isPro": False})

    def harnesses(self, request: Request) -> Answer:
        return answer_json({"standardEnvVars": [], "harnesses": {}})

    def validate_yaml(self, request: Request) -> Answer:
        _, errors, warnings = front_matter.examine(str(request.json().get("content", "")))
        found = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return answer_json(found, 400 if errors else 200)

    def auth_check(self, request: Request, repo: str, write: str = "") -> Answer:
        self._enter(request, repo, write=bool(write))
        self._pass_gate(request, repo)
        return answer_json({})

    def _need_token(self, request: Request) -> None:
        if not request.authorized:
            raise Refused(401, "Invalid username or password.")

    def _enter(self, request: Request, repo: str, *, write: bool = False) -> None:
        if write:
            self._need_token(request)
        there = self.store.exists(repo) and (request.authorized or not self.store.settings(repo)["private"])
        if not there:
            raise Refused(404 if request.authorized else 401, "Repository not found", "RepoNotFound")

    def _pass_gate(self, request: Request, repo: str) -> None:
        if self.store.settings(repo)["gated"]:
            raise Refused(403, f"Access to model {repo} is restricted and you are not in the list.", "GatedRepo")

    # Repositories

    def create(self, request: Request) -> Answer:
        self._need_token(request)
        repo, wanted = self._named(request)
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        shown = {"url": f"{request.base}/{repo}", "name": repo, "id": repo}
        try:
            self.store.create(repo, private=private)
        except Refused as refused:
            if refused.status != 409:
                raise
            return answer_json({"error": str(refused), **shown}, 409)
        return answer_json(shown)

    def delete(self, request: Request) -> Answer:
        repo, _ = self._named(request)
        self._enter(request, repo, write=True)
        self.store.delete(repo)
        return answer_json({})

    def _named(self, request: Request) -> tuple[str, dict[str, Any]]:
        wanted = request.json()
        if wanted.get("type") not in (None, "model"):
            raise Refused(400, "the local Hub holds models only")
        return f"{wanted.get('organization') or USER}/{wanted.get('name')}", wanted

    def info(self, request: Request, repo: str, revision: str = MAIN) -> Answer:
        commit = self._read(request, repo, revision)
        shown = shapes.model(self.store, repo, commit, blobs=request.flag("blobs"))
        expand = _several(request, "expand")
        return answer_json(shapes.only(shown, expand) if expand else shown)

    def list_models(self, request: Request) -> Answer:
        unknown = sorted({name.removesuffix("[]") for name in request.query} - FILTERS)
        if unknown:
            raise Refused(400, f"the local Hub cannot list models by {', '.join(unknown)}")
        found = []
        for repo in self.store.names():
            if request.authorized or not self.store.settings(repo)["private"]:
                shown = shapes.model(self.store, repo, self.store.at(repo, MAIN))
                if _is_wanted(request, shown):
                    found.append(shown)
        sort = request.value("sort", SORTS[0])
        if sort not in SORTS:
            raise Refused(400, f"models are sorted by one of {', '.join(SORTS)}, not {sort!r}")
        found.sort(key=lambda shown: (shown[sort], shown["lastModified"]), reverse=request.value("direction") != "1")
        expand = _several(request, "expand")
        parts = list(expand or (shapes.FULL if request.flag("full") else shapes.LISTED))
        parts += [part for part in ("cardData", "config") if request.flag(part)]
        return answer_page(request, [shapes.only(shown, parts) for shown in found], self.page_size)

    # Branches, tags, commits

    def refs(self, request: Request, repo: str) -> Answer:
        self._enter(request, repo)
        return answer_json(shapes.refs(self.store.refs(repo)))

    def commits(self, request: Request, repo: str, revision: str) -> Answer:
        self._read(request, repo, revision)
        history = [shapes.commit(commit, USER) for commit in self.store.history(repo, revision)]
        return answer_page(request, history, self.page_size)

    def tag(self, request: Request, repo: str, revision: str) -> Answer:
        self._enter(request, repo, write=True)
        self.store.set_ref(repo, "tags", str(request.json().get("tag", "")), self.store.at(repo, revision).oid)
        return answer_json({})

    def untag(self, request: Request, repo: str, name: str) -> Answer:
        self._enter(request, repo, write=True)
        self.store.set_ref(repo, "tags", name, None)
        return answer_json({})

    def branch(self, request: Request, repo: str, name: str) -> Answer:
        self._enter(request, repo, write=True)
        start = self.store.at(repo, str(request.json().get("startingPoint") or MAIN))
        self.store.set_ref(repo, "branches", name, start.oid)
        return answer_json({})

    def unbranch(self, request: Request, repo: str, name: str) -> Answer:
        self._enter(request, repo, write=True)
        self.store.set_ref(repo, "branches", name, None)
        return answer_json({})

    # Files

    def _read(self, request: Request, repo: str, revision: str) -> Commit:
        self._enter(request, repo)
        return self.store.at(repo, revision)

    def tree(self, request: Request, repo: str, revision: str, folder: str = "") -> Answer:
        commit = self._read(request, repo, revision)
        folders = shapes.folders(commit)
        if folder and folder not in folders:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        inside = f"{folder}/" if folder else ""
        deep = request.flag("recursive")
        listed = {path: shapes.folder(path, commit) for path in folders}
        listed |= {path: shapes.file(path, entry) for path, entry in commit.files.items()}
        chosen = [p for p in sorted(listed) if p.startswith(inside) and (deep or "/" not in p[len(inside) :])]
        return answer_page(request, [listed[path] for path in chosen], self.page_size)

    def paths_info(self, request: Request, repo: str, revision: str) -> Answer:
        commit = self._read(request, repo, revision)
        if "json" in request.headers.get("Content-Type", ""):
            paths = request.json().get("paths", [])
        else:
            paths = parse_qs(request.body.read().decode()).get("paths", [])
        found = [shapes.file(path, commit.files[path]) for path in paths if path in commit.files]
        return answer_json([*found, *(shapes.folder(path, commit) for path in paths if path in shapes.folders(commit))])

    def resolve(self, request: Request, repo: str, revision: str, path: str) -> Answer:
        commit = self._read(request, repo, revision)
        self._pass_gate(request, repo)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        entry = commit.files.get(path)
        if entry is None:
            raise Refused(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{entry.etag}"'
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        held = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
        if headers["ETag"] in held or "*" in held:
            return Answer(304, headers)
        headers["Content-Type"] = "application/octet-stream" if entry.lfs else "text/plain; charset=utf-8"
        blob = self.store.blob(entry.sha256)
        span = byte_range(request.headers.get("Range"), entry.size) if request.method == "GET" else None
        if span is None:
            return Answer(200, headers, file=blob, length=entry.size)
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{entry.size}"
        return Answer(206, headers, file=blob, start=span[0], length=span[1] - span[0])

    # Uploads

    def preupload(self, request: Request, repo: str, revision: str) -> Answer:
        self._enter(request, repo, write=True)
        return self.uploads.preupload(request, repo, revision)

    def commit(self, request: Request, repo: str, revision: str) -> Answer:
        self._enter(request, repo, write=True)
        return self.uploads.commit(request, repo, revision)

    def lfs_batch(self, request: Request, repo: str) -> Answer:
        self._enter(request, repo, write=True)
        return self.uploads.batch(request, repo)

    def lfs_put(self, request: Request, repo: str, oid: str) -> Answer:
        return self.uploads.put(request, repo, oid)

    def lfs_verify(self, request: Request, repo: str, oid: str) -> Answer:
        self._enter(request, repo, write=True)
        return self.uploads.verify(request, repo, oid)


def _several(request: Request, name: str) -> list[str]:
    """Values of a query that may come repeated, as `name[]`, or with commas."""
    values = [*request.query.get(name, []), *request.query.get(f"{name}[]", [])]
    return [part for value in values for part in value.split(",") if part]


def _is_wanted(request: Request, shown: dict[str, Any]) -> bool:
    """Whether a model has every tag asked for, and the author and words."""
    if "gated" in request.query and request.flag("gated") != bool(shown["gated"]):
        return False
    return (
        set(_several(request, "filter")) <= set(shown["tags"])
        and request.value("author", shown["author"]) == shown["author"]
        and request.value("pipeline_tag", shown.get("pipeline_tag", "")) == shown.get("pipeline_tag", "")
        and request.value("search").lower() in shown["id"].lower()
    )
