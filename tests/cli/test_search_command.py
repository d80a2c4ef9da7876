"""`rnas-zoo search`: what its options mean, alone and as a study of several searches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rnas_zoo import genotype
from rnas_zoo.cli import run
from rnas_zoo.engine.overrides import parsed
from rnas_zoo.engine.record import read_run
from rnas_zoo.errors import UsageError
from rnas_zoo.searching import fit, methods
from rnas_zoo.searching.methods.base import Method, NoSettings
from rnas_zoo.searching.overrides import overrides
from rnas_zoo.searching.run import configured

TINY = ("--channels", "2", "--layers", "3", "--stem", "cifar_stride2", "--batch-size", "16")


@pytest.fixture
def call(capfd, tmp_path, monkeypatch, small_data):
    """Runs a search on the small data in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = run(["search", "--data", str(small_data), *map(str, arguments), "--device", "cpu"])
        return code, *capfd.readouterr()

    return invoke


def config_of(path: str) -> dict:
    return read_run(Path(path).with_suffix(".run"))["config"]


def test_help_lists_every_method_in_a_line_and_loads_no_torch():
    code = (
        "import sys\nfrom rnas_zoo.cli import run\nrun(['search', '--help'])\n"
        "sys.exit(1 if {'torch', 'timm', 'numpy'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert set(methods.METHODS) <= set(first)
    assert "file.py:Class" in first


def test_options_that_were_not_given_leave_the_preset_as_it_is(call):
    code, _, err = call("--method", "e2rnas", "--preset", "paper", *TINY, "--steps", "2", "-o", "a.json")
    assert code == 0, err
    found, paper = config_of("a.json"), methods.find("e2rnas").presets["paper"]
    assert {key: found[key] for key in paper} == dict(paper)
    assert (found["channels"], found["layers"], found["batch_size"], found["total_steps"]) == (2, 3, 16, 2)
    assert (found["norm"], found["seed"], found["partial"]) == ("linf", 0, 1)


def test_options_and_settings_reach_the_configuration(call):
    code, out, err = call(
        "--method", "rnas_vuln", *TINY, "--steps", "2", "--attack-steps", "1", "--eps", "16/255", "--seed", "3",
        "--arch-learning-rate", "0.05", "--set", "relative_limit=0.25", "--set", "adversarial-only=true",
        "--set", "warmup=0", "--set", "arch_betas=0.8,0.99", "--image-size", "32", "-o", "b.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = config_of("b.json")
    wanted = {
        "attack": "pgd", "attack_steps": 1, "eps": "16/255", "seed": 3, "arch_learning_rate": 0.05, "warmup": 0.0,
        "arch_betas": [0.8, 0.99], "image_size": [32, 32], "preset": "fast",
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    assert found["settings"] == {"relative_limit": 0.25, "adversarial_only": True}
    assert json.loads(out)["provenance"]["dataset"] == "blobs@32"


def test_several_methods_and_seeds_are_a_study(call):
    code, out, err = call(
        "--method", "darts,random", "--seeds", "2", *TINY, "--steps", "2", "--proxy-steps", "2", "--eps", "16/255",
        "-o", "best.json",
    )  # fmt: skip
    assert code == 0, err
    told = genotype.load("best.json").provenance["study"]
    assert [row["name"] for row in told["candidates"]] == ["darts-s0", "random-s0", "darts-s1", "random-s1"]
    wanted = {"eps": "16/255", "batch_size": 16, "total_steps": 2, "learning_rate": 0.1 * 16 / 64}
    assert {key: told["proxy"][key] for key in wanted} == wanted
    assert out.splitlines()[2].startswith(told["chosen"])
    assert "report: best.study/report.md" in err
    assert "train --arch best.json" in out
    assert "--channels 2 --layers 3 --stem cifar_stride2" in out


def test_limits_decide_the_default_size(call):
    code, out, err = call("--method", "random", *TINY, "--max-params", "15k", "-o", "r.json", "--json")
    assert code == 0, err
    assert json.loads(out)["default"] == genotype.load("r.json").default
    found = genotype.load("r.json")
    assert fit.size(found, 3, (16, 16), "cifar_stride2")[0] <= 15_000
    assert found.default["layers"] > 3


def test_a_stopped_study_exits_with_3_and_resumes(call):
    asked = ("--method", "random", "--seeds", "2", *TINY, "--proxy-steps", "2", "-o", "s.json")
    code, _, err = call(*asked, "--time-budget", "0.001s")
    assert code == 3
    assert "--resume" in err
    assert call(*asked, "--resume")[0] == 0


def test_a_method_of_ones_own(call, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rnas_zoo.searching.methods import Method\n\n\nclass Mine(Method):\n    searches = False\n"
    )
    code, _, err = call("--method", "mine.py:Mine,random", *TINY, "--proxy-steps", "1", "-o", "m.json")
    assert code == 0, err
    names = [row["name"] for row in genotype.load("m.json").provenance["study"]["candidates"]]
    assert names == ["mine.Mine-s0", "random-s0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "relative_limits=2"], "Did you mean relative_limit"),
        (["--set", "warmup"], "NAME=VALUE"),
        (["--set", "relative_limit=much"], "expected float"),
        (["--set", "adversarial_only=1"], "expected bool"),
        (["--set", "method=darts"], "no setting 'method'"),
        (["--seeds", "2", "--proxy-share", "0"], "--proxy-share must lie between 0 and 1"),
        (["--method", "darts,darts"], "darts-s0 twice"),
        (["--max-params", "many"], "cannot read the count"),
        (["--eps", "8"], "write 8/255"),
    ],
)
def test_bad_input_is_one_line(call, arguments, words):
    code, out, err = call("--method", "rnas_vuln", *TINY, "--steps", "1", *arguments, "-o", "x.json")
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert not Path("x.json").exists()


def test_settings_go_to_the_methods_that_know_them():
    found = overrides(["constraint=abs", "momentum=0.5"], ["e2rnas", "darts"])
    assert found == {"e2rnas": {"settings": {"constraint": "abs"}, "momentum": 0.5}, "darts": {"momentum": 0.5}}
    assert overrides([], ["darts"]) == {"darts": {}}


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("48x64", tuple[int, int] | None, (48, 64)),
        ("48", tuple[int, int] | None, (48, 48)),
        ("0.5,1", tuple[float, ...], (0.5, 1.0)),
        ("False", bool, False),
        ("7", int, 7),
        ("a=b", str, "a=b"),
    ],
)
def test_values_are_typed_by_their_field(text, hint, value):
    assert parsed(text, hint, "x") == value
    assert type(parsed(text, hint, "x")) is type(value)


@pytest.mark.parametrize(("channels", "partial"), [(4, 1), (8, 2), (12, 2), (16, 4), (20, 4), (24, 4), (6, 1), (18, 2)])
def test_partial_channels_leave_at_least_four_to_a_part(channels, partial):
    config = configured("digits", "darts", channels=channels)
    assert config.partial == partial
    assert configured("digits", "darts", channels=channels, partial=1).partial == 1
    assert configured("digits", "darts", "paper", channels=channels).partial == 1


def test_values_outside_a_type_are_refused_by_name():
    with pytest.raises(UsageError, match=r"x = '1\.5' has the wrong type, expected int"):
        parsed("1.5", int, "x")
    assert Method.Settings is NoSettings
