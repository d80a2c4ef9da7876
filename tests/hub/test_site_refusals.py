"""What the zoo page is not made of, and what it does not replace: nothing of the user's is lost."""

import json
import shutil
from pathlib import Path

import pytest

from rnas_zoo.cli import run as command_line
from rnas_zoo.errors import CheckFailedError, DataError, OutputExistsError, UsageError
from rnas_zoo.hub import site

from . import sites

cards = sites.cards  # fixture


def test_only_an_unchanged_site_of_ours_is_replaced(cards, tmp_path):
    out = tmp_path / "site"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")

    def refused(words, overwrite=True):
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(OutputExistsError, match=words):
            site.build(out, cards=cards / "good one", overwrite=overwrite)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    refused("no site of ours")
    (out / "site.json").write_text('{"made_by": "someone", "files": {}}')
    refused("no site of ours")
    shutil.rmtree(out)
    site.build(out, cards=cards / "good one")
    refused("--overwrite replaces it", overwrite=False)
    site.build(out, cards=cards / "good one", overwrite=True)
    (out / "notes.txt").write_text("mine")
    refused("notes.txt in it")
    (out / "notes.txt").unlink()
    (out / "site.css").write_text("mine")
    refused("site.css in it")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(OutputExistsError, match="no site of ours"):
        site.build(tmp_path / "link", cards=cards / "good one", overwrite=True)


def test_what_cannot_be_shown_is_refused_and_leaves_nothing(cards, tmp_path, capsys):
    def refused(error, words, **options):
        with pytest.raises(error, match=words):
            site.build(tmp_path / "site", **options)
        assert not (tmp_path / "site").exists()

    (tmp_path / "empty").mkdir()
    refused(UsageError, "no release folders", cards=tmp_path / "empty")
    refused(UsageError, "make web", cards=cards, web_demo=tmp_path / "empty")
    copy = shutil.copytree(cards / "good one", tmp_path / "cards" / "copy")
    record = json.loads((copy / "robustness.json").read_text())
    record["runs"][1]["robust_accuracy"] += 0.05
    (copy / "robustness.json").write_text(json.dumps(record))
    refused(CheckFailedError, "does not add up: robust_accuracy", cards=tmp_path / "cards")
    shutil.copy(cards / "good one" / "robustness.json", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rnas_zoo": {}}))
    refused(DataError, "copy is damaged", cards=copy)
    assert command_line(["site", "-o", str(tmp_path / "empty"), "--cards", str(cards)]) == 2
    assert "no site of ours" in capsys.readouterr().err
    assert command_line(["site", "-o", str(tmp_path / "new"), "--cards", str(cards / "good one")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'index.html'}: 1 model\n"
    assert Path(tmp_path / "new" / "models" / "good one" / "index.html").is_file()
