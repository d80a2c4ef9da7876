"""What the page's build refuses, and what it tells the page; none of this needs npm or a browser."""

import json
import subprocess
import sys

import numpy as np
import pytest

from .conftest import ROOT


@pytest.fixture
def release(tmp_path):
    """Writes a release folder with what the build reads: two photos of labels 0 and 1, logits as given."""

    def write(name, logits=((0, 0), (0, 5)), labels=(0, 1), side=32):
        folder = tmp_path / name
        folder.mkdir()
        images = np.full((2, side, side, 3), 100, np.uint8)
        arrays = {"images": images, "adversarial": images + 4, "labels": np.array(labels)}
        np.savez(folder / "check.npz", logits=np.array(logits, np.float32), **arrays)
        return folder

    return write


def test_photos_of_both_packs_and_which_are_clear_to_both(build, release):
    found = build.photos(release("a", logits=((5, 0), (0, 5))), release("b", logits=((0, 0), (0, 5))))
    assert {key: value.shape for key, value in found.items() if value.ndim == 4} == dict.fromkeys(
        ("original", "ordinary", "robust"), (2, 32, 32, 3)
    )
    assert (found["robust"] - found["original"]).max() == 4
    assert found["clear"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("second", "words"),
    [({"labels": (1, 1)}, "different photos"), ({"side": 16}, "different photos"), (None, "no check pack")],
)
def test_packs_that_do_not_fit_are_refused(build, release, tmp_path, second, words):
    other = tmp_path / "missing" if second is None else release("b", **second)
    with pytest.raises(build.BuildError, match=words):
        build.photos(release("a"), other)


def test_other_sizes_are_refused(build, release):
    with pytest.raises(build.BuildError, match="32x32"):
        build.photos(release("a", side=16), release("b", side=16))


def test_two_designs_are_refused(build, release, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "install", lambda: None)
    folders = [release("a"), release("b")]
    for folder, architecture in zip(folders, ("rnas_cl_s3", "rnas_cl_s7"), strict=True):
        (folder / "config.json").write_text(json.dumps({"architecture": architecture}))
    with pytest.raises(build.BuildError, match="one design, not a with b"):
        build.build(tmp_path / "page", *folders)


def test_measured_is_the_strongest_attack_at_that_size_then_the_most_photos(build, tmp_path):
    def run(protocol, n, robust, eps="8/255", norm="linf"):
        return {
            "protocol": protocol,
            "n": n,
            "norm": norm,
            "eps": eps,
            "clean_accuracy": 0.9,
            "robust_accuracy": robust,
        }

    runs = [
        run("quick", 5000, 0.6), run("standard", 100, 0.5), run("standard", 1000, 0.4), run("fast", 2000, 0.45),
        run("full", 1000, 0.1, eps="16/255"), run("full", 1000, 0.2, norm="l2"), run("transfer", 9000, 0.7),
    ]  # fmt: skip
    (tmp_path / "robustness.json").write_text(json.dumps({"runs": runs}))
    assert build.measured(tmp_path, "8/255") == {"clean": 0.9, "robust": 0.4, "n": 1000, "attack": "AutoAttack"}
    assert build.measured(tmp_path, "1/255") is None


def test_without_npm_the_build_says_what_is_missing(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "node_modules")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.OfflineError, match=r"npm is missing; it comes with Node\.js"):
        build.install()


def test_the_script_ends_with_one_line(tmp_path):
    script = str(ROOT / "export" / "web" / "build.py")
    (tmp_path / "taken").write_text("a file")
    done = subprocess.run(
        [sys.executable, script, "-o", str(tmp_path / "taken")], capture_output=True, text=True, env={"PATH": ""}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_version_of_onnxruntime_web_is_exact_and_the_locked_one():
    wanted = json.loads((ROOT / "export" / "web" / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    locked = json.loads((ROOT / "export" / "web" / "package-lock.json").read_text())
    assert wanted.replace(".", "").isdigit()
    assert locked["packages"]["node_modules/onnxruntime-web"]["version"] == wanted
    assert locked["packages"]["node_modules/onnxruntime-web"]["integrity"].startswith("sha512-")
