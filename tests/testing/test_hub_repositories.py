"""Repositories of the local Hub, their branches, tags, commits and cards, by the real client."""

from __future__ import annotations

import base64
import hashlib

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .raw import CARD, FILES, REPO, SHA, WEIGHTS, call, header, lines, status_of

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
