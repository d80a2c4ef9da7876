"""Publishing, with the real client over HTTP: what arrives is what the folder holds, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, get_token
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnas_zoo.errors import CheckFailedError, DataError, HubError, UsageError
from rnas_zoo.hub import publish, upload
from rnas_zoo.hub.publish import publish_all
from rnas_zoo.testing.hub import LocalHub

from .publishing import CARD, NAME, TOKEN, digests, held, real_release, small_release, use, use_registry, writes

REPO = f"owner/{NAME}"
OTHER, TEMPLATE = "https://hub.example.org", "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A bundled release with a card of its own; tests must not change it."""
    return real_release(tmp_path_factory.mktemp("real"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LocalHub(tmp_path / "hub", TOKEN) as hub:
        use(hub, tmp_path, monkeypatch)
        yield hub


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small release folder that counts as valid."""
    monkeypatch.setattr(publish, "problems", lambda folder: [])
    return small_release(tmp_path / "release")


def send(folder, to=REPO, **options):
    return publish.publish(folder, to, **options)


def titles(hub, repo=REPO):
    return [commit.title for commit in hub.store.history(repo, "main")]


def change(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0other weights" * 100)
    (folder / "figures" / "curve.png").unlink()
    (folder / "limits.json").write_text("{}\n")


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


# A bad day


def test_an_upload_that_is_cut_ends_in_an_error_and_goes_on_where_it_stopped(folder, hub):
    hub.fail("cut", "model.safetensors", times=None)
    with pytest.raises(HubError, match=r"model\.safetensors.*connection failed.*the same command goes on"):
        send(folder)
    assert titles(hub) == ["initial commit"]
    arrived = {seen.path for seen in hub.requests if seen.method == "PUT" and seen.status == 200}
    assert arrived
    hub.faults.clear()
    since = len(hub.requests)
    send(folder)
    assert held(hub, REPO) == digests(folder)
    sent = {seen.path for seen in hub.requests[since:] if seen.method == "PUT"}
    assert sent
    assert not sent & arrived


def test_a_process_that_is_killed_while_it_sends_leaves_nothing_half_done(folder, hub, tmp_path):
    program = (
        "import sys; from huggingface_hub import HfApi; from pathlib import Path; from rnas_zoo.hub import upload\n"
        "api, files = HfApi(), upload.local_files(Path(sys.argv[1]))\n"
        "api.create_repo(sys.argv[2]); remote = upload.read(api, sys.argv[2])\n"
        "upload.commit(api, sys.argv[2], files, upload.plan(files, remote), remote.commit, 'x')\n"
    )
    hub.fail("slow", "model.safetensors", seconds=15)
    environment = {**hub.environment(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), REPO], env=environment)
    wait = threading.Event()
    done = False
    for _ in range(600):
        done = any(seen.method == "PUT" and seen.status == 200 for seen in hub.requests)
        if done or process.poll() is not None:
            break
        wait.wait(0.05)
    process.kill()
    process.wait()
    assert done
    assert titles(hub) == ["initial commit"]
    hub.faults.clear()
    since = len(hub.requests)
    arrived = {seen.path for seen in hub.requests[:since] if seen.method == "PUT" and seen.status == 200}
    send(folder)
    assert held(hub, REPO) == digests(folder)
    again = {seen.path for seen in hub.requests[since:] if seen.method == "PUT" and not seen.faults}
    assert not arrived & again, "what the Hub has is not sent again"


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_run(folder, hub):
    hub.fail("commit")
    with pytest.raises(HubError, match="cannot be written: The connection failed"):
        send(folder)
    since = len(hub.requests)
    done = send(folder, tag="v1")
    assert not done.sent
    assert held(hub, REPO, "v1") == digests(folder)
    assert [line.split("/")[-2] for line in writes(hub, since)] == ["tag"]
    assert titles(hub) == [f"Publish {NAME}", "initial commit"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (f"/api/models/{REPO}", "GET"),
        ("*/tree/*", "GET"),
        ("*/refs", "GET"),
        ("/api/repos/create", "POST"),
        ("*/preupload/*", "POST"),
        ("*/objects/batch", "POST"),
        ("verdicts.npz", "PUT"),
        ("*/verify", "POST"),
        ("*/commit/main", "POST"),
        ("*/resolve/*/config.json", "GET"),
        ("*/tag/*", "POST"),
    ],
)
def test_an_error_of_the_server_passes_or_is_named_and_the_next_run_finishes(folder, hub, path, method):
    fault = hub.fail("error", path, method=method, status=503)
    message = ""
    try:
        send(folder, tag="v1")
    except HubError as error:
        message = str(error)
        send(folder, tag="v1")
    assert not message or ("503" in message and "the same command goes on where it stopped" in message)
    assert fault.happened == 1
    assert held(hub, REPO, "v1") == digests(folder)
    assert titles(hub) == [f"Publish {NAME}", "initial commit"]


def test_files_that_come_back_different_are_named_and_nothing_is_tagged_or_recorded(folder, hub, monkeypatch, tmp_path):
    cards = use_registry(tmp_path / "zoo" / "model_cards", monkeypatch)
    folder = folder.rename(cards / NAME)
    hub.fail("corrupt", "model.safetensors")
    with pytest.raises(CheckFailedError, match=r"commit [0-9a-f]{12} of .* model\.safetensors differs") as caught:
        send(folder, tag="v1")
    assert caught.value.exit_code == 1
    assert "README.md" not in str(caught.value)
    assert hub.store.refs(REPO)["tags"] == {}
    assert not (cards / "published.json").exists()
    done = send(folder, tag="v1", record=True)
    assert done.recorded
    assert not done.sent


def test_a_repository_with_other_files_than_the_commit_should_have_is_noticed(folder, hub):
    commit = send(folder).commit
    files = upload.local_files(folder)
    with publish.session.transfers(hub.url):
        api = HfApi(endpoint=hub.url, token=TOKEN)
        upload.compare(api, REPO, commit, files)
        extra = {**files, "limits.json": files["config.json"]}
        extra.pop("README.md")
        with pytest.raises(CheckFailedError, match=r"limits\.json is missing, README\.md should not be there\."):
            upload.compare(api, REPO, commit, extra)


def test_no_hub_at_the_address_is_an_error_that_says_so(folder, hub):
    hub.stop()
    with pytest.raises(HubError, match=rf"{REPO} cannot be read: The connection failed .*HF_ENDPOINT"):
        send(folder)


def test_offline_mode_is_named(folder, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set: unset it"):
        send(folder)


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


# The registry


@pytest.fixture
def cards(tmp_path, monkeypatch, folder):
    """The registry's folder with two releases."""
    cards = use_registry(tmp_path / "zoo" / "model_cards", monkeypatch)
    for name in (NAME, "rnas_tiny.clean_digits"):
        small_release(cards / name, name)
    return cards


def listed(cards):
    return json.loads((cards / "published.json").read_text())


def test_what_was_published_of_the_registry_is_listed_and_the_rest_stays(cards, hub):
    before = {"repo": "someone/else", "commit": "0" * 40, "digest": "1" * 64}
    (cards / "published.json").write_text(json.dumps({"schema": 1, "models": {"rnas_x.y": before, NAME: before}}))
    done = send(cards / NAME, record=True)
    config = json.loads((cards / NAME / "config.json").read_text())
    cfg = config["pretrained_cfg"]
    digest = cfg["notes"][0].removeprefix("tensors-sha256:")
    entry = {"repo": REPO, "commit": done.commit, "digest": digest, "pretrained_cfg": cfg}
    assert done.recorded
    assert listed(cards) == {"schema": 1, "models": {NAME: entry, "rnas_x.y": before}}


@pytest.mark.parametrize("why", ["private", "no record", "not huggingface.co", "dry run", "other folder", "other Hub"])
def test_what_users_cannot_get_by_name_is_not_listed(cards, hub, monkeypatch, tmp_path, why):
    options, folder = {"record": True}, cards / NAME
    if why == "private":
        options["private"] = True
    elif why == "no record":
        options["record"] = False
    elif why == "not huggingface.co":
        del options["record"]
    elif why == "dry run":
        send(folder, record=False)
        options["dry_run"] = True
    elif why == "other folder":
        folder = shutil.copytree(folder, tmp_path / NAME)
    else:
        for name, value in {"ENDPOINT": OTHER, "HUGGINGFACE_CO_URL_TEMPLATE": OTHER + TEMPLATE}.items():
            monkeypatch.setattr(constants, name, value)
        options["endpoint"] = hub.url + "/"
    done = send(folder, **options)
    assert not done.recorded
    assert not (cards / "published.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2, "models": {}}', '{"schema": 1, "models": []}'])
def test_a_damaged_list_is_found_before_anything_is_sent(cards, hub, text):
    (cards / "published.json").write_text(text)
    send(cards / NAME, record=False)
    change(cards / NAME)
    since = len(hub.requests)
    with pytest.raises(DataError, match=r"published\.json is no list of schema 1"):
        send(cards / NAME, record=True)
    assert writes(hub, since) == []
    assert (cards / "published.json").read_text() == text


def test_all_releases_of_a_directory_go_to_repositories_of_their_names(cards, hub):
    (cards / "README.md").write_text("no release")
    (cards / ".left.tmp").mkdir()
    shutil.copy(cards / NAME / "config.json", cards / ".left.tmp")
    done, failed = publish_all(cards, "owner", tag="v1", record=True)
    assert failed == {}
    assert [each.name for each in done] == ["rnas_tiny.clean_digits", NAME]
    for each in done:
        assert each.repo == f"owner/{each.name}"
        assert held(hub, each.repo, "v1") == digests(cards / each.name)
        assert listed(cards)["models"][each.name]["commit"] == each.commit
    since = len(hub.requests)
    again, _ = publish_all(cards, "owner", tag="v1", record=True)
    assert [each.commit for each in again] == [each.commit for each in done]
    assert writes(hub, since) == []


def test_one_release_that_fails_does_not_stop_the_others(cards, hub):
    hub.fail("error", "/api/models/owner/rnas_tiny.clean_digits/commit/main", status=403)
    done, failed = publish_all(cards, "owner", record=True)
    assert [each.name for each in done] == [NAME]
    assert list(failed) == ["rnas_tiny.clean_digits"]
    assert "403" in str(failed["rnas_tiny.clean_digits"])
    assert list(listed(cards)["models"]) == [NAME]
    done, failed = publish_all(cards, "owner", record=True)
    assert failed == {}
    assert set(listed(cards)["models"]) == {NAME, "rnas_tiny.clean_digits"}


def test_all_are_validated_before_the_first_is_sent(cards, hub, monkeypatch):
    monkeypatch.setattr(publish, "problems", lambda folder: ["no good"] if "pgd" in folder.name else [])
    with pytest.raises(CheckFailedError, match=rf"{NAME} cannot be published:\n  no good\nnothing was sent"):
        publish_all(cards, "owner")
    assert hub.requests == []


def test_a_directory_without_releases_two_of_one_name_and_no_owner_are_refused(cards, hub, tmp_path):
    with pytest.raises(UsageError, match="holds no release folders"):
        publish_all(tmp_path / "hub", "owner")
    with pytest.raises(UsageError, match="no such name"):
        publish_all(cards, "owner/name")
    shutil.copytree(cards / NAME, cards / "copy")
    with pytest.raises(UsageError, match=f"are both called {NAME}"):
        publish_all(cards, "owner")
    assert hub.requests == []
