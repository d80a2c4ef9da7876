"""A local Hub for each test, and the real client set up so that it neither uses nor changes anything of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from rnas_zoo.testing.hub import LocalHub

from .raw import REPO, write_model


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalHub]]:
    """Starts a local Hub, by default in `hub` under the test's folder; it is stopped after the test."""
    started: list[LocalHub] = []

    def start(folder: str = "hub", **options: int | str) -> LocalHub:
        hub = LocalHub(tmp_path / folder, **options)
        hub.start()
        started.append(hub)
        return hub

    # The client has read its environment when it was imported, perhaps by an earlier test.
    harnesses = tmp_path / "harnesses.json"  # asked for on the real Hub, were there no fresh copy
    harnesses.write_text('{"standardEnvVars": [], "harnesses": {}}', encoding="utf-8")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(harnesses), raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between attempts
    yield start
    for hub in started:
        hub.stop()


@pytest.fixture
def hub(serve: Callable[..., LocalHub]) -> LocalHub:
    return serve()


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    """The real client with the token."""
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def stranger(hub: LocalHub) -> HfApi:
    """The real client without a token."""
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def released(api: HfApi, tmp_path: Path) -> str:
    """The id of the commit by which a small model was uploaded to REPO."""
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=write_model(tmp_path / "model")).oid
