"""Graphs of torch networks: the same logits at every batch size, and nothing of the machine that made them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnas_zoo import __version__
from rnas_zoo.deploy import graph
from rnas_zoo.deploy.graph import scorer, to_onnx
from rnas_zoo.deploy.runtime import Session

from ..graphs import net


class Branches(nn.Module):
    """A residual network with batch norm, a functional pooling and a shape-dependent flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.inner, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        z = nn.functional.avg_pool2d(torch.relu(self.inner(z)) + z, 2)
        return self.head(z.flatten(1))


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if bool(x.sum() > 0) else -x.mean((2, 3))


class Foreign(nn.Module):
    """An operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x).amax(2)


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


@pytest.fixture(scope="module")
def branches() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        found = Branches()
        nn.init.normal_(found.stem[1].running_mean)
        nn.init.uniform_(found.stem[1].running_var, 0.5, 2)
    return found.eval()


@pytest.fixture(scope="module")
def proto(branches):
    return to_onnx(branches, images(2))


@pytest.fixture(scope="module")
def scores(branches):
    return scorer(branches, images(16))


@pytest.mark.parametrize("n", [1, 2, 5, 16, 37])
def test_scores_are_the_network_s_logits_at_every_batch_size(branches, scores, n):
    x = images(n)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.clone().requires_grad_(True)):
        found = scores(given)
        assert found.shape == (n, 5)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(found, branches(x), rtol=0, atol=1e-4)


def test_scores_of_another_network_do_not_mix(scores):
    other = scorer(net(), images(16))
    assert other is not None
    torch.testing.assert_close(other(images(3)), net()(images(3)), rtol=0, atol=1e-4)
    assert scores(images(3)).shape == (3, 5)


@pytest.mark.parametrize("module", [Decides(), Foreign()], ids=["control flow", "operator"])
def test_what_cannot_be_exported_has_no_scorer(module):
    assert scorer(module.eval(), images(16)) is None


@pytest.mark.parametrize("answer", [np.nan, np.inf, 1.001], ids=["not a number", "infinite", "off by a thousandth"])
def test_a_session_that_answers_otherwise_is_not_used(monkeypatch, answer):
    class Other(Session):
        def logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
            return super().logits(images, batch_size) * np.float32(answer)

    network = net()
    made = to_onnx(network, images(2))
    monkeypatch.setattr(graph, "to_onnx", lambda *given: made)
    assert scorer(network, images(16)) is not None
    monkeypatch.setattr(graph, "Session", Other)
    assert scorer(network, images(16)) is None


def test_a_session_of_another_shape_is_not_used(monkeypatch, proto):
    monkeypatch.setattr(graph, "to_onnx", lambda *given: proto)
    assert scorer(net(), images(16)) is None, "five classes instead of four"


def test_the_network_is_left_as_it_was(branches, proto):
    assert not branches.training
    assert all(p.requires_grad and p.grad is None for p in branches.parameters())
    assert logging.root.manager.disable == 0


def test_the_log_level_survives_a_failed_export():
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        assert scorer(Foreign(), images(4)) is None
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(before)


def test_a_graph_has_one_image_input_a_symbolic_batch_and_named_logits(proto):
    (given,), (found,) = proto.graph.input, proto.graph.output
    assert (given.name, found.name) == ("image", "logits")
    batch, *rest = given.type.tensor_type.shape.dim
    assert batch.dim_param
    assert not batch.HasField("dim_value")
    assert [size.dim_value for size in rest] == [3, 8, 8]
    first, classes = found.type.tensor_type.shape.dim
    assert first.dim_param == batch.dim_param
    assert classes.dim_value == 5
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [graph.OPSET]
    assert (proto.producer_name, proto.producer_version) == ("rnas-zoo", __version__)


def test_a_graph_tells_nothing_of_where_it_was_made(proto):
    assert proto.doc_string == ""
    assert not proto.metadata_props
    for part in (proto.graph, *proto.functions):
        values = [item for kind in ("input", "output", "value_info") for item in getattr(part, kind)]
        for item in (part, *values, *part.node):
            assert not getattr(item, "doc_string", "")
            assert not len(getattr(item, "metadata_props", ()))
    content = proto.SerializeToString()
    for text in (str(Path(__file__).parent), Path(__file__).name, str(Path.home()), "Branches", "forward", "Traceback"):
        assert text.encode() not in content, text


def test_the_same_network_gives_the_same_bytes(branches, proto):
    assert to_onnx(branches, images(2)).SerializeToString() == proto.SerializeToString()
