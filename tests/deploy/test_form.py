"""Every form of a file: what it takes, what it answers, and that it is the network behind its preprocessing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from rnas_zoo.deploy import onnx_export
from rnas_zoo.deploy.form import INPUTS, OUTPUTS, PRECISIONS, Form, dress, halve
from rnas_zoo.deploy.onnx_export import export
from rnas_zoo.errors import UsageError

HEIGHT, WIDTH = SIZE = (12, 10)
CHOICES = [
    Form(given, found, precision, resize)
    for given, found, precision, resize in itertools.product(INPUTS, OUTPUTS, PRECISIONS, (False, True))
    if given == "uint8-nhwc" or not resize
]
TYPES = {"float32-nchw": "tensor(float)", "uint8-nhwc": "tensor(uint8)"}


def tiny() -> nn.Module:
    """Images (N, 3, 12, 10) in [0, 1] to five logits of some size; batch norm has statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        convolution, norm, head = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Linear(8 * 6, 5)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.2, 2)
        nn.init.normal_(norm.weight)
        head.weight.data *= 6
        found = nn.Sequential(convolution, norm, nn.Hardswish(), nn.AvgPool2d(4), nn.Flatten(), head)
    found.pretrained_cfg = {"input_size": (3, *SIZE)}
    return found.eval().requires_grad_(False)


def remembered(to_onnx: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """`to_onnx` that converts the same weights only once for each opset and exporter."""
    known: dict[Any, bytes] = {}

    def once(network: nn.Module, example: torch.Tensor, opset: int, exporter: str) -> onnx.ModelProto:
        weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        key = str(network), weights, tuple(example.shape), opset, exporter
        if key not in known:
            known[key] = to_onnx(network, example, opset, exporter).SerializeToString()
        return onnx.ModelProto.FromString(known[key])

    return once


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[Form], tuple[Path, dict[str, Any]]]:
    """Path and report of `tiny` in a form."""
    folder, reports, images = tmp_path_factory.mktemp("forms"), {}, pixels(512, seed=99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "to_onnx", remembered(onnx_export.to_onnx))
        for number, form in enumerate(CHOICES):
            path = folder / f"{number}.onnx"
            reports[form] = path, export(tiny(), path, form=form, images=images)
    return reports.__getitem__


def pixels(n: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), np.uint8)


