"""Weights kept as int8: what they are beside plain NumPy, what stays in float, and when they are multiplied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rnas_zoo.deploy.graph import to_onnx
from rnas_zoo.deploy.twin import keeps_integers, rounds_activations, twin
from rnas_zoo.deploy.weight_only import round_weights
from rnas_zoo.reference import subject
from rnas_zoo.verification.run import verify


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
            nn.Linear(8 * 6 * 6, 4),
        ).eval()  # fmt: skip


def naive(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Whole multiples, at most 127 of them, of the largest weight's 127th part, slice by slice."""
    slices = [values] if axis is None else list(np.moveaxis(values, axis, 0))
    found = []
    for part in slices:
        step = np.float32(np.abs(part).max()) / np.float32(127) or np.float32(1)
        found.append(np.array([round(float(v / step)) for v in part.ravel()], np.float32).reshape(part.shape) * step)
    return found[0] if axis is None else np.moveaxis(np.stack(found), 0, axis)


@pytest.fixture(scope="module", params=[False, True], ids=["per tensor", "per channel"])
def files(request, tmp_path_factory) -> tuple[Path, Path, bool]:
    folder = tmp_path_factory.mktemp("weights")
    model = to_onnx(net(), torch.rand(2, 3, 32, 32))
    onnx.save(model, folder / "float.onnx")
    round_weights(model, request.param)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "int8.onnx")
    return folder / "float.onnx", folder / "int8.onnx", request.param


def answers(path: Path, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x.numpy()})[0]


def rounded(per_channel: bool) -> nn.Sequential:
    network = net()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim >= 2:
                weight.copy_(torch.from_numpy(naive(weight.numpy(), 0 if per_channel else None)))
    return network


def test_the_file_computes_what_the_network_with_rounded_weights_does(files):
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, unrounded = rounded(files[2])(x).numpy(), net()(x).numpy()
    np.testing.assert_allclose(answers(files[1], x), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted - unrounded).max() > 1e-4


def test_all_weights_are_int8_and_everything_else_is_float(files):
    graph = onnx.load(files[1]).graph
    kinds = {value.name: value.data_type for value in graph.initializer}
    whole = [value for value in graph.initializer if value.data_type == TensorProto.INT8]
    parameters = [p for p in net().parameters() if p.ndim >= 2]
    assert sorted(int(np.prod(v.dims)) for v in whole) == sorted(p.numel() for p in parameters)
    assert set(kinds.values()) - {TensorProto.INT8} <= {TensorProto.FLOAT, TensorProto.INT64}
    sizes = sorted(int(np.prod(v.dims)) for v in graph.initializer if v.name.endswith("_scale"))
    assert sizes == (sorted(p.shape[0] for p in parameters) if files[2] else [1, 1, 1])
    assert not any(node.op_type.startswith(("Quantize", "Dequantize")) for node in graph.node)


def test_onnxruntime_multiplies_weights_and_scales_once(files, tmp_path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(files[1]), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    known = {value.name for value in graph.initializer}
    assert all(node.input[1] in known for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    assert all(value.data_type != TensorProto.INT8 for value in graph.initializer)


def test_its_twin_has_the_gradients_of_the_network_with_rounded_weights(files):
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    found, wanted = twin(files[1])(x), rounded(files[2])(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(each.square().sum(), x)[0] for each in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-5)


def test_it_is_an_int8_file_that_rounds_no_activations(files):
    assert [keeps_integers(path) for path in files[:2]] == [False, True]
    assert not rounds_activations(files[1])
    chosen = subject(files[1])
    assert (chosen.kind, chosen.rounds, chosen.unrounded, chosen.score_only) == ("int8", False, None, None)


def test_it_is_attacked_through_its_twin_and_by_square_on_the_session(files):
    x = np.random.default_rng(0).random((24, 3, 32, 32), np.float32)
    labels = answers(files[1], torch.from_numpy(x)).argmax(1)
    run = verify(files[1], x, labels, protocol="fast").run
    assert list(run["attacks"]) == ["apgd-ce", "halving-t", "square"]
    assert (run["subject"]["kind"], run["params"]["square"]["queries"]) == ("int8", 500)
    assert run["robust_accuracy"] < run["clean_accuracy"] == 1


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-20),
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_weight_moves_by_more_than_half_a_step_and_zero_stays_zero(weight, transposed, per_channel):
    inputs = weight.shape[1 if transposed else 0]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(transposed))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", inputs]), ("y", None))]
    graph = helper.make_graph([node], "g", value[:1], value[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    round_weights(model, per_channel)
    known = {v.name: numpy_helper.to_array(v) for v in model.graph.initializer}
    found = known["w_int8"].astype(np.float32) * known["w_scale"]
    axis = 0 if transposed else 1
    largest = np.abs(weight).max(axis=1 - axis, keepdims=True) if per_channel else np.abs(weight).max()
    assert known["w_scale"].size == (weight.shape[axis] if per_channel else 1)
    assert (np.abs(found - weight) <= largest / 254 * (1 + 1e-5)).all()
    assert (found[weight == 0] == 0).all()
