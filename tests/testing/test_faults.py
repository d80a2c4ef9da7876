"""The faults of the local Hub happen as often as asked, and the real client meets them as it would meet real ones."""

from __future__ import annotations

import hashlib
import http.client
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from rnas_zoo.errors import UsageError
from rnas_zoo.testing.faults import KINDS, Faults

from .raw import WEIGHTS, call, header, lines, write_model

REPO = "owner/tiny"
FILE = f"/{REPO}/resolve/main/model.safetensors"
SHA = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def released(hub, api: HfApi, tmp_path: Path) -> str:
    api.create_repo(REPO)
    oid = api.upload_folder(repo_id=REPO, folder_path=write_model(tmp_path / "model")).oid
    hub.requests.clear()
    return oid


@pytest.fixture
def download(hub, released, tmp_path):
    """Downloads a file of the model into a cache and returns its bytes."""

    def get(name: str = "model.safetensors") -> bytes:
        return Path(hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path / "c")).read_bytes()

    return get


def snapshot_files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "c").rglob("snapshots/*/*")]


def seen(hub, method: str) -> list[tuple[int | None, tuple[str, ...]]]:
    return [(seen.status, seen.faults) for seen in hub.requests if seen.method == method]


# Asking for faults


def test_unknown_faults_name_the_known(hub):
    with pytest.raises(UsageError, match="Did you mean truncate") as caught:
        hub.fail("truncated")
    assert all(kind in str(caught.value) for kind in KINDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "error", "times": 0}, "times must be 1 or more"),
        ({"kind": "error", "method": "FETCH"}, "method must be one of"),
        ({"kind": "error", "status": 200}, "status must be that of an error"),
        ({"kind": "error", "seconds": 3}, "seconds belongs to slow"),
        ({"kind": "slow", "status": 500}, "status belongs to error"),
        ({"kind": "slow", "after": 3}, "after belongs to truncate and cut"),
        ({"kind": "cut", "after": -1}, "after must be 0 or more"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(arguments, words):
    with pytest.raises(UsageError, match=words):
        Faults().add(**arguments)


def test_faults_are_taken_in_order_by_those_they_fit():
    faults = Faults()
    first, second = faults.add("error", "*.onnx", method="GET"), faults.add("error", times=2)
    assert faults.take("slow", "GET", ["a.onnx"]) is None
    assert faults.take("error", "HEAD", ["a.onnx"]) is second
    assert faults.take("error", "GET", ["/o/n/resolve/main/a.onnx", "a.onnx"]) is first
    assert faults.take("error", "GET", ["a.onnx"]) is second
    assert faults.take("error", "GET", ["a.onnx"]) is None
    assert (first.happened, second.happened) == (1, 2)
    always = faults.add("error", times=None)
    assert [faults.take("error", "GET", ["x"]) for _ in range(5)] == [always] * 5
    faults.clear()
    assert faults.take("error", "GET", ["x"]) is None


# Downloads


def test_a_truncated_file_is_fetched_again(hub, download):
    fault = hub.fail("truncate", "*.safetensors")
    assert download() == WEIGHTS
    assert seen(hub, "GET") == [(200, ("truncate",)), (200, ())]
    assert fault.happened == 1


def test_a_truncated_large_file_is_resumed(hub, api, download):
    piece = 10 * 1024 * 1024  # what the client writes at a time, and resumes from
    data = bytes(range(256)) * 48 * 1024
    api.upload_file(repo_id=REPO, path_in_repo="model.onnx", path_or_fileobj=data)
    fault = hub.fail("truncate", "*.onnx", after=piece + 1)
    assert download("model.onnx") == data
    got = [(seen.status, seen.range, seen.faults) for seen in hub.requests if seen.method == "GET"]
    assert got == [(200, None, ("truncate",)), (206, f"bytes={piece}-", ())]
    assert fault.happened == 1


def test_a_file_that_is_always_truncated_is_never_taken_for_whole(hub, download, tmp_path):
    fault = hub.fail("truncate", times=None, after=0)
    with pytest.raises(Exception, match="closed connection"):
        download()
    assert snapshot_files(tmp_path) == []
    assert fault.happened > 1
    hub.faults.clear()
    assert download() == WEIGHTS


def test_what_was_announced_and_what_came(hub, released):
    fault = hub.fail("truncate", times=2, after=30)
    for _ in range(2):
        with pytest.raises(http.client.IncompleteRead) as caught:
            call(hub, "GET", FILE)
        assert (caught.value.partial, caught.value.expected) == (WEIGHTS[:30], len(WEIGHTS) - 30)
    assert call(hub, "GET", FILE).body == WEIGHTS
    assert fault.happened == 2


def test_corrupt_files_have_the_right_length_and_one_wrong_byte(hub, download, tmp_path):
    hub.fail("corrupt", "*.safetensors")
    wrong = download()
    assert len(wrong) == len(WEIGHTS)
    assert sum(a != b for a, b in zip(wrong, WEIGHTS, strict=True)) == 1
    assert call(hub, "GET", FILE).body == WEIGHTS
    hub.fail("corrupt")
    part = call(hub, "GET", FILE, Range="bytes=10-10").body
    assert len(part) == 1
    assert part != WEIGHTS[10:11]


def test_a_wrong_etag_is_announced_once(hub, released):
    fault = hub.fail("etag", "*.safetensors")
    url = hf_hub_url(REPO, "model.safetensors", endpoint=hub.url)
    assert get_hf_file_metadata(hf_hub_url(REPO, "config.json", endpoint=hub.url)).etag != "0" * 40
    assert [get_hf_file_metadata(url).etag for _ in range(2)] == ["0" * 40, SHA]
    assert fault.happened == 1


def test_a_missing_header_is_noticed(hub, download, tmp_path):
    hub.fail("header", "config.json", times=2)
    with pytest.raises(LocalEntryNotFoundError):
        download("config.json")
    url = hf_hub_url(REPO, "config.json", endpoint=hub.url)
    assert get_hf_file_metadata(url).commit_hash is None
    assert snapshot_files(tmp_path) == []
    assert download("config.json") == b'{"architecture": "tiny"}'


def test_an_error_of_the_server_happens_as_often_as_asked(hub, download, tmp_path):
    fault = hub.fail("error", "*.safetensors", times=2, method="GET")
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as caught:
            download()
        assert caught.value.response.status_code == 500
    assert snapshot_files(tmp_path) == []
    assert download() == WEIGHTS
    assert fault.happened == 2
    hub.fail("error", status=503)
    assert [call(hub, "GET", "/api/whoami-v2").status for _ in range(2)] == [503, 200]


def test_the_clients_own_questions_use_up_no_fault(hub):
    fault = hub.fail("error", times=1)
    assert call(hub, "GET", "/api/agent-harnesses").status == 200
    assert fault.happened == 0


def test_a_slow_answer_comes_too_late(hub, released):
    fault = hub.fail("slow", "config.json", seconds=600)
    path = f"/{REPO}/resolve/main/config.json"
    with pytest.raises(TimeoutError):
        call(hub, "GET", path, timeout=0.3)
    assert call(hub, "GET", path).status == 200
    assert fault.happened == 1


def test_faults_of_files_leave_other_answers_alone(hub, released):
    faults = [hub.fail(kind, times=None) for kind in ("truncate", "corrupt", "etag", "header", "cut", "commit")]
    assert call(hub, "GET", f"/api/models/{REPO}").status == 200
    assert call(hub, "GET", f"/{REPO}/resolve/main/nothing").status == 404
    assert call(hub, "GET", FILE, If_None_Match="*").status == 304
    assert [fault.happened for fault in faults] == [0] * 6


# Uploads


def test_an_upload_that_is_cut_leaves_nothing_and_is_sent_again(hub, api, released):
    data = b"weights" * 100_000
    oid = hashlib.sha256(data).hexdigest()
    fault = hub.fail("cut", "*.onnx")
    kept = []
    receive = hub.store.receive

    def watched(*arguments):
        kept.append(hub.store.size(oid))
        receive(*arguments)

    hub.store.receive = watched
    api.upload_file(repo_id=REPO, path_in_repo="model.onnx", path_or_fileobj=data)
    assert seen(hub, "PUT") == [(None, ("cut",)), (200, ())]
    assert kept == [None, None]
    assert fault.happened == 1
    assert call(hub, "GET", f"/{REPO}/resolve/main/model.onnx").body == data


def test_a_commit_that_is_cut_is_not_made(hub, api, released):
    fault = hub.fail("cut", "*/commit/*")
    with pytest.raises(Exception, match=r"disconnected|reset|Broken pipe|closed"):
        api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a" * 10_000)
    assert fault.happened == 1
    assert api.model_info(REPO).sha == released


def test_a_cut_wins_over_a_refusal(hub, released):
    hub.fail("cut")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        call(hub, "POST", f"/api/models/{REPO}/commit/main", lines(header()), token=None)
    assert call(hub, "POST", f"/api/models/{REPO}/commit/main", lines(header()), token=None).status == 401


def test_a_commit_whose_answer_is_lost_is_there(hub, api, released, tmp_path):
    fault = hub.fail("commit", "README.md")
    api.upload_file(repo_id=REPO, path_in_repo="other.txt", path_or_fileobj=b"a")
    assert fault.happened == 0
    card = b"---\nlicense: mit\n---\n# New\n"
    upload = {"repo_id": REPO, "path_in_repo": "README.md", "path_or_fileobj": card}
    with pytest.raises(Exception, match=r"disconnected|reset|closed"):
        api.upload_file(**upload)
    assert fault.happened == 1
    made = api.model_info(REPO).sha
    assert len(api.list_repo_commits(REPO)) == 4
    assert api.upload_file(**upload).oid == made
    assert len(api.list_repo_commits(REPO)) == 4
