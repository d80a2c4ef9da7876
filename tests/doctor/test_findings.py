"""The table of findings."""

from __future__ import annotations

from rnas_zoo.doctor import Finding, render


def test_render():
    table = render(
        [
            Finding("torch", "ok", "2.15.0 " + "word " * 30),
            Finding("onnxruntime", "problem", "both are installed", "pip uninstall " + "x" * 200),
            Finding("odd", "warning", ""),
        ],
        width=60,
    )
    lines = table.splitlines()
    assert lines[0].startswith("ok       torch        2.15.0 word")
    assert all(len(line) <= 60 for line in lines if "fix:" not in line)
    assert "                      fix: pip uninstall " + "x" * 200 in lines
    assert "warning  odd" in lines
    assert lines[-1] == "1 problem, 1 warning"
    assert render([]).strip() == "no problems, no warnings"
