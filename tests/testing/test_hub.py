"""The local Hub, driven by the real client: what it answers, and what the client makes of it."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import rnas_zoo
from rnas_zoo.errors import OutputNotWritableError, UsageError
from rnas_zoo.testing import hub as hub_module
from rnas_zoo.testing.hub import LocalHub

from .raw import CARD, WEIGHTS, call, header, lines, safetensors, write_model

REPO = "owner/tiny"
FILES = {".gitattributes", "README.md", "config.json", "figures/cells.png", "model.safetensors"}
SHA = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def released(api: HfApi, tmp_path: Path) -> str:
    """The id of the commit by which a small model was uploaded to REPO."""
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=write_model(tmp_path / "model")).oid


def status_of(caught: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return caught.value.response.status_code


# Who asks


def test_the_token_opens_and_another_does_not(hub, api):
    assert api.whoami()["name"] == "tester"
    wrong = HfApi(endpoint=hub.url, token="hf_wrong")
    for ask in (wrong.whoami, lambda: wrong.create_repo(REPO), lambda: wrong.model_info(REPO)):
        with pytest.raises(HfHubHTTPError) as caught:
            ask()
        assert status_of(caught) == 401
    assert [seen.authorized for seen in hub.requests] == [True, False, False, False]


def test_nobody_writes_without_a_token(hub, stranger, released, tmp_path):
    writes = [
        lambda: stranger.create_repo("owner/other"),
        lambda: stranger.delete_repo(REPO),
        lambda: stranger.create_tag(REPO, tag="v1"),
        lambda: stranger.delete_branch(REPO, branch="main"),
        lambda: stranger.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a"),
        lambda: stranger.auth_check(REPO, write=True),
    ]
    for write in writes:
        with pytest.raises(HfHubHTTPError) as caught:
            write()
        assert status_of(caught) == 401
    assert stranger.model_info(REPO).sha == released
    stranger.auth_check(REPO)
    assert call(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", {}, token=None).status == 401


def test_private_repositories_are_there_for_the_token_only(hub, api, stranger, tmp_path):
    api.create_repo(REPO, private=True)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    assert api.model_info(REPO).private is True
    assert hf_hub_download(REPO, "a.txt", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "mine")
    asks = [
        lambda: stranger.model_info(REPO),
        lambda: stranger.auth_check(REPO),
        lambda: list(stranger.list_repo_tree(REPO)),
        lambda: hf_hub_download(REPO, "a.txt", endpoint=hub.url, token=False, cache_dir=tmp_path / "theirs"),
    ]
    for ask in asks:
        with pytest.raises(RepositoryNotFoundError):
            ask()
    assert list(stranger.list_models()) == []
    assert [model.id for model in api.list_models()] == [REPO]


def test_gated_repositories_show_themselves_but_not_their_files(hub, api, released, tmp_path):
    hub.gate(REPO)
    assert api.model_info(REPO).gated == "manual"
    with pytest.raises(GatedRepoError):
        hf_hub_download(REPO, "config.json", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "c")
    with pytest.raises(GatedRepoError):
        api.auth_check(REPO)
    hub.gate(REPO, closed=False)
    api.auth_check(REPO)
    assert api.model_info(REPO).gated is False
    assert hf_hub_download(REPO, "config.json", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "c")


# Repositories


def test_repositories_are_made_once_and_deleted(hub, api):
    made = api.create_repo(REPO)
    assert (made.repo_id, str(made)) == (REPO, f"{hub.url}/{REPO}")
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(REPO)
    assert status_of(caught) == 409
    assert api.create_repo("mine").repo_id == "tester/mine"
    with pytest.raises(BadRequestError, match="models only"):
        api.create_repo("owner/data", repo_type="dataset")
    assert api.repo_exists(REPO)
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    api.delete_repo(REPO, missing_ok=True)
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")


def test_what_is_not_offered_is_not_found(hub, api, released):
    assert call(hub, "GET", f"/api/models/{REPO}/xet-write-token/main").status == 404
    assert call(hub, "GET", "/api/datasets/owner/data").status == 404
    assert call(hub, "PUT", f"/api/models/{REPO}").status == 404
    assert call(hub, "GET", "/api/agent-harnesses").json() == {"standardEnvVars": [], "harnesses": {}}
    with pytest.raises(BadRequestError, match="pull requests"):
        api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", create_pr=True)


def test_model_info_tells_what_the_files_tell(api, released):
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.author, info.sha, info.private, info.gated) == (REPO, "owner", released, False, False)
    assert info.library_name == "timm"
    assert info.pipeline_tag == "image-classification"
    assert info.tags == [
        "timm", "robust", "rnas-zoo", "image-classification", "dataset:cifar10", "license:mit", "safetensors"
    ]  # fmt: skip
    assert info.card_data.to_dict()["license"] == "mit"
    assert info.config == {"architecture": "tiny"}
    assert (info.safetensors.parameters, info.safetensors.total) == ({"F32": 6, "F16": 4}, 10)
    assert api.get_safetensors_metadata(REPO).parameter_count == info.safetensors.parameters
    assert info.created_at <= info.last_modified
    files = {file.rfilename: file for file in info.siblings}
    assert set(files) == FILES
    weights = files["model.safetensors"]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA}\nsize {len(WEIGHTS)}\n".encode()
    assert (weights.size, weights.lfs["sha256"], weights.lfs["pointer_size"]) == (len(WEIGHTS), SHA, len(pointer))
    assert weights.blob_id == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    card = CARD.encode()
    assert files["README.md"].blob_id == hashlib.sha1(b"blob %d\0" % len(card) + card).hexdigest()
    assert files["README.md"].lfs is None
    assert api.model_info(REPO).siblings[0].size is None
    assert api.model_info(REPO, expand=["sha", "tags"]).siblings is None
    assert api.model_info(REPO, revision=released[:8]).sha == released
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v9")


def test_evaluation_results_are_read_from_their_folder(hub, api, released):
    good = b"- dataset: {id: o/d, task_id: robust}\n  value: 51.5\n  date: '2026-01-02'\n"
    for name, content in (("good", good), ("bad", b"- value: 3\n")):
        api.upload_file(repo_id=REPO, path_in_repo=f".eval_results/{name}.yaml", path_or_fileobj=content)
    found = call(hub, "GET", f"/api/models/{REPO}").json()["evalResults"]
    assert [sorted(entry) for entry in found] == [["error", "filename"], ["data", "filename"]]
    (result,) = api.model_info(REPO).eval_results
    assert (result.dataset_id, result.task_id, result.value) == ("o/d", "robust", 51.5)


def test_models_are_listed_by_tags_author_words_and_order(hub, api, stranger):
    for name, tags in (("a/one", "[x]"), ("a/two", "[x, y]"), ("b/one", "[y]")):
        api.create_repo(name)
        card = f"---\ntags: {tags}\nlicense: mit\npipeline_tag: image-classification\n---\n"
        api.upload_file(repo_id=name, path_in_repo="README.md", path_or_fileobj=card.encode())

    def listed(**filters) -> list[str]:
        return [model.id for model in stranger.list_models(**filters)]

    assert listed(sort="last_modified") == ["b/one", "a/two", "a/one"]
    assert set(listed(filter="x")) == {"a/one", "a/two"}
    assert listed(filter=["x", "y"]) == ["a/two"]
    assert len(call(hub, "GET", "/api/models?filter=x,license:mit").json()) == 2
    assert listed(filter="license:gpl") == []
    assert set(listed(author="a")) == {"a/one", "a/two"}
    assert set(listed(search="ONE")) == {"a/one", "b/one"}
    assert listed(pipeline_tag="text-generation") == []
    assert len(listed(limit=2)) == 2
    hub.gate("a/one")
    assert listed(gated=True) == ["a/one"]
    (full,) = stranger.list_models(search="b/", full=True, cardData=True)
    assert full.siblings is not None
    assert full.card_data.to_dict()["tags"] == ["y"]
    (short,) = stranger.list_models(search="b/")
    assert (short.siblings, short.card_data) == (None, None)
    with pytest.raises(BadRequestError, match="cannot list models by num_parameters"):
        listed(num_parameters="min:1B")
    assert call(hub, "GET", "/api/models?sort=beauty").status == 400


# Branches, tags, commits


def test_branches_and_tags(api, released):
    api.create_tag(REPO, tag="v1", tag_message="first")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    api.create_branch(REPO, branch="try/2", revision="v1")
    api.create_branch(REPO, branch="try/2", exist_ok=True)
    for again in (lambda: api.create_tag(REPO, tag="v1"), lambda: api.create_branch(REPO, branch="try/2")):
        with pytest.raises(HfHubHTTPError) as caught:
            again()
        assert status_of(caught) == 409
    tried = api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", revision="try/2").oid
    api.create_tag(REPO, tag="v2", revision=tried)
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {r.ref: r.target_commit for r in refs.branches} == {"refs/heads/main": released, "refs/heads/try/2": tried}
    assert {r.name: r.target_commit for r in refs.tags} == {"v1": released, "v2": tried}
    assert (refs.converts, refs.pull_requests) == ([], [])
    assert not api.file_exists(REPO, "a.txt")
    assert api.file_exists(REPO, "a.txt", revision="v2")
    api.delete_tag(REPO, tag="v1")
    api.delete_branch(REPO, branch="try/2")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(REPO, tag="v3", revision="nowhere")
    with pytest.raises(HfHubHTTPError) as caught:
        api.delete_branch(REPO, branch="main")
    assert status_of(caught) == 403
    assert api.file_exists(REPO, "a.txt", revision=tried)


def test_commits_are_listed_newest_first(api, released):
    last = api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", commit_message="Add a").oid
    commits = api.list_repo_commits(REPO)
    assert [commit.commit_id for commit in commits[:2]] == [last, released]
    assert [commit.title for commit in commits[::2]] == ["Add a", "initial commit"]
    assert commits[0].authors == ["tester"]
    assert api.list_repo_commits(REPO, revision=released)[0].commit_id == released


def test_a_commit_adds_copies_and_deletes(api, released):
    operations = [
        CommitOperationAdd("new/b.txt", b"b"),
        CommitOperationCopy("model.safetensors", "copies/model.safetensors"),
        CommitOperationCopy("config.json", "copies/config.json"),
        CommitOperationDelete("config.json"),
        CommitOperationDelete("figures/"),
    ]
    api.create_commit(REPO, operations, commit_message="many", parent_commit=released)
    added = {"new/b.txt", "copies/model.safetensors", "copies/config.json"}
    assert set(api.list_repo_files(REPO)) == FILES - {"config.json", "figures/cells.png"} | added
    (copied,) = api.get_paths_info(REPO, "copies/model.safetensors")
    assert copied.lfs.sha256 == SHA
    assert set(api.list_repo_files(REPO, revision=released)) == FILES
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("config.json", REPO)


def test_a_stale_parent_is_refused(api, released):
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        api.upload_file(repo_id=REPO, path_in_repo="b.txt", path_or_fileobj=b"b", parent_commit=released)
    assert status_of(caught) == 412
    assert not api.file_exists(REPO, "b.txt")


def test_uploading_the_same_again_makes_no_commit(hub, api, released, tmp_path):
    assert api.upload_folder(repo_id=REPO, folder_path=tmp_path / "model").oid == released
    assert not [seen for seen in hub.requests[-4:] if "/commit/" in seen.path or seen.method == "PUT"]
    value = {"path": "README.md", "encoding": "base64", "content": base64.b64encode(CARD.encode()).decode()}
    same = call(hub, "POST", f"/api/models/{REPO}/commit/main", lines(header(), {"key": "file", "value": value}))
    assert same.json()["commitOid"] == released
    assert len(api.list_repo_commits(REPO)) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        lines({"key": "file", "value": {}}),
        lines(header(title=" ")),
        lines(header(), {"key": "file", "value": {"path": "a", "content": "?", "encoding": "base64"}}),
        lines(header(), {"key": "file", "value": {"path": "a", "content": "aa==", "encoding": "utf-8"}}),
        lines(header(), {"key": "file", "value": {"path": "../a", "content": "", "encoding": "base64"}}),
        lines(header(), {"key": "lfsFile", "value": {"path": "a.onnx", "oid": "0" * 64, "size": 3}}),
        lines(header(), {"key": "lfsFile", "value": {"path": "a.onnx", "oid": SHA, "size": 3}}),
        lines(header(), {"key": "rename", "value": {"path": "a"}}),
        lines(header(), 3),
    ],
)
def test_damaged_commits_are_refused(hub, api, released, body):
    assert call(hub, "POST", f"/api/models/{REPO}/commit/main", body).status == 400
    assert api.model_info(REPO).sha == released


# Cards


def test_cards_are_validated(hub, api, released):
    reply = call(hub, "POST", "/api/validate-yaml", {"content": CARD, "repoType": "model"}, token=None)
    assert (reply.status, reply.json()) == (200, {"errors": [], "warnings": []})
    broken = "---\nmodel-index:\n- name: m\n  results:\n  - task: {type: t}\n    metrics: [{type: a, value: 1}]\n---\n"
    with pytest.raises(ValueError, match=r"results\[0\].dataset"):
        api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=broken.encode())
    with pytest.raises(ValueError, match="not YAML"):
        api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"---\nlicense: [mit\n---\n")
    assert api.model_info(REPO).sha == released
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"# No metadata")


def test_a_broken_card_is_refused_in_a_commit_too(hub, released):
    card = base64.b64encode(b"---\nlicense: [mit\n---\n").decode()
    value = {"path": "README.md", "encoding": "base64", "content": card}
    reply = call(hub, "POST", f"/api/models/{REPO}/commit/main", lines(header(), {"key": "file", "value": value}))
    assert (reply.status, "not YAML" in reply.json()["error"]) == (400, True)


# Uploads


@pytest.mark.parametrize(
    ("path", "size", "sample", "mode"),
    [
        ("README.md", 10, b"# Title", "regular"),
        ("a/genotype.json", 10, b"{}", "regular"),
        ("ümlaut.txt", 600, ("ü" * 256).encode()[:511], "regular"),
        ("model.safetensors", 10, b"text", "lfs"),
        ("model.int8.onnx", 10, b"text", "lfs"),
        ("check.npz", 10, b"text", "lfs"),
        ("figures/cells.png", 10, b"text", "lfs"),
        ("pytorch_model.bin", 10, b"text", "lfs"),
        ("big.json", 10 * 1024 * 1024, b"{}", "regular"),
        ("big.json", 10 * 1024 * 1024 + 1, b"{}", "lfs"),
        ("no_suffix", 10, b"a\0b", "lfs"),
        ("latin1.txt", 10, b"\xfc\xe4", "lfs"),
    ],
)
def test_which_files_go_through_lfs(hub, released, path, size, sample, mode):
    file = {"path": path, "size": size, "sample": base64.b64encode(sample).decode()}
    (shown,) = call(hub, "POST", f"/api/models/{REPO}/preupload/main", {"files": [file]}).json()["files"]
    assert (shown["path"], shown["uploadMode"], shown["shouldIgnore"]) == (path, mode, False)


def test_preupload_tells_what_is_there(hub, released):
    names = ["README.md", "model.safetensors", "new.txt"]
    ask = {"files": [{"path": name, "size": 1, "sample": ""} for name in names]}
    shown = call(hub, "POST", f"/api/models/{REPO}/preupload/main", ask).json()["files"]
    card = CARD.encode()
    readme = hashlib.sha1(b"blob %d\0" % len(card) + card).hexdigest()
    assert [file.get("oid") for file in shown] == [readme, SHA, None]
    for wrong in ({}, {"files": [3]}, {"files": [{"path": 3}]}, {"files": ask["files"] * 90}, [], b"{"):
        assert call(hub, "POST", f"/api/models/{REPO}/preupload/main", wrong).status == 400
    assert call(hub, "POST", f"/api/models/{REPO}/preupload/v9", ask).headers["X-Error-Code"] == "RevisionNotFound"


def test_lfs_objects_arrive_whole_or_not_at_all(hub, api, released):
    data = b"new weights" * 100
    oid = hashlib.sha256(data).hexdigest()
    objects = f"/{REPO}.git/info/lfs/objects"
    put = f"{objects}/{oid}"
    told = {"oid": oid, "size": len(data)}
    assert call(hub, "PUT", put, data, token=None).status == 403
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [told, {"oid": SHA, "size": len(WEIGHTS)}]}
    new, stored = call(hub, "POST", f"{objects}/batch", batch).json()["objects"]
    assert new["actions"]["upload"]["href"] == hub.url + put
    assert "actions" not in stored
    for wrong in (data[:-1], data[:-1] + b"X", data + b"X"):
        assert call(hub, "PUT", put, wrong, token=None).status == 400
    assert call(hub, "POST", f"{put}/verify", told).status == 404
    assert call(hub, "PUT", put, [data[:7], data[7:]], token=None, chunked=True).status == 200
    assert call(hub, "POST", f"{put}/verify", told).status == 200
    assert call(hub, "POST", f"{put}/verify", {**told, "size": 1}).status == 400
    errors = {"operation": "upload", "objects": [{"oid": "no", "size": 1}, {"oid": SHA, "size": 1}]}
    assert ["error" in shown for shown in call(hub, "POST", f"{objects}/batch", errors).json()["objects"]] == [True] * 2
    assert call(hub, "POST", f"{objects}/batch", {**batch, "operation": "download"}).status == 400


# Files


def test_files_are_found_by_branch_tag_and_commit(hub, api, released, tmp_path):
    api.create_tag(REPO, tag="v1")
    api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=safetensors())
    for revision, size in (("main", 10), ("v1", len(WEIGHTS)), (released, len(WEIGHTS))):
        path = hf_hub_download(REPO, "model.safetensors", revision=revision, endpoint=hub.url, cache_dir=tmp_path / "c")
        assert Path(path).stat().st_size == size
    assert Path(path).parent.name == released
    assert Path(path).resolve().name == SHA
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="v9", endpoint=hub.url, cache_dir=tmp_path / "c")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "model.onnx", endpoint=hub.url, cache_dir=tmp_path / "c")
    assert list((tmp_path / "c").rglob(".no_exist/*/model.onnx"))
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("owner/none", "config.json", endpoint=hub.url, cache_dir=tmp_path / "c")


def test_the_heads_of_files(hub, released):
    weights = get_hf_file_metadata(hf_hub_url(REPO, "model.safetensors", endpoint=hub.url))
    assert (weights.commit_hash, weights.etag, weights.size) == (released, SHA, len(WEIGHTS))
    card = CARD.encode()
    readme = get_hf_file_metadata(hf_hub_url(REPO, "README.md", endpoint=hub.url))
    assert readme.etag == hashlib.sha1(b"blob %d\0" % len(card) + card).hexdigest()
    reply = call(hub, "HEAD", f"/{REPO}/resolve/main/model.safetensors")
    assert (reply.headers["X-Linked-Size"], reply.headers["X-Linked-Etag"]) == (str(len(WEIGHTS)), f'"{SHA}"')
    assert "X-Xet-Hash" not in reply.headers


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-100000", 206, slice(5, None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=100000-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(hub, released, asked, status, part):
    reply = call(hub, "GET", f"/{REPO}/resolve/main/model.safetensors", Range=asked)
    assert reply.status == status
    if part is None:
        assert reply.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"
        return
    assert reply.body == WEIGHTS[part]
    if status == 206:
        start, stop, _ = part.indices(len(WEIGHTS))
        assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(WEIGHTS)}"


def test_an_etag_that_is_held_saves_the_body(hub, released):
    path = f"/{REPO}/resolve/main/model.safetensors"
    for held in (f'"{SHA}"', f'W/"{SHA}"', f'"x", "{SHA}"', "*"):
        reply = call(hub, "GET", path, If_None_Match=held)
        assert (reply.status, reply.body, reply.headers["X-Repo-Commit"]) == (304, b"", released)
    assert call(hub, "GET", path, If_None_Match='"other"').body == WEIGHTS


def test_a_snapshot_is_whole_and_its_checksums_agree(hub, api, released, tmp_path):
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "c"))
    assert folder.name == released
    for path in (tmp_path / "model").rglob("*"):
        copy = folder / path.relative_to(tmp_path / "model")
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    if not hasattr(api, "verify_repo_checksums"):
        pytest.skip("waits for a huggingface_hub that has verify_repo_checksums (early 1.x have none)")
    checked = api.verify_repo_checksums(REPO, revision=released, cache_dir=tmp_path / "c")
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (len(FILES), [], [])
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[:-1] + b"X")
    (wrong,) = api.verify_repo_checksums(REPO, revision=released, cache_dir=tmp_path / "c").mismatches
    assert wrong["path"] == "model.safetensors"


def test_folders_are_listed(api, released):
    def listed(**options) -> dict[str, str]:
        return {entry.path: type(entry).__name__ for entry in api.list_repo_tree(REPO, **options)}

    assert listed(recursive=True) == {**dict.fromkeys(FILES, "RepoFile"), "figures": "RepoFolder"}
    assert "figures/cells.png" not in listed()
    assert listed(path_in_repo="figures") == {"figures/cells.png": "RepoFile"}
    for wrong in ("nothing", "README.md"):
        with pytest.raises(EntryNotFoundError):
            listed(path_in_repo=wrong)
    with pytest.raises(RevisionNotFoundError):
        listed(revision="v9")
    found = api.get_paths_info(REPO, ["figures", "model.safetensors", "nothing"])
    assert {entry.path for entry in found} == {"figures", "model.safetensors"}
    assert next(entry.lfs.sha256 for entry in found if entry.path == "model.safetensors") == SHA
    asked = {"paths": ["README.md"]}
    (file,) = HfApi.get_paths_info(api, REPO, asked["paths"])
    assert file.size == len(CARD.encode())


def test_long_lists_come_in_pages(serve, tmp_path):
    hub = serve("paged", page_size=3)
    api = HfApi(endpoint=hub.url, token=hub.token)
    for i in range(4):
        api.create_repo(f"owner/m{i}")
    names = {f"f{i}.txt" for i in range(7)}
    api.create_commit("owner/m0", [CommitOperationAdd(name, b"x") for name in names], commit_message="files")
    assert sorted(api.list_repo_files("owner/m0")) == sorted({".gitattributes", *names})
    assert sum(seen.path.endswith("/tree/main") for seen in hub.requests) == 3
    assert sorted(model.id for model in api.list_models(author="owner")) == [f"owner/m{i}" for i in range(4)]
    for i in range(3):
        api.upload_file(repo_id="owner/m1", path_in_repo="a", path_or_fileobj=b"%d" % i, commit_message=str(i))
    assert [commit.title for commit in api.list_repo_commits("owner/m1")] == ["2", "1", "0", "initial commit"]


# Starting and stopping


def test_another_hub_on_the_same_folder_shows_the_same(serve, hub, released):
    hub.stop()
    again = serve()
    api = HfApi(endpoint=again.url, token=again.token)
    assert api.model_info(REPO).sha == released
    assert set(api.list_repo_files(REPO)) == FILES


def test_a_stopped_hub_is_out_of_reach_and_comes_back_at_its_address(hub, released, tmp_path):
    url = hub.url
    get = {"endpoint": url, "cache_dir": tmp_path / "c"}
    kept = hf_hub_download(REPO, "config.json", **get)
    hub.stop()
    hub.stop()
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "README.md", **get)
    assert hf_hub_download(REPO, "config.json", **get) == kept
    hub.start()
    assert hub.url == url
    assert hf_hub_download(REPO, "README.md", **get)
    with pytest.raises(UsageError, match="serves already"):
        hub.start()


def test_it_serves_this_machine_only(tmp_path):
    for host in ("0.0.0.0", "192.168.1.1", "::", "example.org", ""):
        with pytest.raises(UsageError, match="this machine only"):
            LocalHub(tmp_path, host=host)


def test_wrong_use_is_an_error(hub, tmp_path):
    with pytest.raises(UsageError, match="before it is started"):
        LocalHub(tmp_path / "x").url
    for token in ("", "a b", "ä"):
        with pytest.raises(UsageError, match="token"):
            LocalHub(tmp_path / "x", token)
    taken = int(hub.url.rpartition(":")[2])
    for port in (taken, 70000):
        with pytest.raises(UsageError, match="Choose another port"):
            LocalHub(tmp_path / "x", port=port).start()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritableError):
        LocalHub(tmp_path / "file")


def test_the_environment_points_a_process_at_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    values = hub.environment(tmp_path / "home")
    assert values["HF_ENDPOINT"] == hub.url
    assert values["HF_TOKEN"] == hub.token
    assert values["HF_HOME"] == str(tmp_path / "home")
    assert values["HF_HUB_DISABLE_XET"] == values["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert values["NO_PROXY"] == "example.org,127.0.0.1"
    assert Path(hub.environment()["HF_HOME"]).is_relative_to(hub.folder)


ROOT = Path(rnas_zoo.__file__).parents[1]


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "rnas_zoo.testing.hub", str(tmp_path / "a hub"), "--token", "hf_mine"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = [process.stdout.readline() for _ in range(4)]
        exports = [shlex.split(line)[1:] for line in said if line.startswith("export ")]
        assert len(exports) == 2
        values = dict(pair.split("=", 1) for line in exports for pair in line)
        assert values["HF_TOKEN"] == "hf_mine"
        assert values["HF_HUB_DISABLE_XET"] == "1"
        request = urllib.request.Request(
            values["HF_ENDPOINT"] + "/api/whoami-v2", headers={"Authorization": "Bearer hf_mine"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_the_command_explains_what_it_cannot_do(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert hub_module.main([str(tmp_path / "file")]) == 2
    assert "cannot keep a Hub in" in capsys.readouterr().err


def test_importing_it_is_light():
    program = (
        "import sys, rnas_zoo.testing.hub\n"
        "print([m for m in ('torch', 'timm', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


TIMM = """
import sys, timm, torch
from timm.models import push_to_hf_hub
from huggingface_hub import HfApi
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=7).eval()
push_to_hf_hub(model, "owner/net", model_config={"label_names": list("abcdefg")}, safe_serialization=True)
HfApi().create_tag("owner/net", tag="v1")
push_to_hf_hub(timm.create_model("test_resnet", num_classes=7), "owner/net", safe_serialization=True)
x = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    expected = model(x)
    tagged = timm.create_model("hf-hub:owner/net@v1", pretrained=True).eval()(x)
    newest = timm.create_model("hf-hub:owner/net", pretrained=True).eval()(x)
print(torch.equal(expected, tagged), torch.equal(expected, newest), "hf_xet" in sys.modules)
"""


@pytest.mark.skipif(find_spec("timm") is None, reason="waits for timm: pip install timm")
def test_timm_pushes_and_loads_models(hub, tmp_path, warm_python):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **hub.environment(tmp_path / "home")}
    done = subprocess.run([warm_python, "-c", TIMM], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split() == ["True", "False", "False"], done.stderr[-3000:]
    assert all(seen.authorized for seen in hub.requests if seen.method != "PUT")
