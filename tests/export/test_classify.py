"""The consumer to copy, run as a deployer runs it: in a process of its own, from a folder of its own."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from rnas_zoo import resources
from rnas_zoo.data.sizes import fit
from rnas_zoo.deploy.runtime import Session

from .conftest import ROOT

FOLDER = resources.folder("model_cards") / "rnas_cl_s3.nfgsm_cifar10_linf8"


@pytest.fixture
def classify(tmp_path):
    shutil.copy(ROOT / "export" / "python" / "classify.py", tmp_path)
    shutil.copy(FOLDER / "model.onnx", tmp_path)

    def run(*arguments):
        command = [sys.executable, "-I", "classify.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


def test_it_prints_what_the_session_answers(classify, tmp_path):
    with np.load(FOLDER / "check.npz") as pack:
        image = pack["images"][0]
    np.save(tmp_path / "a.npy", image)
    Image.fromarray(image).save(tmp_path / "a.png")
    wide = Image.fromarray(image).resize((75, 50), Image.Resampling.BICUBIC)
    wide.save(tmp_path / "wide.png")
    done = classify("model.onnx", "a.npy", "a.png", "wide.png")
    assert done.returncode == 0, done.stderr
    pictures = np.stack([image, image, np.asarray(fit(wide, (32, 32), pad=False))])
    expected = Session(FOLDER / "model.onnx", provider="cpu").predict(pictures, k=3)
    for line, name, top in zip(done.stdout.splitlines(), ("a.npy", "a.png", "wide.png"), expected, strict=True):
        told, *classes = line.split("\t")
        assert told == name
        assert [text.split()[0] for text in classes] == [label for label, _ in top]
        assert [float(text.split()[1]) for text in classes] == pytest.approx([share for _, share in top], abs=1e-4)


def test_a_graph_that_takes_pixels_and_answers_with_probabilities(classify, tmp_path):
    """Three classes, softmax of the mean of each colour over 100."""
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "hundred"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 4, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.float32([100]), "hundred")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    texts = {"labels": '["red", "green", "blue"]', "input_size": "[3, 2, 4]", "output": "probabilities"}
    helper.set_model_props(model, texts)
    onnx.save(model, tmp_path / "colours.onnx")
    np.save(tmp_path / "a.npy", np.full((2, 4, 3), [100, 0, 200], np.uint8))
    done = classify("colours.onnx", "a.npy")
    powers = np.exp([2, 1, 0])
    told = [f"{name} {share:.4f}" for name, share in zip(("blue", "red", "green"), powers / powers.sum(), strict=True)]
    assert done.stdout == "\t".join(["a.npy", *told]) + "\n", done.stderr


def test_without_arguments_it_says_how_it_is_used(classify):
    done = classify()
    assert done.returncode == 1
    assert "classify.py model.onnx picture.png" in done.stderr


@pytest.mark.parametrize("file", sorted(FOLDER.parent.glob("*/*.onnx")), ids=lambda file: file.parent.name)
def test_it_takes_every_file_of_the_zoo(classify, tmp_path, file):
    with np.load(file.parent / "check.npz") as pack:
        np.save(tmp_path / "a.npy", pack["images"][1])
        Image.fromarray(pack["images"][1]).save(tmp_path / "a.png")
    done = classify(str(file), "a.npy", "a.png")
    assert done.returncode == 0, done.stderr
    ((label, _),) = Session(file, provider="cpu").predict(np.load(tmp_path / "a.npy")[None])[0]
    assert [line.split("\t")[1].split()[0] for line in done.stdout.splitlines()] == [label] * 2
