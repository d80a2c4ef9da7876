"""Repositories on disk: nothing is lost, nothing half-written is kept, nothing leaves the folder."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
from collections.abc import Iterator

import pytest

from rnas_zoo.errors import OutputNotWritableError
from rnas_zoo.testing.objects import Change, git_id
from rnas_zoo.testing.store import Refused, Store

REPO = "owner/name"


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "hub")
    made.create(REPO)
    return made


@contextlib.contextmanager
def refused(status: int, code: str = "") -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_folder_opened_again_shows_the_same(store):
    store.commit(REPO, "main", [Change("a/b.txt", data=b"one")], "first", "why")
    store.commit(REPO, "main", [Change("c.txt", data=b"two")], "second")
    store.set_ref(REPO, "tags", "v1", store.at(REPO, "main").parent)
    store.create("other/x", private=True)
    again = Store(store.folder)
    assert again.names() == ["other/x", REPO]
    assert again.settings("other/x")["private"] is True
    assert again.history(REPO, "main") == store.history(REPO, "main")
    assert [commit.title for commit in again.history(REPO, "main")] == ["second", "first", "initial commit"]
    assert set(again.at(REPO, "v1").files) == {".gitattributes", "a/b.txt"}
    entry = again.at(REPO, "main").files["c.txt"]
    assert again.blob(entry.sha256).read_bytes() == b"two"
    assert entry.sha256 == hashlib.sha256(b"two").hexdigest()


def test_ids_are_those_of_git():
    try:
        told = subprocess.run(["git", "hash-object", "--stdin"], input=b"some text\n", capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("waits for git on the PATH, whose ids these are compared with")
    assert git_id(b"some text\n") == told.stdout.decode().strip()


@pytest.mark.parametrize("name", ["name", "a/b/c", "../x", "a/..", "a/.b", "a/b--c", "a/b..c", "a/", "a/b c", ""])
def test_names_that_are_none_are_refused(store, name):
    with refused(400):
        store.create(name)
    assert store.names() == [REPO]


def test_a_repository_is_made_once_and_deleted_whole(store):
    with refused(409):
        store.create(REPO)
    store.delete(REPO)
    assert store.names() == []
    with refused(404, "RepoNotFound"):
        store.settings(REPO)
    store.create(REPO)
    assert len(store.history(REPO, "main")) == 1


def test_a_commit_of_what_is_there_changes_nothing(store):
    first = store.commit(REPO, "main", [Change("a", data=b"1")], "first")
    assert store.commit(REPO, "main", [Change("a", data=b"1")], "again") == first
    assert len(store.history(REPO, "main")) == 2


def test_a_stale_parent_is_refused(store):
    old = store.at(REPO, "main").oid
    new = store.commit(REPO, "main", [Change("a", data=b"1")], "first").oid
    with refused(412):
        store.commit(REPO, "main", [Change("a", data=b"2")], "late", parent=old)
    assert store.at(REPO, "main").oid == new
    assert store.commit(REPO, "main", [Change("a", data=b"2")], "in time", parent=new[:7]).parent == new


def test_files_and_folders_are_deleted(store):
    store.commit(REPO, "main", [Change(f"{p}", data=b"1") for p in ("a/x", "a/b/y", "ab", "c")], "files")
    left = store.commit(REPO, "main", [Change("a/", folder=True), Change("c")], "fewer")
    assert set(left.files) == {".gitattributes", "ab"}
    for gone in (Change("c"), Change("a/", folder=True)):
        with refused(404, "EntryNotFound"):
            store.commit(REPO, "main", [gone], "twice")


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/../b", "./a", ".git/config", "a\\b", "a/"])
def test_paths_stay_inside_the_repository(store, path):
    with refused(400):
        store.commit(REPO, "main", [Change(path, data=b"1")], "bad")


def test_a_file_cannot_be_a_folder(store):
    store.commit(REPO, "main", [Change("a", data=b"1")], "file")
    with refused(400):
        store.commit(REPO, "main", [Change("a/b/c", data=b"1")], "below it")
    moved = store.commit(REPO, "main", [Change("a"), Change("a/b/c", data=b"1")], "instead of it")
    assert set(moved.files) == {".gitattributes", "a/b/c"}


def test_commits_go_to_branches(store):
    oid = store.at(REPO, "main").oid
    store.set_ref(REPO, "tags", "v1", oid)
    for revision in ("v1", oid):
        with refused(400):
            store.commit(REPO, revision, [Change("a", data=b"1")], "no branch")
    with refused(404, "RevisionNotFound"):
        store.commit(REPO, "elsewhere", [Change("a", data=b"1")], "no branch")


def test_uploads_are_kept_only_if_they_are_what_was_announced(store):
    data = b"weights" * 100
    sha256 = hashlib.sha256(data).hexdigest()
    for wrong in (data[:-1], data + b"x", b"W" + data[1:]):
        with refused(400):
            store.receive(sha256, len(data), [wrong])
        assert store.size(sha256) is None
    assert [path for path in store.blob(sha256).parent.iterdir() if path.is_file()] == []
    with refused(400):
        store.commit(REPO, "main", [Change("model.onnx", sha256=sha256, size=len(data))], "not uploaded")
    store.receive(sha256, len(data), [data[:10], data[10:]])
    with refused(400):
        store.commit(REPO, "main", [Change("model.onnx", sha256=sha256, size=1)], "wrong size")
    entry = store.commit(REPO, "main", [Change("model.onnx", sha256=sha256)], "uploaded").files["model.onnx"]
    assert (entry.size, entry.lfs, entry.etag) == (700, True, sha256)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 63, "G" * 64])
def test_what_is_no_digest_has_no_contents(store, sha256):
    assert store.size(sha256) is None


def test_revisions_are_found_by_name_and_by_the_first_digits(store):
    oid = store.commit(REPO, "main", [Change("a", data=b"1")], "first").oid
    for revision in ("main", oid, oid[:7]):
        assert store.at(REPO, revision).oid == oid
    for revision in (oid[:6], "0" * 40, "nothing", "../main"):
        with refused(404, "RevisionNotFound"):
            store.at(REPO, revision)


def test_branches_and_tags(store):
    oid = store.at(REPO, "main").oid
    for kind in ("branches", "tags"):
        store.set_ref(REPO, kind, "v1.0", oid)
        with refused(409):
            store.set_ref(REPO, kind, "v1.0", oid)
        for name in ("", "a b", "../x", "a..b", "/a"):
            with refused(400):
                store.set_ref(REPO, kind, name, oid)
        store.set_ref(REPO, kind, "v1.0", None)
        with refused(404, "RevisionNotFound"):
            store.set_ref(REPO, kind, "v1.0", None)
    with refused(403):
        store.set_ref(REPO, "branches", "main", None)


def test_commits_from_several_threads_are_all_kept(store):
    def work(worker: int) -> None:
        for i in range(5):
            store.commit(REPO, "main", [Change(f"{worker}/{i}", data=b"%d" % i)], f"{worker} {i}")

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(store.at(REPO, "main").files) == 1 + 15
    assert len(store.history(REPO, "main")) == 1 + 15


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritableError, match="cannot keep a Hub in"):
        Store(tmp_path / "file")
