"""Downloads by the real client over HTTP from the local Hub: whole, pinned, checked, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from rnas_zoo import resources
from rnas_zoo.errors import DataError, HubError, OutputExistsError, UnknownNameError, UsageError, WeightsError
from rnas_zoo.hub import client
from rnas_zoo.hub.download import FILES, PAUSES, SCHEMAS, download, fetch
from rnas_zoo.verification import evidence

from . import downloading
from .downloading import CONTENT, FOLDER, REF, WEIGHTS, changed, only_pickles, publish, refusal, same, turn_weights

cache, hub = downloading.cache, downloading.hub  # fixtures


def rewrite(**values):
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_a_release_is_the_same_folder_again_and_nothing_else_is_fetched(hub, tmp_path):
    found = fetch(REF, tmp_path / "out")
    assert same(tmp_path / "out")
    assert (found.folder, found.files) == (tmp_path / "out", CONTENT)
    assert found.ref == f"{REF}@{hub.store.at('owner/tiny', 'main').oid}"
    fetched = {seen.path.rpartition("/")[2] for seen in hub.requests if seen.method == "GET" and "resolve" in seen.path}
    assert fetched == {Path(name).name for name in CONTENT}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_the_list_of_files_covers_every_bundled_release():
    for folder in resources.folder("model_cards").glob("*/config.json"):
        there = {path for path in folder.parent.rglob("*") if path.is_file()}
        assert there == {path for pattern in FILES for path in folder.parent.glob(pattern)}
    assert SCHEMAS["robustness.json"] == evidence.SCHEMA


@pytest.mark.parametrize("form", ["owner/tiny", "owner/tiny@main", "hf-hub:owner/tiny@main"])
def test_references_have_several_forms(form, tmp_path):
    assert same(download(form, tmp_path / "out"))


def test_a_revision_is_resolved_once_and_stays_what_it_was(hub, tmp_path):
    first = publish(hub, "owner/moving", FOLDER)
    HfApi(endpoint=hub.url, token=hub.token).create_tag("owner/moving", tag="v1", revision=first)
    second = publish(hub, "owner/moving", changed(tmp_path / "new", "README.md", lambda path: path.write_text("new")))
    for revision, commit in (("main", second), ("v1", first), (first, first)):
        found = fetch(f"owner/moving@{revision}", tmp_path / revision)
        assert found.ref == f"hf-hub:owner/moving@{commit}"
        assert same(tmp_path / revision) == (commit == first)
    hub.requests.clear()
    fetch("owner/moving@v1")
    resolving = [seen for seen in hub.requests if "resolve" in seen.path or "/tree/" in seen.path]
    assert all(first in seen.path for seen in resolving)


def test_what_is_cached_needs_no_network(hub, tmp_path):
    pinned = fetch(REF).ref
    hub.requests.clear()
    assert same(download(pinned, tmp_path / "pinned"))
    assert same(download(REF, tmp_path / "asked", offline=True))
    assert hub.requests == []
    hub.stop()
    try:
        for number, ref in enumerate((pinned, REF, f"{REF}@main")):
            assert same(download(ref, tmp_path / f"{number}"))
        assert "could not be reached" in refusal(HubError, "hf-hub:owner/moving@v7")
    finally:
        hub.start()


def test_offline_without_a_cache_says_so(hub, monkeypatch):
    assert "is not wholly in the cache, and the network is switched off" in refusal(HubError, offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not wholly in the cache, and the network is switched off" in refusal(HubError)
    assert hub.requests == []


def test_a_cache_that_lacks_the_weights_is_no_release(hub, cache):
    folder = fetch(REF).folder
    client.forget(folder / WEIGHTS)
    shutil.rmtree(cache / "models--owner--tiny" / "trees", ignore_errors=True)
    assert "not wholly in the cache" in refusal(HubError, offline=True)
    assert download(REF) == folder
    assert (folder / WEIGHTS).is_file()


def test_what_is_there_is_left_or_replaced(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refusal(OutputExistsError, REF, tmp_path / "out")
    assert hub.requests == [], "refused before anything is asked"
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert same(download(REF, tmp_path / "out", overwrite=True))


def test_a_private_release_needs_the_token(hub, tmp_path, monkeypatch):
    publish(hub, "owner/private", FOLDER)
    hub.store.settings("owner/private", private=True)
    text = refusal(HubError, "owner/private")
    assert "there is no owner/private on 127.0.0.1" in text
    assert "or it is private" in text
    assert "hf auth login" in text
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert same(download("owner/private", tmp_path / "out"))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_the_hub_says_no(hub, monkeypatch):
    assert "there is no owner/none on 127.0.0.1" in refusal(HubError, "owner/none")
    text = refusal(HubError, f"{REF}@v9")
    assert "owner/tiny has no revision 'v9'" in text
    assert "give a branch, a tag or a commit" in text
    hub.gate("owner/tiny")
    try:
        assert "owner/tiny is gated: ask for access on" in refusal(HubError)
    finally:
        hub.gate("owner/tiny", False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "that your token may read" in refusal(HubError, "owner/none")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    text = refusal(HubError)
    assert "does not know your token" in text
    assert "hf_wrong" not in text


@pytest.mark.parametrize("ref", ["hf-hub:", "hf-hub:tiny", "a/b/c", "owner/tiny@", "owner/tiny@a@b", "hf-hub:o wner/x"])
def test_what_is_no_reference_is_refused(ref):
    assert "is called hf-hub:owner/name" in refusal(UsageError, ref)


def test_an_unreachable_hub_is_said_at_once(hub):
    text = refusal(HubError, endpoint="http://127.0.0.1:9")
    assert "127.0.0.1:9 could not be reached and owner/tiny is not cached" in text
    assert "check the network" in text


def without(*names: str):
    def change(path: Path) -> None:
        for name in names:
            (path.parent / name).unlink()

    return change


PRETRAINED = {"input_size": [3, 32, 32]}
OTHERS = {
    "pickles": (WEIGHTS, only_pickles, WeightsError, "holds pickles only (pytorch_model.bin), which are never loaded"),
    "no weights": (WEIGHTS, without(WEIGHTS), WeightsError, f"no release of a model: it has no {WEIGHTS}"),
    "nothing": ("README.md", without("config.json", WEIGHTS), WeightsError, f"has no config.json and no {WEIGHTS}"),
    "transformers": (
        "config.json",
        lambda p: p.write_text('{"architectures": ["B"]}'),
        WeightsError,
        "that timm writes",
    ),
    "new architecture": (
        "config.json",
        rewrite(architecture="rnas_new"),
        UnknownNameError,
        "a newer rnas_zoo knows it",
    ),
    "other package": (
        "config.json",
        rewrite(architecture="lsnet_t"),
        UnknownNameError,
        "the architecture 'lsnet_t', which is unknown here; import the package that registers it",
    ),
    "newer evidence": ("robustness.json", rewrite(schema=2), DataError, "has schema 2, this release reads up to 1"),
    "other tensors": (WEIGHTS, turn_weights, WeightsError, "is not the one config.json declares: tensor digest"),
    "no safetensors": (WEIGHTS, lambda p: p.write_bytes(b"<html>"), WeightsError, "damaged or no safetensors file"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_release_of_ours_is_refused(hub, tmp_path, case):
    name, change, kind, words = OTHERS[case]
    repo = f"owner/{case.replace(' ', '-')}"
    publish(hub, repo, changed(tmp_path / "changed", name, change))
    text = refusal(kind, repo, tmp_path / "out")
    assert words in text
    assert repo in text
    assert not (tmp_path / "out").exists()
    assert not [seen for seen in hub.requests if seen.path.endswith(".bin") and seen.method == "GET"]


# --- a bad day --------------------------------------------------------------------------------------------------------


def leftovers(cache: Path) -> list[Path]:
    """Whatever in the cache is named as a whole file without being the release's."""
    held = {(FOLDER / name).read_bytes() for name in CONTENT}
    snapshots = (cache / "models--owner--tiny").glob("snapshots/*/**/*")
    return [path for path in snapshots if path.is_file() and path.read_bytes() not in held]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("truncate", {"path": WEIGHTS}),
        ("truncate", {"path": WEIGHTS, "times": 3, "after": 1000}),
        ("error", {"path": "/api/models/owner/tiny", "times": len(PAUSES)}),
        ("error", {"path": "*/tree/*"}),
        ("error", {"path": WEIGHTS, "method": "HEAD", "status": 503}),
        ("error", {"path": WEIGHTS, "method": "GET", "status": 429}),
        ("slow", {"path": WEIGHTS, "seconds": 0.2, "times": 2}),
    ],
)
def test_passing_faults_end_in_the_whole_release(hub, tmp_path, kind, options):
    fault = hub.fail(kind, **options)
    assert same(download(REF, tmp_path / "out"))
    assert fault.spent


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("corrupt", {"path": WEIGHTS}, f"the checksum of {WEIGHTS} from owner/tiny is not the one"),
        ("corrupt", {"path": "figures/curve.png"}, "the checksum of figures/curve.png"),
        ("corrupt", {"path": "config.json"}, "the checksum of config.json"),
        ("etag", {"path": "check.npz", "method": "HEAD"}, "the checksum of check.npz"),
        ("header", {"path": "config.json", "method": "HEAD"}, "without the headers of a Hub"),
        ("truncate", {"path": WEIGHTS, "times": None, "after": 0}, "could not be reached"),
        ("error", {"path": "/api/models/owner/tiny", "times": None}, "has a fault of its own (HTTP 500)"),
        ("error", {"path": WEIGHTS, "times": None, "status": 502}, "has a fault of its own (HTTP 502)"),
        ("error", {"path": WEIGHTS, "times": None, "status": 403, "method": "HEAD"}, "refuses access"),
    ],
)
def test_lasting_faults_end_in_one_line_and_leave_nothing_behind(hub, cache, tmp_path, kind, options, words):
    hub.fail(kind, **options)
    assert words in refusal(HubError, REF, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("cache", "harnesses.json")) == []
    assert leftovers(cache) == []
    hub.faults.clear()
    assert same(download(REF, tmp_path / "out"))


def test_a_fault_of_the_server_does_not_hide_what_is_cached(hub, tmp_path):
    fetch(REF)
    hub.fail("error", times=None, status=503)
    assert same(download(REF, tmp_path / "out"))
