"""`rnas-zoo publish`: what people see of it, and that nobody sees the token."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rnas_zoo.cli import run
from rnas_zoo.hub import publish

from ..hub import publishing
from ..hub.publishing import NAME, TOKEN, digests, held, real_release, small_release, use_registry, writes

REPO = f"owner/{NAME}"
ROOT = Path(__file__).parents[2]
hub = publishing.hub  # fixture


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """The registry's folder with two small releases that count as valid."""
    monkeypatch.setattr(publish, "problems", lambda folder: [])
    cards = use_registry(tmp_path / "zoo" / "model_cards", monkeypatch)
    for name in (NAME, "rnas_tiny.clean_digits"):
        small_release(cards / name, name)
    return cards


def test_a_release_goes_out_in_a_process_of_its_own_and_the_token_stays_in(tmp_path, hub, warm_python):
    folder = real_release(tmp_path)
    command = [warm_python, "-m", "rnas_zoo", "publish", str(folder), "--to", f"owner/{folder.name}", "--tag", "v1"]
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_DISABLE_XET")
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS")
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert held(hub, f"owner/{folder.name}", "v1") == digests(folder)
    commit = hub.store.at(f"owner/{folder.name}", "main").oid
    assert f"committed as {commit}" in done.stdout
    assert "tagged v1" in done.stdout
    assert f"rnas-zoo verify hf-hub:owner/{folder.name}@{commit} --against-card" in done.stdout
    assert "%|" not in done.stderr  # no bars in a pipe
    assert "\r" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert files_with(TOKEN, tmp_path) == []


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_the_token_is_in_nothing_that_is_printed_logged_or_written(cards, hub, capfd, caplog, tmp_path):
    caplog.set_level("DEBUG")
    hub.fail("error", "*/commit/main", status=401)
    assert run(["publish", str(cards / NAME), "--to", REPO]) == 2
    hub.fail("error", "*/commit/main", status=403)
    assert run(["publish", "--all", str(cards), "--to", "owner", "--json"]) == 1
    assert run(["publish", "--all", str(cards), "--to", "owner", "--tag", "v1", "--record"]) == 0
    assert any(seen.authorized for seen in hub.requests)
    shown = capfd.readouterr()
    assert TOKEN not in shown.out + shown.err + caplog.text
    assert "must be one that may write" in shown.err
    assert (cards / "published.json").exists()
    assert files_with(TOKEN, tmp_path) == []


def test_a_dry_run_lists_what_would_go_and_sends_nothing(cards, hub, capsys):
    assert run(["publish", str(cards / NAME), "--to", REPO, "--dry-run"]) == 0
    out = capsys.readouterr().out
    sizes = [path.stat().st_size for path in (cards / NAME).rglob("*") if path.is_file()]
    assert out.startswith(f"{REPO} (public, new): {len(sizes)} files, {sum(sizes):,} bytes\n")
    for path in digests(cards / NAME):
        assert f"  new      {path}\n" in out
    assert f"would send {sum(sizes):,} bytes in one commit; nothing was written" in out
    assert writes(hub) == []
    assert not (cards / "published.json").exists()


def test_the_same_again_says_that_there_is_nothing_to_do(cards, hub, capsys):
    assert run(["publish", str(cards / NAME), "--to", REPO, "--record"]) == 0
    assert "listed in model_cards/published.json" in capsys.readouterr().out
    assert run(["publish", str(cards / NAME), "--to", REPO]) == 0
    out = capsys.readouterr().out
    commit = hub.store.at(REPO, "main").oid
    assert f"nothing to commit, the head is {commit}; downloaded again: every file is the folder's" in out
    assert "listed" not in out
    assert run(["publish", str(cards / NAME), "--to", REPO, "--dry-run"]) == 0
    assert f"is already that of {commit}; nothing was written" in capsys.readouterr().out


def test_json_is_one_object_for_a_folder_and_for_a_directory(cards, hub, capsys):
    assert run(["publish", str(cards / NAME), "--to", REPO, "--private", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["repo"], done["private"], done["recorded"]) == (REPO, True, False)
    assert set(done["new"]) == set(digests(cards / NAME))
    hub.fail("error", "/api/models/owner/rnas_tiny.clean_digits/commit/main", status=500)
    assert run(["publish", "--all", str(cards), "--to", "owner", "--json"]) == 1
    done = json.loads(capsys.readouterr().out)
    assert [each["commit"] for each in done["published"]] == [hub.store.at(REPO, "main").oid]
    assert "500" in done["failed"]["rnas_tiny.clean_digits"]


def test_a_directory_tells_what_failed_and_ends_with_1(cards, hub, capsys):
    hub.fail("error", f"/api/models/{REPO}/commit/main", status=403)
    assert run(["publish", "--all", str(cards), "--to", "owner"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("owner/rnas_tiny.clean_digits (public, new): 5 files")
    assert f"not published: {NAME}. The same command goes on with them." in shown.err
    assert run(["publish", "--all", str(cards), "--to", "owner"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "a/b"], 2, "give a release FOLDER and --to owner/name, or --all DIRECTORY and --to owner"),
        (["FOLDER", "--all", "CARDS", "--to", "a"], 2, "give a release FOLDER"),
        (["FOLDER"], 2, "Missing option '--to'"),
        (["FOLDER", "--to", "owner"], 2, "it is owner/name"),
        (["FOLDER", "--to", "a/b", "--tag", "v 1"], 2, "cannot be a tag"),
        (["FOLDER", "--to", "a/b", "--token", "x"], 2, "No such option"),
    ],
)
def test_wrong_use_is_explained(cards, hub, capsys, arguments, code, words):
    named = {"FOLDER": str(cards / NAME), "CARDS": str(cards)}
    assert run(["publish", *(named.get(each, each) for each in arguments)]) == code
    assert words in capsys.readouterr().err
    assert hub.requests == []


def test_a_folder_with_faults_ends_with_1_and_every_fault(cards, hub, capsys, monkeypatch):
    monkeypatch.setattr(publish, "problems", lambda folder: ["first", "second"])
    assert run(["publish", str(cards / NAME), "--to", REPO]) == 1
    assert "cannot be published:\n  first\n  second\n" in capsys.readouterr().err


def test_help_names_the_token_and_the_stand_in(capsys):
    assert run(["publish", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "hf auth login" in out
    assert "never the real Hub" in out
    assert "rnas-zoo publish --all model_cards/ --to me" in out
