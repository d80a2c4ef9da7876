"""The differentiable twin of an ONNX file."""

import numpy as np
import pytest
import torch

from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.twin import twin
from rnas_zoo.errors import OnnxFileError
from rnas_zoo.reference import load


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
