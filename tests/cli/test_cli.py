"""The command line: help, JSON, exit codes, and one clear line for every kind of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from rnas_zoo import cli
from rnas_zoo.cli import COMMANDS, run

from ..untrained import name_without_weights


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = run([str(a) for a in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


def refused(result, *fragments):
    """The exit code is 2 and standard error is one line with all fragments."""
    code, out, err = result
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert f"rnas-zoo {name}" in out.split("Options:")[0].split("\n", 1)[1]


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom rnas_zoo.cli import run\nrun(['--help'])\n"
        "assert not {'torch', 'timm', 'numpy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_results_of_bundled_releases(call):
    code, out, err = call("list", "rnas_wrn10_1.*", "--results", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["results"]
    assert found["parameters"] == 77_850
    assert found["pgd20"]["n"] == 256
    code, out, _ = call("list", "--results")
    assert code == 0
    assert f"{100 * found['pgd20']['accuracy']:.1f} %" in out
    code, out, _ = call("list", "--results", "--markdown")
    assert out.startswith("# Results\n")
    assert "not measured by us" in out
    assert call("list", "nothing*", "--results")[1] == "none\n"
    refused(call("list", "--markdown"), "--markdown goes with --results")


def test_list_and_json(call):
    code, out, _ = call("list", "rnas_cl*", "--json")
    assert code == 0
    assert json.loads(out)["models"] == ["rnas_cl_l", "rnas_cl_m", "rnas_cl_s3", "rnas_cl_s5", "rnas_cl_s7"]
    code, out, _ = call("list", "--genotypes")
    assert code == 0
    assert "3,495,790" in out


def test_draw_writes_a_picture(call, tmp_path):
    assert call("draw", "rnas_arnas", "-o", "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for sized in ("rnas_vuln_h_c16l8", "rnas_vuln_h_s7"):
        assert call("draw", sized)[0] == 0
    refused(call("draw", "rnas_vuln_hh_s7"), "rnas_vuln_hh_s7")
    assert (tmp_path / "vuln_h.svg").is_file()


@pytest.mark.usefixtures("short_curve")
@pytest.mark.usefixtures("short_curve", "short_looks")
def test_search_train_package_export_verify_line(call, tmp_path):
    search = ["search", "--data", "digits", "--eps", "16/255", "--channels", "2", "--layers", "3", "--stem"]
    code, out, err = call(
        *search,
        "cifar_stride2",
        "--attack-steps",
        "1",
        "--batch-size",
        "16",
        "--steps",
        "3",
        "-o",
        "found.json",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["kind"] == "cells"
    train = ["train", "--arch", "found.json", "--data", "digits", "--eps", "16/255", "--attack-steps", "1"]
    sizes = ["--channels", "4", "--layers", "3", "--stem", "cifar_stride2", "--batch-size", "32"]
    code, out, err = call(*train, *sizes, "--steps", "4", "-o", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["steps_done"] == 4
    code, out, err = call("package", "run", "-o", "made", "--n", "16", "--no-limits", "--json")
    assert code == 0, err
    assert [r["subject"]["kind"] for r in json.loads(out)["runs"]] == ["torch", "onnx"]
    code, out, err = call("export", "made", "-o", "m.onnx", "--json")
    assert code == 0, err
    assert onnx.load(tmp_path / "m.onnx").graph.node
    verify = ["verify", "--data", "digits", "--eps", "16/255", "--n", "16", "--protocol", "quick", "--json"]
    reports = [json.loads(call(*verify, ref)[1]) for ref in ("made", "m.onnx")]
    assert reports[0]["attacks"]["pgd20"]["broken"] == reports[1]["attacks"]["pgd20"]["broken"]
    assert call("card", "made", "--check")[0] == 0
    refused(call("card", "made", "--check", "--twin", "made"), "--twin writes")
    refused(call("card", "made", "--twin", "made"), "no clean twin")


def test_save_adds_the_run_and_keeps_the_card_true(call, release, tmp_path):
    shutil.copytree(release, tmp_path / "copy")
    code, _, err = call(
        "verify", "copy", "--data", "digits", "--eps", "8/255", "--n", "24", "--protocol", "quick", "--save"
    )
    assert code == 0, err
    runs = json.loads((tmp_path / "copy" / "robustness.json").read_text())["runs"]
    assert [r["eps"] for r in runs] == ["16/255", "16/255", "8/255"]
    assert call("card", "copy", "--check")[0] == 0
    refused(call("verify", "rnas_cl_s3", "--data", "digits", "--save"), "--save needs a release folder")


def test_unknown_names_suggest_near_ones(call):
    refused(call("verify", "rnas_vuln_hh", "--data", "digits"), "unknown model 'rnas_vuln_hh'", "rnas_vuln_h")
    refused(call("draw", "rnas_arnass"), "unknown genotype", "arnas")
    refused(call("train", "--arch", "rnas_cl_s4", "--data", "digits", "--steps", "1", "-o", "r"), "rnas_cl_s")
    refused(call("verify", "rnas_cl_s3", "--data", "digit"), "unknown data set 'digit'", "digits")
    refused(call("search", "--method", "dart", "--data", "digits", "--steps", "1", "-o", "g.json"), "darts")


def test_no_weights_names_what_would_make_some(call):
    without = name_without_weights()
    refused(call("verify", without, "--data", "digits"), f"no weights exist yet for {without}", "rnas-zoo train")


def test_corrupt_genotype_names_file_and_field(call, tmp_path):
    (tmp_path / "g.json").write_text('{"schema": 1, "name": "x", "kind": "cells", "cells": {"normal"')
    refused(call("draw", "g.json"), "g.json", "not valid JSON")
    (tmp_path / "h.json").write_text('{"schema": 1, "name": "x", "kind": "cells", "cells": {"normal": {}}}')
    refused(call("train", "--arch", "h.json", "--data", "digits", "--steps", "1", "-o", "r"), "h.json", "cells")
    assert not (tmp_path / "r").exists()


def test_truncated_weights(call, release, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:1000])
    refused(call("verify", "copy", "--data", "digits", "--n", "8"), "damaged", "Download it again")
    refused(call("export", "copy", "-o", "x.onnx"), "damaged")
    assert not (tmp_path / "x.onnx").exists()


def test_wrong_class_count_names_both_sides(call, release, tmp_path):
    images = np.zeros((12, 32, 32, 3), np.uint8)
    labels = np.arange(12)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    refused(call("verify", release, "--data", "d.npz"), "10 classes", "0 to 11")


def test_images_of_another_type_than_uint8(call, release, tmp_path):
    images, labels = np.full((4, 32, 32, 3), 300.0), np.zeros(4, np.int64)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    refused(call("verify", release, "--data", "d.npz"), "d.npz", "uint8")


def test_existing_outputs_are_left_alone(call, trained_run, tmp_path):
    (tmp_path / "made").mkdir()
    refused(call("package", trained_run, "-o", "made", "--n", "8"), "made exists already")
    (tmp_path / "m.onnx").write_text("mine")
    refused(call("export", "rnas_cl_s3", "-o", "m.onnx"), "m.onnx exists already")
    (tmp_path / "g.json").write_text("{}")
    refused(call("search", "--data", "digits", "--steps", "1", "-o", "g.json"), "g.json exists already")
    (tmp_path / "made" / "mine").write_text("mine")
    refused(call("train", "--arch", "rnas_cl_s3", "--data", "digits", "--steps", "1", "-o", "made"), "no run folder")
    assert (tmp_path / "m.onnx").read_text() == "mine"


def test_no_permission_to_write(call, tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    refused(call("draw", "rnas_arnas", "-o", "file/a.svg"), "cannot write")
    refused(call("export", "rnas_cl_s3", "-o", "file/a.onnx"), "cannot write")
    train = ["train", "--arch", "rnas_cl_s3", "--data", "digits", "--steps", "1"]
    refused(call(*train, "-o", "file/run"), "cannot write")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [b"", b"no onnx", b"\x08\x07\x12\x04junk"])
def test_an_onnx_file_that_is_not_one(call, tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(call("verify", "m.onnx", "--data", "digits"), "m.onnx", "not a usable ONNX model")


def test_missing_files(call):
    refused(call("verify", "missing.onnx", "--data", "digits"), "missing.onnx", "no such file")
    refused(call("train", "missing.toml", "-o", "r"), "missing.toml", "no such recipe")
    refused(call("package", "missing", "-o", "out"), "not a run folder")
    refused(call("card", "missing"), "not a release folder")
    refused(call("verify", "rnas_cl_s3", "--data", "missing.npz"), "missing.npz")


def test_wrong_use_exits_with_2(call):
    for arguments in (["nonsense"], ["verify"], ["verify", "x", "--data", "digits", "--norm", "l7"]):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert "Usage:" in err
    refused(call("verify", "rnas_cl_s3", "--data", "digits", "--eps", "8"), "8/255")
    refused(call("train", "-o", "r"), "give a recipe file")


def test_the_time_budget_exits_with_3_and_resumes(call, tmp_path):
    train = ["train", "--arch", "rnas_cells", "--data", "digits", "--objective", "clean", "--channels", "2"]
    rest = ["--layers", "3", "--stem", "cifar_stride2", "--batch-size", "16", "--steps", "30", "-o", "run"]
    code, _, err = call(*train, *rest, "--time-budget", "0.1s")
    assert code == 3, err
    assert "--resume" in err
    code, out, err = call(*train, *rest, "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"


def test_internal_errors_exit_with_70(call, monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli.group, "main", lambda **options: broken())
    code, _, err = call("list")
    assert code == 70
    assert "a bug" in err


def test_python_dash_m(tmp_path):
    root = Path(cli.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "rnas_zoo", "--version"], cwd=root, capture_output=True, text=True, check=True
    )
    import rnas_zoo

    assert done.stdout.strip() == f"rnas-zoo, version {rnas_zoo.__version__}"
