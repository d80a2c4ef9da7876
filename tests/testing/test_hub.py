"""The local Hub, driven by the real client: who may ask, and how a Hub is started, stopped and pointed at."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

import rnas_zoo
from rnas_zoo.errors import OutputNotWritableError, UsageError
from rnas_zoo.testing import hub as hub_module
from rnas_zoo.testing.hub import LocalHub

from .raw import FILES, REPO, call, status_of

# Who asks


def test_the_token_opens_and_another_does_not(hub, api):
    assert api.whoami()["name"] == "tester"
    wrong = HfApi(endpoint=hub.url, token="hf_wrong")
    for ask in (wrong.whoami, lambda: wrong.create_repo(REPO), lambda: wrong.model_info(REPO)):
        with pytest.raises(HfHubHTTPError) as caught:
            ask()
        assert status_of(caught) == 401
    assert [seen.authorized for seen in hub.requests] == [True, False, False, False]


def test_nobody_writes_without_a_token(hub, stranger, released, tmp_path):
    writes = [
        lambda: stranger.create_repo("owner/other"),
        lambda: stranger.delete_repo(REPO),
        lambda: stranger.create_tag(REPO, tag="v1"),
        lambda: stranger.delete_branch(REPO, branch="main"),
        lambda: stranger.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a"),
        lambda: stranger.auth_check(REPO, write=True),
    ]
    for write in writes:
        with pytest.raises(HfHubHTTPError) as caught:
            write()
        assert status_of(caught) == 401
    assert stranger.model_info(REPO).sha == released
    stranger.auth_check(REPO)
    assert call(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", {}, token=None).status == 401


def test_private_repositories_are_there_for_the_token_only(hub, api, stranger, tmp_path):
    api.create_repo(REPO, private=True)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    assert api.model_info(REPO).private is True
    assert hf_hub_download(REPO, "a.txt", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "mine")
    asks = [
        lambda: stranger.model_info(REPO),
        lambda: stranger.auth_check(REPO),
        lambda: list(stranger.list_repo_tree(REPO)),
        lambda: hf_hub_download(REPO, "a.txt", endpoint=hub.url, token=False, cache_dir=tmp_path / "theirs"),
    ]
    for ask in asks:
        with pytest.raises(RepositoryNotFoundError):
            ask()
    assert list(stranger.list_models()) == []
    assert [model.id for model in api.list_models()] == [REPO]


def test_gated_repositories_show_themselves_but_not_their_files(hub, api, released, tmp_path):
    hub.gate(REPO)
    assert api.model_info(REPO).gated == "manual"
    with pytest.raises(GatedRepoError):
        hf_hub_download(REPO, "config.json", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "c")
    with pytest.raises(GatedRepoError):
        api.auth_check(REPO)
    hub.gate(REPO, closed=False)
    api.auth_check(REPO)
    assert api.model_info(REPO).gated is False
    assert hf_hub_download(REPO, "config.json", endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "c")


# Starting and stopping


def test_another_hub_on_the_same_folder_shows_the_same(serve, hub, released):
    hub.stop()
    again = serve()
    api = HfApi(endpoint=again.url, token=again.token)
    assert api.model_info(REPO).sha == released
    assert set(api.list_repo_files(REPO)) == FILES


def test_a_stopped_hub_is_out_of_reach_and_comes_back_at_its_address(hub, released, tmp_path):
    url = hub.url
    get = {"endpoint": url, "cache_dir": tmp_path / "c"}
    kept = hf_hub_download(REPO, "config.json", **get)
    hub.stop()
    hub.stop()
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "README.md", **get)
    assert hf_hub_download(REPO, "config.json", **get) == kept
    hub.start()
    assert hub.url == url
    assert hf_hub_download(REPO, "README.md", **get)
    with pytest.raises(UsageError, match="serves already"):
        hub.start()


def test_it_serves_this_machine_only(tmp_path):
    for host in ("0.0.0.0", "192.168.1.1", "::", "example.org", ""):
        with pytest.raises(UsageError, match="this machine only"):
            LocalHub(tmp_path, host=host)


def test_wrong_use_is_an_error(hub, tmp_path):
    with pytest.raises(UsageError, match="before it is started"):
        LocalHub(tmp_path / "x").url
    for token in ("", "a b", "ä"):
        with pytest.raises(UsageError, match="token"):
            LocalHub(tmp_path / "x", token)
    taken = int(hub.url.rpartition(":")[2])
    for port in (taken, 70000):
        with pytest.raises(UsageError, match="Choose another port"):
            LocalHub(tmp_path / "x", port=port).start()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritableError):
        LocalHub(tmp_path / "file")


def test_the_environment_points_a_process_at_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    values = hub.environment(tmp_path / "home")
    assert values["HF_ENDPOINT"] == hub.url
    assert values["HF_TOKEN"] == hub.token
    assert values["HF_HOME"] == str(tmp_path / "home")
    assert values["HF_HUB_DISABLE_XET"] == values["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert values["NO_PROXY"] == "example.org,127.0.0.1"
    assert Path(hub.environment()["HF_HOME"]).is_relative_to(hub.folder)


ROOT = Path(rnas_zoo.__file__).parents[1]


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "rnas_zoo.testing.hub", str(tmp_path / "a hub"), "--token", "hf_mine"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = [process.stdout.readline() for _ in range(4)]
        exports = [shlex.split(line)[1:] for line in said if line.startswith("export ")]
        assert len(exports) == 2
        values = dict(pair.split("=", 1) for line in exports for pair in line)
        assert values["HF_TOKEN"] == "hf_mine"
        assert values["HF_HUB_DISABLE_XET"] == "1"
        request = urllib.request.Request(
            values["HF_ENDPOINT"] + "/api/whoami-v2", headers={"Authorization": "Bearer hf_mine"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_the_command_explains_what_it_cannot_do(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert hub_module.main([str(tmp_path / "file")]) == 2
    assert "cannot keep a Hub in" in capsys.readouterr().err


def test_importing_it_is_light():
    program = (
        "import sys, rnas_zoo.testing.hub\n"
        "print([m for m in ('torch', 'timm', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


TIMM = """
import sys, timm, torch
from timm.models import push_to_hf_hub
from huggingface_hub import HfApi
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=7).eval()
push_to_hf_hub(model, "owner/net", model_config={"label_names": list("abcdefg")}, safe_serialization=True)
HfApi().create_tag("owner/net", tag="v1")
push_to_hf_hub(timm.create_model("test_resnet", num_classes=7), "owner/net", safe_serialization=True)
x = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    expected = model(x)
    tagged = timm.create_model("hf-hub:owner/net@v1", pretrained=True).eval()(x)
    newest = timm.create_model("hf-hub:owner/net", pretrained=True).eval()(x)
print(torch.equal(expected, tagged), torch.equal(expected, newest), "hf_xet" in sys.modules)
"""


@pytest.mark.skipif(find_spec("timm") is None, reason="waits for timm: pip install timm")
def test_timm_pushes_and_loads_models(hub, tmp_path, warm_python):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **hub.environment(tmp_path / "home")}
    done = subprocess.run([warm_python, "-c", TIMM], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split() == ["True", "False", "False"], done.stderr[-3000:]
    assert all(seen.authorized for seen in hub.requests if seen.method != "PUT")
