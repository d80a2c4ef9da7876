"""Files of the local Hub, sent and fetched by the real client: whole, in parts, in pages, or not at all."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .raw import CARD, FILES, REPO, SHA, WEIGHTS, call, safetensors

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
