"""The package works as an uninstalled tree and as a wheel; both find genotypes and recipes."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rnas_zoo

ROOT = Path(rnas_zoo.__file__).parents[1]
PROBE = """
import pathlib, sys, rnas_zoo, timm
from rnas_zoo import genotype, resources
root = pathlib.Path(sys.argv[1]).resolve()
assert pathlib.Path(rnas_zoo.__file__).resolve().is_relative_to(root), rnas_zoo.__file__
assert resources.folder("genotypes").resolve().is_relative_to(root)
assert resources.folder("recipes").is_dir() and resources.folder("model_cards").is_dir()
print(len(genotype.names()), sum(p.numel() for p in timm.create_model("rnas_cl_s7").parameters()))
"""

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="waits for a checkout: run the tests from a clone"
)


def probe(root: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(root)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def unpacked_wheel(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_uninstalled_tree(tmp_path):
    count = len(list((ROOT / "genotypes").glob("*.json")))
    assert probe(ROOT, tmp_path) == f"{count} 323162"


def test_wheel_holds_code_and_data_and_nothing_else(unpacked_wheel, tmp_path):
    count = len(list((ROOT / "genotypes").glob("*.json")))
    assert probe(unpacked_wheel, tmp_path) == f"{count} 323162"
    tops = {path.name.split("-")[0] for path in unpacked_wheel.iterdir()}
    assert tops == {"rnas_zoo"}
    code = {str(p.relative_to(ROOT)) for p in (ROOT / "rnas_zoo").rglob("*") if p.suffix in (".py", ".jinja")}
    shipped = {str(p.relative_to(unpacked_wheel)) for p in unpacked_wheel.rglob("*") if p.suffix in (".py", ".jinja")}
    assert code <= shipped
    assert not any("test" in Path(name).name and name.startswith("tests") for name in shipped)


def test_wheel_declares_the_command_and_one_onnxruntime_per_platform(unpacked_wheel):
    (info,) = unpacked_wheel.glob("*.dist-info")
    assert "rnas-zoo = rnas_zoo.cli:main" in (info / "entry_points.txt").read_text()
    from packaging.requirements import Requirement

    lines = [line for line in (info / "METADATA").read_text().splitlines() if line.startswith("Requires-Dist:")]
    needs = [Requirement(line.partition(":")[2].strip()) for line in lines]
    runtimes = [need for need in needs if need.name.startswith("onnxruntime")]
    platforms = [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("darwin", "arm64", "onnxruntime"),
        ("linux", "aarch64", "onnxruntime"),
    ]
    for system, machine, wanted in platforms:
        chosen = [
            need.name
            for need in runtimes
            if need.marker.evaluate({"sys_platform": system, "platform_machine": machine})
        ]
        assert chosen == [wanted]


def test_the_installed_command_works_outside_the_checkout(installed, tmp_path):
    """The whole demo runs in such an environment as well: see test_demo.py."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = call(installed / "python", "-c", "import rnas_zoo; print(rnas_zoo.__file__)")
    assert Path(where.strip()).resolve().is_relative_to(installed.parent.resolve())
    listed = json.loads(call(installed / "rnas-zoo", "list", "--results", "--json"))
    names = {path.name for path in (ROOT / "model_cards").iterdir() if path.is_dir()}
    assert names <= set(json.dumps(listed).replace('"', " ").split())
    call(installed / "rnas-zoo", "draw", "rnas_vuln_h", "-o", "cells.svg")
    assert (tmp_path / "cells.svg").read_text(encoding="utf-8").startswith("<")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.svg"]
