"""What tests of `rnas-zoo verify` share: the command, run in an empty folder."""

from __future__ import annotations

import json

import pytest

from rnas_zoo.cli import run


@pytest.fixture
def zoo(capfd, tmp_path, monkeypatch):
    """Runs `rnas-zoo verify` in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = run(["verify", *(str(a) for a in arguments), "--device", "cpu"])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def record(zoo):
    """Runs it with --json; returns exit code and the one JSON object printed."""

    def invoke(*arguments, code=0):
        found, out, err = zoo(*arguments, "--json")
        assert found == code, err
        assert out.count("\n") == 1, "exactly one JSON object"
        return json.loads(out)

    return invoke
