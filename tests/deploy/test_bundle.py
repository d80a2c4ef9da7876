"""Bundles: a folder that runs and checks a model where nothing but NumPy and onnxruntime is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from rnas_zoo import resources
from rnas_zoo.deploy import runtime
from rnas_zoo.deploy.bundle import write_bundle
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.errors import CheckFailedError, DataError, OnnxFileError, OutputExistsError
from rnas_zoo.files import sha256_file

from ..graphs import graph


@pytest.fixture(scope="module")
def release() -> Path:
    return resources.folder("model_cards") / "rnas_wrn10_1.pgd_digits_linf16"


@pytest.fixture(scope="module")
def bundle(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "out"
    write_bundle(release / "model.onnx", folder, check=release / "check.npz")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment that has NumPy and onnxruntime, both by links, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = {
        path for path in folder.rglob("site-packages") if not path.is_symlink() and "lib64" not in path.parts
    }
    try:
        for module in (np, onnxruntime):
            here = Path(module.__file__).parent
            for path in (here, here.with_name(f"{here.name}.libs")):  # the latter: what wheels link against
                if path.is_dir():
                    (packages / path.name).symlink_to(path, target_is_directory=True)
    except OSError as error:
        pytest.skip(f"waits for a file system and rights that allow symbolic links: {error}")
    return next(path for path in folder.glob("*/python*") if path.stem == "python")


def run(python, folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_folder_alone_runs_with_numpy_and_onnxruntime_only(bundle, python, tmp_path, release):
    folder = shutil.copytree(bundle, tmp_path / "moved")
    code = (
        "from importlib.util import find_spec\n"
        "names = 'numpy onnxruntime torch PIL timm onnx rnas_zoo scipy google'.split()\n"
        "print(*[n for n in names if find_spec(n)])\n"
    )
    assert run(python, folder, "-c", code).stdout.split() == ["numpy", "onnxruntime"]
    done = run(python, folder, "runtime.py", "model.onnx", "--check", "check.npz", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "another class than expected on 0 of 64 images, allowed is 1"
    done = run(python, folder, "runtime.py", "model.onnx", "check.npz", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    with np.load(release / "check.npz") as pack:
        wanted = pack["logits"].argmax(1)
    labels = (folder / "labels.txt").read_text().splitlines()
    said = [line.split(": ")[1].split(" ")[0] for line in done.stdout.splitlines()[:64]]
    assert said == [labels[i] for i in wanted]
    (folder / "photo.png").touch()
    done = run(python, folder, "runtime.py", "model.onnx", "photo.png", "--provider", "cpu")
    assert done.returncode == 2
    assert "photo.png: needs Pillow" in done.stderr
    with np.load(folder / "check.npz") as pack:
        arrays = dict(pack)
    arrays["logits"][:2] *= -1
    np.savez(folder / "check.npz", **arrays)
    assert run(python, folder, "runtime.py", "model.onnx", "--check", "check.npz", "--provider", "cpu").returncode == 1


def test_its_files_are_the_model_s_own_and_the_readme_says_how_to_use_them(bundle, release):
    names = {"README.md", "check.npz", "labels.txt", "model.onnx", "runtime.py"}
    assert {path.name for path in bundle.iterdir()} == names
    for name in ("model.onnx", "check.npz"):
        assert (bundle / name).read_bytes() == (release / name).read_bytes()
    assert (bundle / "runtime.py").read_bytes() == Path(runtime.__file__).read_bytes()
    assert (bundle / "labels.txt").read_text().splitlines() == Session(release / "model.onnx", "cpu").labels
    readme = (bundle / "README.md").read_text(encoding="utf-8")
    assert "\n    python runtime.py model.onnx --check check.npz\n" in readme
    assert "L∞ 16/255" in readme
    assert sha256_file(bundle / "model.onnx") in readme
    assert 8 <= sum(1 for line in readme.splitlines() if line) <= 14


def test_it_reports_what_it_wrote_and_never_overwrites_unasked(release, tmp_path):
    report = write_bundle(release / "model.onnx", tmp_path / "b", check=release / "check.npz")
    assert json.loads(json.dumps(report)) == report
    assert report["files"] == {path.name: sha256_file(path) for path in (tmp_path / "b").iterdir()}
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "b").iterdir())
    assert (report["check"]["images"], report["check"]["differ"]) == (64, 0)
    assert report["check"]["largest"] < 1e-4
    (tmp_path / "b" / "mine").touch()
    with pytest.raises(OutputExistsError):
        write_bundle(release / "model.onnx", tmp_path / "b", check=None)
    assert (tmp_path / "b" / "mine").exists()
    again = write_bundle(release / "model.onnx", tmp_path / "b", check=None, overwrite=True)
    assert again["check"] is None
    assert set(again["files"]) == {"README.md", "labels.txt", "model.onnx", "runtime.py"}
    assert "--check" not in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")


def pack_of(path, session, wrong):
    """A pack with the session's own answers, `wrong` of them turned round."""
    images, twins = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 8, 3), dtype=np.uint8)
    logits = session.answers(images)
    logits[:wrong] *= -1
    np.savez(path, images=images, adversarial=twins, labels=np.arange(8) % 4, logits=logits)
    return path


def test_a_pack_of_another_model_is_refused_and_nothing_is_written(tmp_path):
    path = graph(tmp_path / "m.onnx")
    pack = pack_of(tmp_path / "check.npz", Session(path, "cpu"), wrong=2)
    with pytest.raises(CheckFailedError, match="another class on 2 of 8 images; nothing was written"):
        write_bundle(path, tmp_path / "out", check=pack)
    other = graph(tmp_path / "other.onnx", shape=("n", 3, 9, 9))
    for bad, found in ((tmp_path / "none.npz", "not a readable check pack"), (pack, r"takes images of shape .*9, 9")):
        with pytest.raises(DataError, match=found):
            write_bundle(other, tmp_path / "out", check=bad)
    pack.write_bytes(b"PK")
    with pytest.raises(OnnxFileError, match="not a usable ONNX model"):
        write_bundle(pack, tmp_path / "out", check=None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["check.npz", "m.onnx", "other.onnx"]


@pytest.mark.parametrize("softmax", [False, True])
def test_the_pack_of_an_int8_model_holds_its_own_answers(tmp_path, softmax):
    path = graph(tmp_path / "m.onnx", after=("Softmax",) if softmax else ())
    plain = pack_of(tmp_path / "check.npz", Session(graph(tmp_path / "plain.onnx"), "cpu"), wrong=3)
    model = onnx.load(path)
    texts = {"precision": "int8", **({"output": "probabilities"} if softmax else {})}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)
    report = write_bundle(path, tmp_path / "out", check=plain)
    assert report["check"]["differ"] == 3
    assert runtime.main([str(path), "--check", str(plain)]) == 1
    assert runtime.main([str(path), "--check", str(tmp_path / "out" / "check.npz")]) == 0
    with np.load(tmp_path / "out" / "check.npz") as made, np.load(plain) as given:
        for name in ("images", "adversarial", "labels"):
            np.testing.assert_array_equal(made[name], given[name])
        ours = Session(path, "cpu")
        for name, images in (("logits", "images"), ("adversarial_logits", "adversarial")):
            assert made[name].argmax(1).tolist() == ours.answers(given[images]).argmax(1).tolist()
    assert "from this very int8 file" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_model_without_metadata_can_be_bundled(tmp_path):
    write_bundle(graph(tmp_path / "plain.onnx"), tmp_path / "out", check=None)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.onnx", "runtime.py"}
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# plain\n")
    assert "float32 ['n', 3, 8, 8]" in readme
