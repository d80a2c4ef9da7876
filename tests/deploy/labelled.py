"""What tests of the runtime share: a session with labels, images for it, and the answers it should give."""

import numpy as np
import onnx
import pytest
import torch

from rnas_zoo.deploy.runtime import Session

from ..graphs import graph, net


def described(path, **texts):
    """An ONNX file with texts in its metadata."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path


def levels(n, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def expected(images):
    """Probabilities of `net` for uint8 images (N, H, W, 3), in float64."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64) / 255)
    return net().double()(x).softmax(1).numpy()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A session of `net` with labels."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return Session(described(graph(path), labels='["ant", "bee", "cat", "dog"]'), provider="cpu", threads=1)
