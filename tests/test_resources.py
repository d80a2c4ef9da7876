"""Where the data folders are found: checkout, installed package, and nothing at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rnas_zoo import resources

CHECKOUT = Path(resources.__file__).resolve().parents[1]
REPORT = """
import json, rnas_zoo
from rnas_zoo import genotype, resources
folders = {name: str(resources.folder(name)) for name in ("genotypes", "recipes", "model_cards")}
print(json.dumps({"package": rnas_zoo.__file__, "names": genotype.names(), "commit": resources.commit(), **folders}))
"""


def report(root: Path) -> dict:
    """What the package under `root` says about its resources, asked from another folder."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{REPORT}"],
        capture_output=True, text=True, timeout=60, cwd=root.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def copy_package(root: Path) -> Path:
    shutil.copytree(CHECKOUT / "rnas_zoo", root / "rnas_zoo", ignore=shutil.ignore_patterns("__pycache__", "_data"))
    return root


@pytest.fixture
def genotype_names():
    return sorted(path.stem for path in (CHECKOUT / "genotypes").glob("*.json"))


def test_a_checkout_is_used_as_it_stands(genotype_names):
    found = report(CHECKOUT)
    assert found["package"] == str(CHECKOUT / "rnas_zoo" / "__init__.py")
    assert found["genotypes"] == str(CHECKOUT / "genotypes")
    assert found["names"] == genotype_names != []


def test_an_installed_package_uses_its_own_data(tmp_path, genotype_names):
    site = copy_package(tmp_path / "site-packages")
    shutil.copytree(CHECKOUT / "genotypes", site / "rnas_zoo" / "_data" / "genotypes")
    found = report(site)
    assert found["package"] == str(site / "rnas_zoo" / "__init__.py")
    assert found["genotypes"] == str(site / "rnas_zoo" / "_data" / "genotypes")
    assert found["names"] == genotype_names
    assert found["commit"] is None


def test_folders_of_others_beside_an_installed_package_are_not_ours(tmp_path):
    site = copy_package(tmp_path / "site-packages")
    (site / "genotypes").mkdir()
    (site / "genotypes" / "foreign.json").write_text("{}")
    assert report(site)["names"] == []


def test_a_checkout_wins_over_bundled_data(tmp_path):
    root = copy_package(tmp_path / "checkout")
    (root / "pyproject.toml").write_text("")
    for folder, name in ((root / "genotypes", "ours"), (root / "rnas_zoo" / "_data" / "genotypes", "bundled")):
        folder.mkdir(parents=True)
        (folder / f"{name}.json").write_text("{}")
    assert report(root)["names"] == ["ours"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_the_one_the_checkout_stands_at(tmp_path):
    root = copy_package(tmp_path / "checkout")
    (root / "pyproject.toml").write_text("")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(root), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    assert report(root)["commit"] == git("rev-parse", "HEAD")
    (root / "pyproject.toml").unlink()
    assert report(root)["commit"] is None
