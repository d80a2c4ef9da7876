"""Downloads by the real client over HTTP from the local Hub: whole, pinned, checked, or one line that says why not."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

import rnas_zoo
from rnas_zoo import reference, resources
from rnas_zoo.cli import run
from rnas_zoo.deploy.contestants import Settings, resolve
from rnas_zoo.errors import (
    DataError,
    HubError,
    NoWeightsError,
    OutputExistsError,
    RnasZooError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from rnas_zoo.files import sha256_file
from rnas_zoo.hub import client
from rnas_zoo.hub.download import FILES, PAUSES, SCHEMAS, Downloaded, download, fetch
from rnas_zoo.testing.hub import LocalHub
from rnas_zoo.verification import evidence

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


def rewrite(**values):
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


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


def only_pickles(path: Path) -> None:
    path.rename(path.with_name("pytorch_model.bin"))


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


# --- who uses it ------------------------------------------------------------------------------------------------------


def test_a_reference_on_the_hub_is_its_folder_to_everything_else(hub, tmp_path):
    own, found = reference.subject(str(FOLDER)), reference.subject(REF)
    assert (found.name, found.kind, found.file) == (REF, "torch", WEIGHTS)
    assert (found.sha256, found.image_size, found.num_classes) == (own.sha256, own.image_size, own.num_classes)
    assert found.sha256 == sha256_file(FOLDER / WEIGHTS)
    with np.load(FOLDER / "check.npz") as check:
        pixels = check["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255
        np.testing.assert_allclose(reference.as_logits(found, pixels), check["logits"], rtol=0, atol=1e-4)
    assert filecmp.cmp(reference.local_folder(REF) / "model.onnx", FOLDER / "model.onnx", shallow=False)
    competing = resolve(REF, Settings(compile=False))
    assert competing.name == REF
    files = [WEIGHTS, *sorted(path.name for path in FOLDER.glob("model*.onnx"))]
    assert len(competing.contestants) == len(files), "its own files"
    assert {each.accuracy["n"] for each in competing.contestants} == {256}, "and evidence"
    assert rnas_zoo.download(REF) == reference.local_folder(REF)
    with pytest.raises(HubError, match="there is no owner/none"):
        rnas_zoo.load("hf-hub:owner/none")


def test_a_name_is_the_bundled_folder_or_where_its_weights_are(tmp_path):
    assert same(download(NAME, tmp_path / "out"))
    assert fetch("rnas_wrn10_1") == Downloaded(FOLDER, NAME)
    assert "unknown model 'rnas_wrn10'. Did you mean" in refusal(UnknownNameError, "rnas_wrn10")
    assert "Invalid pretrained tag" in refusal(UnknownNameError, "rnas_wrn10_1.none")
    assert "no weights exist yet for rnas_cells" in refusal(NoWeightsError, "rnas_cells")
    assert "there is no timm/resnet18.a1_in1k on 127" in refusal(HubError, "resnet18"), "what timm says of it"


def test_the_command_line(hub, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["download", "owner/tiny", "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    commit = hub.store.at("owner/tiny", "main").oid
    assert json.loads(out) == {"folder": "out", "ref": f"{REF}@{commit}", "files": CONTENT}
    asking, at = err.splitlines()
    assert asking == f"asking {hub.url.removeprefix('http://')} for owner/tiny"
    assert at == f"owner/tiny is at commit {commit}"
    assert same(tmp_path / "out")
    assert run(["download", "owner/tiny", "--offline"]) == 0
    out, err = capfd.readouterr()
    assert (Path(out.strip()).name, err) == (commit, f"owner/tiny is at commit {commit}, as far as the cache knows\n")
    assert run(["download", "owner/none"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: there is no owner/none on")
    np.save("images.npy", np.load(FOLDER / "check.npz")["images"][:2])
    assert run(["predict", REF, "images.npy", "--provider", "cpu", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["images"]) == 2
    assert run(["verify", REF, "--data", "digits", "--save"]) == 2
    assert f"`rnas-zoo download {REF} -o FOLDER` makes one" in capfd.readouterr().err


TIMM = """
import json, sys, warnings
from pathlib import Path

import numpy as np
from rnas_zoo import resources

