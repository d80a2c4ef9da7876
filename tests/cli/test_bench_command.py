"""`rnas-zoo bench`: table, Markdown, JSON and picture, of a report with known times and of a real model."""

from __future__ import annotations

import json

import pytest

from rnas_zoo.cli import run
from rnas_zoo.cli.bench_command import BASELINES, notes, table_rows
from rnas_zoo.deploy import bench as library

from ..contestants import report
from .test_cli import refused

TINY = """
from torch import nn

def load():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head())

def head():
    return nn.Linear(4, 5)
"""


@pytest.fixture
def zoo(capfd, tmp_path, monkeypatch):
    """Runs `rnas-zoo bench` in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = run(["bench", *(str(a) for a in arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def canned(monkeypatch):
    """Replaces the measurement by a report on models that do not exist; the list holds what was asked for."""
    asked = []

    def bench(refs, settings, *, baselines, reporter):
        asked.append((refs, settings, baselines))
        return report()

    monkeypatch.setattr(library, "bench", bench)
    return asked


def test_rows_are_the_report_in_the_units_of_the_table():
    header, *rows = table_rows(report())
    assert len({len(row) for row in [header, *rows]}) == 1
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert cells[0] == {
        "model": "small",
        "parameters": "112,790",
        "MACs": "4.7 M",
        "runtime": "torch",
        "file": "0.28 MB",
        "robust": "35.0 %",
        "batch 1: ms": "3 / 3",
        "vs torch": "1.0x",
        "batch 32: ms": "34 / 34",
        "images/s": "941",
        "logits differ": "–",
    }
    assert [cell["runtime"] for cell in cells[:3]] == ["torch", "onnxruntime", "onnxruntime int8"]
    assert [cell["model"] for cell in cells] == ["small", "", "", "large", "", "plain (untrained)", ""]
    assert (cells[2]["robust"], cells[2]["logits differ"]) == ("34.0 %", "5.0e-01")
    assert set(rows[6][4:]) == {"–"}


def test_long_and_short_times_have_three_digits():
    one = report(slice(1))
    one["models"][0]["runs"][0]["latency"]["1"].update(p50=0.00012345, p95=1.23456)
    assert table_rows(one)[1][6] == "0.123 / 1235"


def test_notes_say_where_accuracies_come_from_and_what_could_not_run():
    found = notes({**report(), "cpu_share": 1.0})
    assert (
        "small (torch, onnxruntime): robust under L∞ 8/255 by standard on 1,000 images of cifar10, clean 70.0 %"
        in found
    )
    assert "small (onnxruntime int8): robust under L∞ 8/255 by fast on 1,000 images of cifar10, clean 70.0 %" in found
    assert "large: robust under L∞ 8/255 by standard on 1,000 images of cifar10, clean 70.0 %" in found
    assert "plain, onnxruntime: cannot run it (no export)" in found
    assert any(line.startswith("untrained:") for line in found)
    assert not any("warning" in line for line in found)
    assert (
        "warning: the machine was busy: this process got 30.0 % of a core" in notes({**report(), "cpu_share": 0.3})[-1]
    )
    assert not any(line.startswith("untrained:") for line in notes(report(slice(2))))
    on_cuda = notes({**report(slice(1)), "cpu_share": None, "device": "cuda"})
    assert "; CUDA, torch" in on_cuda[0]
    assert not any("warning" in line for line in on_cuda)


def test_the_same_report_as_table_markdown_and_json(zoo, canned):
    code, out, _ = zoo("a", "b", "--threads", 1)
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["model", "parameters", "MACs"]
    assert len(out.splitlines()) > 9
    code, out, _ = zoo("a", "--markdown")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {12}
    assert len(table) == 9
    code, out, _ = zoo("a", "--json", "-o", "p.svg")
    assert out.count("\n") == 1
    assert [model["model"] for model in json.loads(out)["models"]] == ["small", "large", "plain"]


def test_options_arrive(zoo, canned):
    zoo("a", "b", "--json", "--no-compile", "--seconds", "500s", "--repeats", 7, "--image-size", "8x16")
    zoo("a", "--baselines", " resnet34, ,vgg11", "--device", "cpu")
    zoo("a", "--no-baselines")
    refs, settings, baselines = canned[0]
    assert (refs, baselines) == (("a", "b"), BASELINES.split(","))
    assert (settings.compile, settings.seconds, settings.repeats, settings.image_size) == (False, 500.0, 7, (8, 16))
    assert canned[1][1].compile
    assert canned[1][1].device == "cpu"
    assert [asked[2] for asked in canned[1:]] == [["resnet34", "vgg11"], []]
    assert tuple(BASELINES.split(",")) == library.BASELINES


def test_wrong_use_is_refused_before_measuring(zoo, canned, tmp_path):
    refused(zoo("a", "-o", "picture.pdf"), "picture.pdf", ".svg or .png")
    refused(zoo("a", "--markdown", "--json"), "--markdown and --json")
    assert zoo()[0] == 2
    assert zoo("a", "--repeats", "0")[0] == 2
    assert canned == []
    assert list(tmp_path.iterdir()) == []


def test_unknown_models_are_refused(zoo):
    refused(zoo("rnas_cl_s33", "--no-baselines"), "unknown model 'rnas_cl_s33'", "rnas_cl_s3")
    refused(zoo("missing.onnx", "--no-baselines"), "missing.onnx", "no such file")


def test_a_real_model_is_measured_beside_a_baseline(zoo, tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    code, out, err = zoo("tiny.py:load", "--baselines", "test_resnet", "--no-compile", "--seconds", "0.02", "--repeats",
                         "10", "--threads", 1, "--device", "cpu", "--json", "-o", "pareto.png")  # fmt: skip
    assert code == 0, err
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["device"], found["threads"]) == ("cpu", 1)
    tiny, baseline = found["models"]
    assert tiny["parameters"] == 4 * 27 + 4 + 4 * 5 + 5
    assert tiny["image_size"] == [32, 32]
    assert (baseline["model"], baseline["untrained"]) == ("test_resnet", True)
    for model in (tiny, baseline):
        assert [run["runtime"] for run in model["runs"]] == ["torch", "onnxruntime"]
        assert model["runs"][1]["difference"] < 1e-3
        for each in model["runs"]:
            assert 0 < each["latency"]["1"]["p50"] <= each["latency"]["1"]["p95"]
            assert each["latency"]["32"]["samples"] == 10
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
