"""Publishing, with the real client over HTTP: what arrives is what the folder holds, whatever happens on the way."""

from __future__ import annotations

import shutil
from contextlib import suppress

import pytest
from huggingface_hub import HfApi, constants, get_token
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnas_zoo.errors import CheckFailedError, HubError, UsageError
from rnas_zoo.hub import publish, upload
from rnas_zoo.hub.publish import publish_all

from . import publishing
from .publishing import CARD, REPO, TOKEN, change, digests, held, real_release, send, titles, writes

folder, hub = publishing.folder, publishing.hub  # fixtures


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A bundled release with a card of its own; tests must not change it."""
    return real_release(tmp_path_factory.mktemp("real"))


# A folder with everything in it


def test_a_real_release_is_validated_sent_and_loads_from_the_hub(real, hub):
    done = publish.publish(real, f"owner/{real.name}", tag="v1")
    assert held(hub, done.repo) == held(hub, done.repo, "v1") == digests(real)
    assert titles(hub, done.repo) == [f"Publish {real.name}", "initial commit"]
    assert (done.name, done.created, done.private, done.tag, done.recorded) == (real.name, True, False, "v1", False)
    assert done.commit == hub.store.at(done.repo, "main").oid
    assert set(done.new) == set(digests(real)) == set(done.new + done.unchanged + done.changed + done.removed)
    assert done.bytes == done.sent == sum(path.stat().st_size for path in real.rglob("*") if path.is_file())
    assert done.url == f"{hub.url}/owner/{real.name}"
    found = HfApi(endpoint=hub.url, token=False).model_info(done.repo)
    assert {"timm", "onnx", "adversarial-robustness"} <= set(found.tags)
    assert found.card_data.license == "mit"


def test_a_folder_with_faults_is_refused_before_any_request(real, hub, tmp_path):
    folder = shutil.copytree(real, tmp_path / "faulty")
    (folder / "weights.pt").write_bytes(b"x")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "It is unbreakable.\n")
    with pytest.raises(CheckFailedError, match=r"weights\.pt can hold a pickle(.|\n)*README\.md: line \d+") as caught:
        publish.publish(folder, "owner/faulty")
    assert caught.value.exit_code == 1
    assert hub.requests == []


# What a commit does


def test_the_same_again_makes_no_commit_and_is_compared_all_the_same(folder, hub):
    first = send(folder)
    since = len(hub.requests)
    again = send(folder)
    assert (again.commit, again.created) == (first.commit, False)
    assert not (again.new)
    assert not (again.changed)
    assert not (again.removed)
    assert not (again.sent)
    assert set(again.unchanged) == set(digests(folder))
    assert writes(hub, since) == []
    fetched = {seen.path.partition("/resolve/")[2] for seen in hub.requests[since:] if seen.method == "GET"}
    assert {f"{first.commit}/{path}" for path in digests(folder)} <= fetched
    assert len(titles(hub)) == 2


def test_what_changed_goes_in_one_commit_and_what_is_gone_is_removed(folder, hub):
    send(folder)
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.upload_file(path_or_fileobj=b"notes", path_in_repo="by hand/notes.txt", repo_id=REPO)
    change(folder)
    since = len(hub.requests)
    done = send(folder)
    assert held(hub, REPO) == digests(folder)
    assert (done.new, done.changed) == (("limits.json",), ("model.safetensors",))
    assert done.removed == ("by hand/notes.txt", "figures/curve.png")
    assert len(titles(hub)) == 4
    assert len([line for line in writes(hub, since) if "/commit/" in line]) == 1
    assert len([line for line in writes(hub, since) if line.startswith("PUT")]) == 1


def test_a_commit_of_someone_else_in_between_is_not_overwritten(folder, hub, monkeypatch):
    api, original = HfApi(endpoint=hub.url, token=TOKEN), upload.plan

    def meanwhile(files, remote):
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo="README.md", repo_id=REPO)
        return original(files, remote)

    send(folder)
    change(folder)
    monkeypatch.setattr(upload, "plan", meanwhile)
    with pytest.raises(HubError, match=r"changed by someone else since it was read at [0-9a-f]{12}; nothing was over"):
        send(folder)
    assert len(titles(hub)) == 3
    assert (hub.store.blob(hub.store.at(REPO, "main").files["README.md"].sha256)).read_bytes() == b"theirs"
    monkeypatch.setattr(upload, "plan", original)
    send(folder)
    assert held(hub, REPO) == digests(folder)


contents = st.dictionaries(
    st.sampled_from(["README.md", "a", "a/b", "a b.png", "ü.txt", "deep/er/model.onnx", "w.safetensors", "x.npz"]),
    st.sampled_from([b"", b"text\n", b"\0binary", b"\xff\xfe", CARD.encode(), b"z" * 5000]),
    max_size=6,
).filter(lambda files: not {"a", "a/b"} <= files.keys())


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(contents, min_size=1, max_size=3))
def test_after_publishing_the_repository_is_the_folder(hub, tmp_path_factory, states):
    api = HfApi(endpoint=hub.url, token=TOKEN)
    repo = f"owner/n{len(hub.store.names())}"
    api.create_repo(repo)
    for state in states:
        folder = tmp_path_factory.mktemp("state")
        for path, data in state.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(CARD.encode() if path == "README.md" else data)
        files, remote = upload.local_files(folder), upload.read(api, repo)
        wanted, before = upload.plan(files, remote), held(hub, repo)
        assert wanted.differs == (before != digests(folder))
        assert set(wanted.unchanged) == {path for path, sha in digests(folder).items() if before.get(path) == sha}
        with publish.session.transfers(hub.url):
            made = remote.commit
            if wanted.differs:
                made = upload.commit(api, repo, files, wanted, remote.commit, "x")
            upload.compare(api, repo, made, files)
        assert held(hub, repo) == digests(folder)


# Tags


def test_a_tag_stays_where_it_is(folder, hub):
    first = send(folder, tag="v1")
    assert send(folder, tag="v1").commit == first.commit
    change(folder)
    since = len(hub.requests)
    with pytest.raises(UsageError, match=rf"v1 of {REPO} is at commit {first.commit}.* head {first.commit} is not wh"):
        send(folder, tag="v1")
    assert writes(hub, since) == []
    second = send(folder, tag="v2")
    since = len(hub.requests)
    with pytest.raises(UsageError, match=rf"is at commit {first.commit} already; its head {second.commit} is what"):
        send(folder, tag="v1")
    assert writes(hub, since) == []
    assert hub.store.refs(REPO)["tags"] == {"v1": first.commit, "v2": second.commit}


@pytest.mark.parametrize("tag", ["", "v 1", "-v", "v1.", "a..b", "a/b", "ü"])
def test_tags_that_no_repository_takes_are_refused_at_once(folder, hub, tag):
    with pytest.raises(UsageError, match="cannot be a tag"):
        send(folder, tag=tag)
    assert hub.requests == []


def test_a_tag_that_is_a_branch_is_refused(folder, hub):
    send(folder)
    with pytest.raises(UsageError, match="has a branch main"):
        send(folder, tag="main")


# Looking without writing


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(folder, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = send(folder, dry_run=True)
    assert (done.created, done.commit, done.dry_run, done.recorded) == (True, None, True, False)
    assert set(done.new) == set(digests(folder))
    assert done.sent == done.bytes > 9000
    assert hub.store.names() == []
    assert writes(hub) == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    first = send(folder)
    monkeypatch.delenv("HF_TOKEN")
    since = len(hub.requests)
    assert send(folder, dry_run=True).commit == first.commit
    change(folder)
    done = send(folder, dry_run=True)
    assert (done.new, done.changed) == (("limits.json",), ("model.safetensors",))
    assert (done.removed, done.commit) == (("figures/curve.png",), None)
    assert done.sent == len(b"{}\n") + (folder / "model.safetensors").stat().st_size
    assert writes(hub, since) == []
    assert held(hub, REPO, first.commit) != digests(folder)


# Who may see and write it


def test_a_private_repository_is_made_private_and_a_public_one_is_not_hidden_by_an_option(folder, hub):
    assert send(folder, private=True).private
    assert hub.store.settings(REPO)["private"]
    assert send(folder).private  # it stays what it is
    send(folder, "owner/open")
    with pytest.raises(UsageError, match="owner/open is public: --private is for new ones"):
        send(folder, "owner/open", private=True)
    assert not hub.store.settings("owner/open")["private"]


def test_without_a_token_nothing_is_even_validated(folder, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(publish, "problems", lambda folder: pytest.fail("validated"))
    with pytest.raises(HubError, match="`hf auth login`, or set HF_TOKEN"):
        send(folder)
    with pytest.raises(HubError, match="needs a token"):
        publish_all(folder.parent, "owner")
    assert hub.requests == []


def test_the_token_of_the_clients_own_store_serves_too(folder, hub, monkeypatch, tmp_path):
    (tmp_path / "stored").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "stored"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)  # publishing asks for it explicitly
    assert send(folder).created


@pytest.mark.parametrize("token", ["hf_unknown", "hf_\x01control", "hf_with space"])
def test_a_token_that_the_hub_does_not_know_is_named_but_not_shown(folder, hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as caught:
        send(folder)
    assert "token" in str(caught.value)
    assert get_token() not in str(caught.value)
    assert hub.store.names() == []


@pytest.mark.parametrize("path", ["/api/repos/create", "*/commit/main", "*/preupload/main"])
def test_a_token_that_may_not_write_there_is_named(folder, hub, path):
    hub.fail("error", path, status=403, times=None)
    with pytest.raises(
        HubError, match=r"answered 403 \(.*\): the token may not do this\. It must be one that may writ"
    ):
        send(folder)


@pytest.mark.parametrize("to", ["name", "a/b/c", "a/", "/b", "a/b--c", "a/b..c", "a/.b", "a/b c", "a/" + "n" * 97])
def test_names_that_the_hub_does_not_take_are_refused_first(folder, hub, to):
    with pytest.raises(UsageError):
        send(folder, to)
    assert hub.requests == []


def test_a_path_that_is_no_folder_is_refused(hub, tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        send(tmp_path / "nothing")


# xet


def test_xet_is_off_for_every_hub_but_one_and_only_meanwhile(folder, hub):
    seen = []
    for url in (publish.session.HUB, hub.url, "https://huggingface.co.example.org"):
        with suppress(KeyError), publish.session.transfers(url):
            seen.append(constants.HF_HUB_DISABLE_XET)
            raise KeyError
        assert constants.HF_HUB_DISABLE_XET is False
    assert seen == [False, True, True]
    send(folder)  # with xet on, the client would ask for its token and fail
    assert not any("xet" in seen.path for seen in hub.requests)
    assert constants.HF_HUB_DISABLE_XET is False
