"""What tests of downloads share: a release on a local Hub, a client with an empty cache, and how a download ends."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

from rnas_zoo import resources
from rnas_zoo.errors import RnasZooError
from rnas_zoo.hub.download import download
from rnas_zoo.testing.hub import LocalHub

from .publishing import use

NAME = "rnas_wrn10_1.pgd_digits_linf16"
FOLDER = resources.folder("model_cards") / NAME
CONTENT = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
WEIGHTS = "model.safetensors"
REF = "hf-hub:owner/tiny"


def publish(hub: LocalHub, repo: str, folder: Path) -> str:
    """The commit that the real client makes of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setenv("NO_PROXY", "127.0.0.1")
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo(repo, exist_ok=True)
        return api.upload_folder(repo_id=repo, folder_path=folder).oid


def changed(folder: Path, name: str, change) -> Path:
    """A copy of the release, in `folder`, one file of which has been changed in place."""
    shutil.copytree(FOLDER, folder)
    change(folder / name)
    return folder


def turn_weights(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "head.fc.bias": tensors["head.fc.bias"].flip(0).contiguous()}, path)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[LocalHub]:
    """A Hub with the release as owner/tiny, which tests only read."""
    folder = Path(shutil.copytree(FOLDER, tmp_path_factory.mktemp("published") / "tiny"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle")
    (folder / "notes.txt").write_text("nothing to do with it")
    (folder / "figures" / "run.py").write_text("raise SystemExit")
    with LocalHub(tmp_path_factory.mktemp("hub")) as started:
        publish(started, "owner/tiny", folder)
        yield started


@pytest.fixture(autouse=True)
def cache(hub, tmp_path, monkeypatch) -> Path:
    """The client with an empty cache and without a token, asking the local Hub; waits take no time."""
    use(hub, tmp_path, monkeypatch)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    hub.faults.clear()
    hub.requests.clear()
    return tmp_path / "cache"


def same(folder: Path) -> bool:
    """Whether a folder holds exactly the release, in plain files."""
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return there == CONTENT and filecmp.cmpfiles(FOLDER, folder, CONTENT, shallow=False)[0] == CONTENT


def refusal(kind: type[RnasZooError], ref: str = REF, out: Path | None = None, **options) -> str:
    """The one line that a download ends in."""
    with pytest.raises(kind) as refused:
        download(ref, out, **options)
    assert type(refused.value) is kind
    assert str(refused.value).isprintable()
    return str(refused.value)


def only_pickles(path: Path) -> None:
    path.rename(path.with_name("pytorch_model.bin"))
