"""Publishing on a bad day: what is cut, lost, altered or refused on the way is named, and the next run goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from rnas_zoo.errors import CheckFailedError, HubError
from rnas_zoo.hub import publish, upload

from . import publishing
from .publishing import NAME, REPO, TOKEN, digests, held, send, titles, use_registry, writes

folder, hub = publishing.folder, publishing.hub  # fixtures


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
