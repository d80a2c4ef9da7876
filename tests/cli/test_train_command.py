"""`rnas-zoo train`: what its options mean for the configuration that is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from rnas_zoo.cli import run, train_command
from rnas_zoo.engine import config as configuration
from rnas_zoo.training import objectives
from rnas_zoo.training import run as run_module
from rnas_zoo.training.config import TrainConfig, recipe_text

BASE = TrainConfig("rnas_cells", "digits", total_steps=7, eps="4/255", model_args={"genotype": "vuln_h", "channels": 4})


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs the command up to the training; returns exit code, configuration, options of the run, and standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(recipe_text(BASE), encoding="utf-8")
    seen: list[tuple] = []

    def train(config, out, **options):
        seen.append((config, options))
        result = {"clean_accuracy": 0.5, "pgd_accuracy": 0.25}
        return {"result": result, "total_steps": 1, "seconds": 2.0, "config": configuration.to_dict(config)}

    monkeypatch.setattr(run_module, "train", train)

    def invoke(*arguments):
        seen.clear()
        code = run(["train", *map(str, arguments), "-o", "run", "--device", "cpu"])
        out, err = capfd.readouterr()
        config, options = seen[0] if seen else (None, None)
        return code, config, options, err or out

    return invoke


def test_a_recipe_alone_is_its_configuration(call):
    code, config, options, text = call("x.toml")
    assert (code, config) == (0, BASE), text
    assert not options["resume"]
    assert options["time_budget"] is None
    assert "PGD-10 at L∞ 4/255" in text
    assert "next: rnas-zoo package run" in text


def test_options_change_the_recipe(call):
    code, config, options, text = call(
        "x.toml", "--objective", "trades", "--eps", "8/255", "--norm", "l2", "--attack-steps", "3", "--steps", "9",
        "--batch-size", "32", "--learning-rate", "0.3", "--channels", "6", "--layers", "5", "--stem", "cifar",
        "--seed", "4", "--precision", "bf16", "--teacher", "rnas_wrn10_1", "--data", "cifar10", "--image-size", "32x48",
        "--fit", "--time-budget", "10m", "--resume",
    )  # fmt: skip
    assert code == 0, text
    assert config == replace(
        BASE, objective="trades", eps="8/255", norm="l2", attack_steps=3, total_steps=9, batch_size=32,
        learning_rate=0.3, seed=4, precision="bf16", teacher="rnas_wrn10_1", data="cifar10", image_size=(32, 48),
        model_args={"genotype": "vuln_h", "channels": 6, "layers": 5, "stem": "cifar"},
    )  # fmt: skip
    assert (options["fit_budget"], options["time_budget"], options["resume"]) == (True, 600.0, True)


def test_settings_reach_every_other_field_and_options_win_over_them(call):
    code, config, _, text = call(
        "x.toml", "--set", "beta=4", "--set", "average=0.999", "--set", "select=true", "--set", "milestones=0.3,0.6",
        "--set", "schedule=steps", "--set", "weight-decay=1e-4", "--set", "seed=8", "--seed", "9",
        "--set", "image_size=64",
    )  # fmt: skip
    assert code == 0, text
    assert config == replace(
        BASE, beta=4.0, average=0.999, select=True, milestones=(0.3, 0.6), schedule="steps", weight_decay=1e-4, seed=9,
        image_size=(64, 64),
    )  # fmt: skip


def test_an_architecture_needs_no_recipe(call):
    code, config, _, text = call("--arch", "rnas_cl_s3", "--data", "digits", "--steps", "2")
    assert (code, config) == (0, TrainConfig("rnas_cl_s3", "digits", total_steps=2)), text
    code, config, _, _ = call("--arch", "vuln_h", "--data", "digits", "--channels", "4")
    assert config.architecture == "rnas_cells"
    assert config.model_args["genotype"]["name"] == "vuln_h"
    assert config.model_args["channels"] == 4


def test_init_brings_its_architecture(call):
    ref = "rnas_wrn10_1.pgd_digits_linf16"
    code, config, _, text = call("--init", ref, "--data", "digits", "--set", "body_rate=0.2")
    assert (code, config) == (0, TrainConfig("rnas_wrn10_1", "digits", init=ref, body_rate=0.2)), text
    code, config, _, text = call("x.toml", "--init", ref, "--set", "keep_head=true")
    assert (code, config) == (0, replace(BASE, init=ref, keep_head=True)), text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give a recipe file"),
        (("x.toml", "--arch", "rnas_cl_s3"), "give a recipe file"),
        (("--arch", "rnas_cl_s3", "--init", "rnas_cl_s3", "--data", "digits"), "give a recipe file"),
        (("--arch", "rnas_cl_s3"), "--arch needs --data"),
        (("--init", "rnas_cl_s3"), "--init needs --data"),
        (("--init", "rnas_cl_s3", "--data", "digits", "--channels", "4"), "--init brings its own size"),
        (("--init", "model.onnx", "--data", "digits"), "training starts from a model name"),
        (("--arch", "rnas_cl_s4", "--data", "digits"), "Did you mean rnas_cl_s"),
        (("x.toml", "--set", "learning_rat=1"), "no setting 'learning_rat'. Did you mean learning_rate"),
        (("x.toml", "--set", "data=digits"), "no setting 'data'"),
        (("x.toml", "--set", "init=rnas_cl_s3"), "no setting 'init'"),
        (("x.toml", "--set", "model_args=1"), "no setting 'model_args'"),
        (("x.toml", "--set", "beta=six"), "beta = 'six' has the wrong type, expected float"),
        (("x.toml", "--set", "beta"), "--set takes NAME=VALUE"),
        (("x.toml", "--set", "holdout=2"), "holdout must lie between 0 and 1"),
        (("x.toml", "--objective", "trade"), "'trade' is not one of"),
        (("x.toml", "--image-size", "0"), "image-size"),
        (("missing.toml",), "no such recipe"),
    ],
)
def test_what_makes_no_configuration_is_refused(call, arguments, text):
    code, config, _, err = call(*arguments)
    assert (code, config) == (2, None)
    assert text in err


def test_the_objectives_are_those_of_training():
    assert train_command.OBJECTIVES == objectives.OBJECTIVES


def test_json_prints_the_run(call):
    code, _, _, out = call("x.toml", "--json")
    assert code == 0
    assert json.loads(out)["config"]["eps"] == "4/255"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_of_several_processes_only_the_first_reports(call, monkeypatch, more):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert call("x.toml", *more)[::3] == (0, "")
    monkeypatch.setenv("RANK", "0")
    assert call("x.toml", *more)[3]


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom rnas_zoo.cli import run\nrun(['train', '--help'])\n"
        "sys.exit(1 if {'torch', 'timm', 'numpy'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--init" in done.stdout
