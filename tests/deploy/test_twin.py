"""The differentiable twin of an ONNX file."""

import numpy as np
import onnx
import pytest
import torch

from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.twin import twin
from rnas_zoo.errors import OnnxFileError
from rnas_zoo.reference import load

from ..graphs import TO_FLOAT, UNIT, graph, net, pixels, slope


def test_twin_has_the_session_s_logits_and_the_torch_model_s_gradients(release):
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    double, original = twin(release / "model.onnx"), load(release)
    session = Session(release / "model.onnx", provider="cpu")
    np.testing.assert_allclose(double(x).numpy(), session.logits(x.numpy()), atol=1e-4)
    gradients = []
    for network in (double, original):
        z = x.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(network(z)[:, 3].sum(), z)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    assert not any(p.requires_grad for p in double.parameters())


def test_no_onnx_file_no_twin(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(OnnxFileError, match=r"x\.onnx is not a valid ONNX model"):
        twin(tmp_path / "x.onnx")


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_the_twin_of_a_half_precision_graph_computes_in_single(tmp_path, keep_io_types):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(graph(tmp_path / "f.onnx")), keep_io_types=keep_io_types)
    onnx.save(model, tmp_path / "half.onnx")  # with kept types, the first cast stands at the end of the file
    double, session = twin(tmp_path / "half.onnx"), Session(tmp_path / "half.onnx", provider="cpu", threads=1)
    x = pixels()
    assert double(x).dtype == torch.float32
    np.testing.assert_allclose(double(x).numpy(), session.logits(x.numpy()), atol=0.02)
    torch.testing.assert_close(double(x), net()(x), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(slope(double, x), slope(net(), x), rtol=0.02, atol=0.02)


def test_a_graph_with_an_input_that_nobody_gives_is_refused(tmp_path):
    model = onnx.load(graph(tmp_path / "f.onnx", TO_FLOAT, UNIT))
    model.graph.node[1].input[0] = "nothing"
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(OnnxFileError, match="is not a valid ONNX model"):
        twin(tmp_path / "f.onnx")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_fixed_batch_size_is_filled_up(tmp_path, size):
    double = twin(graph(tmp_path / "fixed.onnx", shape=(size, 3, 8, 8)))
    for count in (1, 2, 5):
        torch.testing.assert_close(double(pixels(count)), net()(pixels(count)))