def smooth(size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) with gradients and edges, which resamplers treat differently where they differ at all."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows / 3 + columns / 5), (rows // 4 + columns // 3) % 2, np.hypot(rows, columns) / np.hypot(*size)]
    return (
        np.stack([255 * (wave - wave.min()) / max(np.ptp(wave), 1) for wave in waves], axis=-1).round().astype(np.uint8)
    )


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def expected(form: Form, images: np.ndarray) -> np.ndarray:
    """torch's answer to uint8 images (N, H, W, 3)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    if x.shape[2:] != SIZE:
        x = nn.functional.interpolate(x, SIZE, mode="bilinear", align_corners=False, antialias=True)
    logits = tiny()(x)
    return (
        torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True) if form.output == "probabilities" else logits
    ).numpy()


def given(form: Form, images: np.ndarray) -> np.ndarray:
    return images if form.input == "uint8-nhwc" else images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def allowed(form: Form) -> float:
    return {"float32": 1e-5, "float16": 1e-2}[form.precision]


@pytest.mark.parametrize("form", CHOICES, ids=str)
def test_every_form_is_torch_s_function(form, exported):
    path, report = exported(form)
    for batch in (1, 2, 7):
        images = pixels(batch, seed=batch)
        found = run(path, given(form, images))
        wanted = expected(form, images)
        assert (found.dtype, found.shape) == (np.float32, (batch, 5))
        np.testing.assert_allclose(found, wanted, atol=allowed(form) * max(1, np.abs(wanted).max()))
    assert np.abs(wanted).max() > (0.5 if form.output == "probabilities" else 2), "numbers that could not be wrong"
    assert report["same_class"] >= (512 if form.precision == "float32" else 500)
    assert (report["images"], set(report["parity"]) - {"resized"}) == (512, {"1", "2", "7", "all"})


@pytest.mark.parametrize("form", [form for form in CHOICES if form.resize], ids=str)
def test_a_graph_that_resizes_is_torch_behind_torch_s_resizing(form, exported):
    path, report = exported(form)
    assert set(report["parity"]) == {"1", "2", "7", "all", "resized"}
    for size in ((24, 31), (6, 5), (12, 20), (13, 10), (40, 7), (1, 1)):
        images = pixels(2, size)
        found, wanted = run(path, images), expected(form, images)
        np.testing.assert_allclose(found, wanted, atol=allowed(form) * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("form", CHOICES, ids=str)
def test_names_types_and_the_symbolic_batch(form, exported):
    path, report = exported(form)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type) == ("image", TYPES[form.input])
    assert (answer.name, answer.type) == (form.output, "tensor(float)")
    batch, *rest = image.shape
    assert isinstance(batch, str)
    assert answer.shape == [batch, 5]
    if form.resize:
        assert rest == ["height", "width", 3]
    else:
        assert rest == ([HEIGHT, WIDTH, 3] if form.input == "uint8-nhwc" else [3, HEIGHT, WIDTH])
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    halves = {weight.name for weight in proto.graph.initializer if weight.data_type == TensorProto.FLOAT16}
    assert bool(halves) == (form.precision == "float16")
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert (facts["output"], facts["precision"]) == (form.output, form.precision)
    assert json.loads(facts["input_size"]) == [3, HEIGHT, WIDTH]
    assert ("uint8" in facts["input"]) == (form.input == "uint8-nhwc")
    assert ("any size, scaled to 12x10" in facts["input"]) == form.resize
    told = {key: report[key] for key in ("input", "output", "precision", "resize", "opset")}
    assert told == {key: getattr(form, key) for key in told}


def test_half_precision_halves_the_file(exported):
    full, half = (exported(Form(precision=precision))[0].stat().st_size for precision in PRECISIONS)
    weights = 8 * 27 + 48 * 5
    assert full - half > 1.8 * weights - 600, "the weights alone"


@pytest.fixture(scope="module")
def resizer() -> onnxruntime.InferenceSession:
    """A file of the form that resizes, whose network answers with its input as it is."""
    nodes = [helper.make_node("Identity", ["image"], ["logits"])]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, *SIZE]) for name in ("image", "logits")
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "nothing", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    dress(proto, Form("uint8-nhwc", resize=True, opset=18), SIZE)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [(24, 31), (6, 5), (12, 20), (120, 100), (13, 10), (5, 40), (12, 10), (3, 2)])
def test_resizing_is_pillow_s_within_one_grey_level(size, resizer):
    for image in (smooth(size), pixels(1, size)[0]):
        (found,) = resizer.run(None, {"image": image[None]})[0]
        wanted = np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        assert np.abs(found.transpose(1, 2, 0) * 255 - wanted).max() <= 1
    if size == SIZE:
        np.testing.assert_array_equal(found, image.transpose(2, 0, 1) / np.float32(255))


def test_a_branch_that_takes_the_image_from_outside_gets_it_as_float():
    def branch(name: str, operator: str) -> onnx.GraphProto:
        found = helper.make_tensor_value_info(f"{name} found", TensorProto.FLOAT, ["batch", 3, 2, 2])
        return helper.make_graph([helper.make_node(operator, ["image"], [f"{name} found"])], name, [], [found])

    nodes = [
        helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["bright"]),
        helper.make_node(
            "If", ["bright"], ["picked"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Sqrt")
        ),
        helper.make_node("Flatten", ["picked"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 12])
    limit = helper.make_tensor("limit", TensorProto.FLOAT, [], [6])
    graph = helper.make_graph(nodes, "net", [image], [logits], [limit])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    dress(proto, Form("uint8-nhwc"), (2, 2))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for level, function in ((255, np.negative), (51, np.sqrt)):
        images = np.full((1, 2, 2, 3), level, np.uint8)
        np.testing.assert_allclose(
            session.run(None, {"image": images})[0], function(np.full((1, 12), level / 255)), rtol=1e-6
        )


def test_halving_keeps_what_a_graph_takes_and_gives(exported):
    half = halve(onnx.load(exported(Form())[0]))
    onnx.checker.check_model(half, full_check=True)
    kinds = [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)]
    assert kinds == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert [value.name for value in (*half.graph.input, *half.graph.output)] == ["image", "logits"]
    kinds = [weight.data_type for weight in half.graph.initializer]
    assert (kinds.count(TensorProto.FLOAT16), kinds.count(TensorProto.FLOAT)) == (4, 0), "two weights, two biases"


INVALID = [
    ({"input": "uint8-nchw"}, r"input .* is float32-nchw or uint8-nhwc, got 'uint8-nchw'"),
    ({"output": "classes"}, r"output .* is logits or probabilities, got 'classes'"),
    ({"precision": "int8"}, r"precision .* is float32 or float16, got 'int8'"),
    ({"opset": 16}, r"opset is 17 to 23, got 16"),
    ({"opset": 24}, r"opset is 17 to 23, got 24"),
    ({"resize": True}, r"resizes takes uint8 pixels: choose the input uint8-nhwc"),
    ({"resize": True, "output": "probabilities", "precision": "float16"}, r"choose the input uint8-nhwc"),
    ({"resize": True, "input": "uint8-nhwc", "opset": 17}, r"resizing in the graph needs opset 18 or newer, got 17"),
]


@pytest.mark.parametrize(("choices", "message"), INVALID, ids=[" ".join(map(str, choices)) for choices, _ in INVALID])
def test_choices_that_exclude_each_other_say_what_to_choose(choices, message):
    with pytest.raises(UsageError, match=message):
        Form(**choices)


@pytest.mark.parametrize("opset", range(17, 24))
def test_every_opset_goes_with_every_form_but_resizing_at_17(opset):
    for form in CHOICES:
        if form.resize and opset == 17:
            with pytest.raises(UsageError):
                replace(form, opset=opset)
        else:
            assert replace(form, opset=opset).opset == opset


def test_images_as_a_form_takes_them():
    images = pixels(3)
    plain = Form().images(images)
    assert (plain.dtype, plain.shape, plain.flags.c_contiguous) == (np.float32, (3, 3, HEIGHT, WIDTH), True)
    for n, y, x, channel in itertools.product(range(3), (0, 7, 11), (0, 9), range(3)):
        assert plain[n, channel, y, x] == np.float32(images[n, y, x, channel]) / np.float32(255)
    assert (Form().images(np.full((1, *SIZE, 3), 255, np.uint8)) == 1).all()
    assert Form("uint8-nhwc").images(images) is images
    assert (Form().grid, Form("uint8-nhwc").grid) == (False, True)
