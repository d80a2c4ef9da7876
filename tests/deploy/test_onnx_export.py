"""Exported ONNX files are the torch model, or they do not exist."""

import json

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from rnas_zoo import data, genotype
from rnas_zoo.deploy import onnx_export
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.errors import CheckFailedError, OutputExistsError, UsageError

# One of each family; the exporter takes long on RobNet's dense cells, so of those there are four.
FAMILIES = ("rnas_vuln_h_c16l8", "rnas_arnas_c16l8", "rnas_robnet_large_c16l8", "rnas_cl_s3")
SIZES = {"rnas_robnet_large_c16l8": {"layers": 4}}


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, **SIZES.get(name, {})).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
            made[name] = path, export(build(name), path)
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_torch_at_batches_1_2_7(name, exported):
    path, report = exported(name)
    network = build(name)
    images = data.load("digits").test.images[100:107]
    pixels = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    session = Session(path, provider="cpu")
    for batch in (1, 2, 7):
        with torch.no_grad():
            wanted = network(torch.from_numpy(pixels[:batch])).numpy()
        np.testing.assert_allclose(session.logits(pixels[:batch]), wanted, atol=1e-4)
    assert set(report["parity"]) == {"1", "2", "7"}


@pytest.mark.parametrize("name", FAMILIES)
def test_one_checked_file_with_symbolic_batch_and_no_local_paths(name, exported):
    path, report = exported(name)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    first, *rest = image.type.tensor_type.shape.dim
    assert first.dim_param
    assert [d.dim_value for d in rest] == [3, 32, 32]
    content = path.read_bytes()
    for marker in (b"rnas_cells.py", b"ops.py", b"site-packages", b"/home/", b"stack_trace"):
        assert marker not in content
    made_by = {output: node.op_type for node in proto.graph.node for output in node.output}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert all(made_by[node.input[0]] == "Concat" for node in norms)  # a norm after a convolution is folded into it
    assert report["bytes"] == len(content)


def test_metadata_rebuilds_the_architecture(exported):
    path, _ = exported("rnas_arnas_c16l8")
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found = genotype.from_json(json.loads(texts["genotype"]))
    assert found == genotype.named("arnas")
    assert texts["genotype_sha256"] == found.hash
    assert texts["architecture"] == "rnas_arnas_c16l8"
    assert json.loads(texts["model_args"])["genotype"]["name"] == "arnas"
    assert len(texts["weights_sha256"]) == 64
    assert json.loads(texts["input_size"]) == [3, 32, 32]


def test_metadata_has_the_image_size_of_the_graph(tmp_path):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.pretrained_cfg = {"input_size": (3, 16, 24)}
    export(network, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "input_size")
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    assert json.loads(entry.value) == shape == [3, 16, 24]


def test_the_same_weights_give_the_same_bytes(tmp_path, exported):
    path, _ = exported("rnas_cl_s3")
    export(build("rnas_cl_s3"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_a_graph_that_is_another_function_is_refused_and_not_written(tmp_path, monkeypatch):
    class Net(nn.Module):
        shift = 0.0

        def forward(self, x):
            return x.mean((2, 3)) + self.shift

    network = Net()
    original = onnx_export.to_onnx

    def convert_then_change(*arguments):
        proto = original(*arguments)
        network.shift = 0.01
        return proto

    monkeypatch.setattr(onnx_export, "to_onnx", convert_then_change)
    with pytest.raises(CheckFailedError, match=r"batch 1 logits differ by 0\.01"):
        export(network, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_output_path_is_checked_first(tmp_path):
    with pytest.raises(UsageError, match=r"\.onnx"):
        export("rnas_cl_s3", tmp_path / "model.bin")
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(OutputExistsError, match="left as it is"):
        export("rnas_cl_s3", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"
