"""What tests of publishing share: a release folder without a network in it, and what a local Hub holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from rnas_zoo import resources
from rnas_zoo.hub import publish
from rnas_zoo.testing.hub import LocalHub

BUNDLED = Path(__file__).parents[2] / "model_cards" / "rnas_wrn10_1.pgd_digits_linf16"
NAME = "rnas_tiny.pgd_digits_linf8"
TOKEN = "hf_RecognisableSecret0123456789"
CARD = "---\nlicense: mit\n---\n\n# a model\n"
REPO = f"owner/{NAME}"


def small_release(folder: Path, name: str = NAME) -> Path:
    """Files that look like a release, 10 kB: enough where validation is left out."""
    architecture, tag = name.split(".")
    cfg = {"tag": tag, "license": "mit", "notes": [f"tensors-sha256:{hashlib.sha256(name.encode()).hexdigest()}"]}
    config = {"architecture": architecture, "pretrained_cfg": cfg, "rnas_zoo": {"name": name}}
    files = {
        "config.json": json.dumps(config).encode(),
        "README.md": CARD.encode(),
        "model.safetensors": hashlib.shake_128(b"weights" + name.encode()).digest(6000),
        "verdicts.npz": hashlib.shake_128(b"verdicts").digest(3000),
        "figures/curve.png": b"\x89PNG\r\n\x1a\n\0",
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def real_release(where: Path) -> Path:
    """A copy of a bundled release of digits, with its card written anew."""
    from rnas_zoo.hub import card

    folder = shutil.copytree(BUNDLED, where / BUNDLED.name)
    card.write(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def held(hub: LocalHub, repo: str, revision: str = "main") -> dict[str, str]:
    """SHA-256 of every file of a repository, from the bytes that the Hub has on its disk."""
    files = hub.store.at(repo, revision).files
    found = {
        path: hashlib.sha256(hub.store.blob(entry.sha256).read_bytes()).hexdigest() for path, entry in files.items()
    }
    assert found.pop(".gitattributes")
    return found


def writes(hub: LocalHub, since: int = 0) -> list[str]:
    """Requests that change something or could, as `METHOD path`."""
    return [f"{seen.method} {seen.path}" for seen in hub.requests[since:] if seen.method not in ("GET", "HEAD")]


def use(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client of this process use a local Hub, and nothing of the user's; xet stays on, as users have it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "no" / "token"),
        "AGENT_HARNESSES_PATH": str(folder / "harnesses.json"),
    }.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between attempts


def use_registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder the registry's `model_cards`."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(resources, "folder", lambda name: folder.parent / name)
    assert folder.name == "model_cards"
    return folder


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
