"""Publishing the registry: what users get by name is listed, and all of it goes in one command."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import constants

from rnas_zoo.errors import CheckFailedError, DataError, UsageError
from rnas_zoo.hub import publish
from rnas_zoo.hub.publish import publish_all

from . import publishing
from .publishing import NAME, REPO, change, digests, held, send, small_release, use_registry, writes

folder, hub = publishing.folder, publishing.hub  # fixtures

OTHER, TEMPLATE = "https://hub.example.org", "/{repo_id}/resolve/{revision}/{filename}"


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
