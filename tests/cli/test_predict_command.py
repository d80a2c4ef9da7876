"""`rnas-zoo predict`: what it prints, what it refuses, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from rnas_zoo.cli import run

from ..graphs import graph, net
from .test_cli import refused

NAMES = ["ant", "bee", "cat", "dog"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def expected(images=IMAGES):
    return net()(torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))).softmax(1).numpy()


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs `rnas-zoo predict` beside model.onnx and the folder photos; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load(graph(tmp_path / "model.onnx"))
    onnx.helper.set_model_props(model, {"labels": json.dumps(NAMES)})
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")

    def invoke(*arguments):
        code = run(["predict", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_one_json_object_with_the_model_s_probabilities(call):
    code, out, err = call("model.onnx", "photos", "photos/1.png", "--top-k", 4, "--batch-size", 2, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["model"], found["provider"]) == ("model.onnx", "CPUExecutionProvider")
    assert [answer["image"] for answer in found["images"]] == [*(f"photos/{i}.png" for i in range(3)), "photos/1.png"]
    for answer, wanted in zip(found["images"], expected()[[0, 1, 2, 1]], strict=True):
        assert [top["label"] for top in answer["top"]] == [NAMES[i] for i in np.argsort(-wanted)]
        np.testing.assert_allclose([top["probability"] for top in answer["top"]], np.sort(wanted)[::-1], rtol=1e-4)


def test_the_table_names_image_class_and_provider(call):
    code, out, _ = call("model.onnx", "photos", "--threads", 1)
    assert code == 0
    head, _, *rows, last = out.splitlines()
    assert head.split() == ["image", "class", "1"]
    for index, (row, wanted) in enumerate(zip(rows, expected(), strict=True)):
        assert row.split() == [f"photos/{index}.png", NAMES[wanted.argmax()], f"{100 * wanted.max():.1f}", "%"]
    assert last == "model.onnx on CPUExecutionProvider"


def test_a_folder_stands_for_its_model(call, tmp_path):
    (tmp_path / "release").mkdir()
    graph(tmp_path / "release" / "model.onnx")
    graph(tmp_path / "release" / "model.int8.onnx", ("Mul", {}, np.array(0.5, np.float32)))
    plain, int8 = (
        json.loads(call("release", "photos", "--json", *more)[1]) for more in ((), ("--file", "model.int8.onnx"))
    )
    assert plain["images"][0]["top"][0]["label"] == str(expected().argmax(1)[0])
    dim = net()(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / np.float32(510))).softmax(1)
    assert int8["images"][0]["top"][0]["probability"] == pytest.approx(float(dim[0].max()), rel=1e-4)
    refused(call("release", "photos", "--file", "model.int4.onnx"), "--file chooses model.int8.onnx, model.onnx")
    refused(call("photos", "photos"), "holds no model.onnx", "rnas-zoo export photos -o photos/model.onnx")
    refused(call("model.onnx", "photos", "--file", "model.onnx"), "--file chooses a file of a folder")


@pytest.mark.parametrize("ref", ["rnas_cl_s3", "models.py:load"])
def test_other_references_are_sent_to_export(call, ref):
    refused(call(ref, "photos"), f"{ref} is neither", f"`rnas-zoo export {ref} -o model.onnx`")


def test_bad_images_and_models_are_one_line_that_names_the_file(call, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_text("no model")
    np.save(tmp_path / "wide.npy", np.zeros((2, 8, 9, 3), np.uint8))
    refused(call("model.onnx", "photos", "missing.png", "--json"), "missing.png: no such file")
    refused(call("model.onnx", "photos", "text.png"), "text.png: not a readable image")
    refused(call("model.onnx", "empty"), "empty: no images in it")
    refused(call("model.onnx", "wide.npy"), "wide.npy: has 8x9 pixels, the model takes 8x8")
    refused(call("bad.onnx", "photos"), "bad.onnx is not a usable ONNX model")
    refused(call("none.onnx", "photos"), "none.onnx: no such file")
    assert call("model.onnx")[0] == 2


def test_a_provider_that_cannot_be_had_is_refused(call, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(call("model.onnx", "photos", "--provider", "cuda"), "CUDAExecutionProvider was asked for")


def test_it_runs_without_torch(call):
    code = (
        "import sys\nfrom rnas_zoo.cli import run\n"
        "assert run(['predict', 'model.onnx', 'photos', '--provider', 'cpu']) == 0\n"
        "assert not {'torch', 'timm', 'onnx', 'scipy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "photos/2.png" in done.stdout