settings, real = json.loads(sys.argv[1]), resources.folder
resources.folder = lambda name: Path(settings["cards"]) if name == "model_cards" else real(name)

import timm, torch
import rnas_zoo
from rnas_zoo.errors import HubError, RnasZooError, WeightsError

check = np.load(settings["check"])
pixels = torch.from_numpy(check["images"].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255))

def same(model):
    with torch.no_grad():
        return float((model.eval()(pixels) - torch.from_numpy(check["logits"])).abs().max()) < 1e-4

def refusal(name):
    try:
        timm.create_model(name, pretrained=True)
    except RnasZooError as error:
        return f"{type(error).__name__}: {error}"

commit = settings["commit"]
print(json.dumps({
    "listed": timm.list_pretrained("rnas*"),
    "config": [getattr(timm.get_pretrained_cfg("rnas_wrn10_1"), key) for key in ("hf_hub_id", "tag", "license")],
    "name": same(timm.create_model("rnas_wrn10_1", pretrained=True)),
    "ours": same(rnas_zoo.load("rnas_wrn10_1.pgd_digits_linf16")),
    "head": timm.create_model("rnas_wrn10_1", pretrained=True, num_classes=3).num_classes,
    "hub": same(timm.create_model(f"hf-hub:owner/tiny@{commit}", pretrained=True)),
    "main": same(timm.create_model("hf-hub:owner/tiny", pretrained=True)),
    "load": same(rnas_zoo.load(f"hf-hub:owner/tiny@{commit}")),
    "folder": str(rnas_zoo.download("rnas_wrn10_1")).endswith(commit),
    "other": refusal("hf-hub:owner/turned"),
    "pickles": refusal("hf-hub:owner/pickled"),
    "published": refusal("rnas_wrn10_1.wrong_digits_linf8"),
    "damaged": refusal("hf-hub:owner/damaged"),
    "again": same(timm.create_model("hf-hub:owner/damaged", pretrained=True)),
    "gone": refusal("rnas_wrn10_1.gone_digits_linf8"),
}))
"""


def test_timm_loads_by_reference_and_by_published_name_and_checks_the_digest(hub, tmp_path, warm_python):
    commit = hub.store.at("owner/tiny", "main").oid
    publish(hub, "owner/turned", changed(tmp_path / "turned", WEIGHTS, turn_weights))
    publish(hub, "owner/pickled", changed(tmp_path / "pickled", WEIGHTS, only_pickles))
    publish(hub, "owner/damaged", FOLDER)
    hub.fail("corrupt", "/owner/damaged/resolve/main/model.safetensors", times=1)
    config = json.loads((FOLDER / "config.json").read_text())["pretrained_cfg"]
    (note,) = config["notes"]
    entry = {"repo": "owner/tiny", "commit": commit, "digest": note.partition(":")[2], "pretrained_cfg": config}
    others = {
        "rnas_wrn10_1.wrong_digits_linf8": {**entry, "digest": "0" * 64},
        "rnas_wrn10_1.gone_digits_linf8": {**entry, "repo": "owner/gone"},
    }
    (tmp_path / "cards").mkdir()
    models = {NAME: entry, **others, "rnas_of_tomorrow.pgd_digits_linf16": entry}
    (tmp_path / "cards" / "published.json").write_text(json.dumps({"schema": 1, "models": models}))
    settings = {"cards": str(tmp_path / "cards"), "check": str(FOLDER / "check.npz"), "commit": commit}
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [warm_python, "-c", TIMM, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["listed"] == sorted([NAME, *others])
    assert found["config"] == [f"owner/tiny@{commit}", "pgd_digits_linf16", "mit"]
    for key in ("name", "ours", "hub", "main", "load", "folder", "again"):
        assert found[key] is True, key
    assert found["head"] == 3
    for key in ("other", "published", "damaged"):
        assert found[key].startswith("WeightsError: "), found[key]
        assert "rnas_wrn10_1" in found[key]
    assert found["pickles"].startswith("HubError: owner/pickled lacks a file that was asked for"), found["pickles"]
    assert found["gone"].startswith(f"HubError: there is no owner/gone on {hub.url.removeprefix('http://')}")
    fetched = {seen.path.rpartition("/")[2] for seen in hub.requests if seen.method in ("GET", "HEAD")}
    assert "pytorch_model.bin" not in fetched
