"""ONNX files of others as subjects: what they expect is given or read from the file, never guessed."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto

from rnas_zoo import subject_onnx
from rnas_zoo.errors import OnnxFileError, UsageError
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.reference import as_logits, load, subject, twin_error

from .graphs import CHANNELS_FIRST, TO_FLOAT, UNIT, graph, net, pixels, slope, uint8_nhwc

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def manual(x: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (how.mean, how.std))
    return (x * how.range - mean) / std


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [IMAGENET, Preprocessing((120.0, 110.0, 100.0), (60.0, 58.0, 255.0), range=255)])
def test_session_and_twin_get_the_same_input(tmp_path, how):
    path, x = graph(tmp_path / "f.onnx"), torch.rand(5, 3, 8, 8)
    chosen = subject(path, preprocessing=how)
    wanted = net()(manual(x, how))
    for logits in (chosen.judge(x), chosen.network(x), load(path, preprocessing=how)(x)):
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    assert twin_error(chosen, x) < 1e-5
    assert json.loads(json.dumps(chosen.preprocessing)) == how.to_json()
    assert (chosen.image_size, chosen.grid, chosen.score_only) == ((8, 8), False, None)


def test_channels_last_are_taken_only_if_said_so(tmp_path):
    path, x = graph(tmp_path / "last.onnx", CHANNELS_FIRST, shape=("n", 8, 8, 3)), torch.rand(5, 3, 8, 8)
    with pytest.raises(OnnxFileError, match="give the layout nhwc, and if it expects other numbers"):
        subject(path)
    for how in (Preprocessing(layout="nhwc"), Preprocessing(range=255)):
        chosen = subject(path, preprocessing=how)
        assert chosen.preprocessing["layout"] == "nhwc"
        assert chosen.image_size == (8, 8)
        for logits in (chosen.judge(x), chosen.network(x)):
            torch.testing.assert_close(logits, net()(x * how.range), rtol=1e-5, atol=1e-4)
    with pytest.raises(OnnxFileError, match=r"takes \['n', 8, 8, 3\]; expected images \(N, 3, H, W\)"):
        subject(path, preprocessing=Preprocessing(layout="nchw"))


def test_an_input_size_resizes_inside_and_must_be_the_graph_s(tmp_path):
    path, x = graph(tmp_path / "f.onnx"), torch.rand(3, 3, 12, 10)
    chosen = subject(path, preprocessing=Preprocessing(input_size=(8, 8)))
    wanted = net()(torch.nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True))
    torch.testing.assert_close(chosen.judge(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chosen.network(x), wanted, rtol=1e-5, atol=1e-5)
    assert slope(chosen.network, x).shape == x.shape
    assert chosen.image_size is None
    with pytest.raises(UsageError, match="takes images of 8x8, but input_size says 16x16"):
        subject(path, preprocessing=Preprocessing(input_size=(16, 16)))


def test_a_graph_that_takes_pixels_has_no_preprocessing(tmp_path):
    chosen = subject(graph(tmp_path / "f.onnx"))
    assert (chosen.preprocessing, chosen.grid, chosen.score_only) == (None, False, None)
    assert (chosen.kind, chosen.unrounded) == ("onnx", None)


@pytest.mark.parametrize("size", [("n", 1, 8, 8), ("n", 8, 8, 4)])
def test_a_graph_of_other_channels_is_refused(tmp_path, size):
    path = graph(tmp_path / "f.onnx", ("Identity", {}), kind=TensorProto.FLOAT, shape=size)
    with pytest.raises(OnnxFileError, match=r"is not a usable ONNX model|expected images \(N, 3, H, W\)"):
        subject(path)


# --- 8-bit pixels -----------------------------------------------------------------------------------------------------


def uint8_nchw(path, **options):
    return graph(path, TO_FLOAT, UNIT, kind=TensorProto.UINT8, **options)


@pytest.mark.parametrize("make", [uint8_nhwc, uint8_nchw])
def test_a_graph_of_8_bit_pixels_is_the_float_network_on_the_grid(tmp_path, make):
    chosen, x = subject(make(tmp_path / "u8.onnx")), pixels()
    assert chosen.grid
    assert chosen.preprocessing["range"] == 255
    assert chosen.preprocessing["layout"] == ("nhwc" if make is uint8_nhwc else "nchw")
    assert (chosen.image_size, chosen.num_classes) == ((8, 8), 4)
    for logits in (chosen.judge(x), chosen.network(x), load(tmp_path / "u8.onnx")(x)):
        torch.testing.assert_close(logits, net()(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(as_logits(chosen, x.numpy()), chosen.judge(x).numpy())
    torch.testing.assert_close(slope(chosen.network, x), slope(net(), x), rtol=1e-4, atol=1e-6)
    shifted = x + 0.4 / 255  # rounded back, by both
    assert torch.equal(chosen.judge(shifted.clamp(0, 1)), chosen.judge(x))
    assert twin_error(chosen, torch.rand(6, 3, 8, 8)) < 1e-5


@pytest.mark.parametrize("shape", [("n", "a", "b", "c"), ("n", 3, 8, 3)])
def test_a_layout_that_cannot_be_told_has_to_be_given(tmp_path, shape):
    path = uint8_nchw(tmp_path / "u8.onnx", shape=shape)
    with pytest.raises(OnnxFileError, match="the place of the channels cannot be told: give the layout nchw or nhwc"):
        subject(path)
    chosen = subject(path, preprocessing=Preprocessing(layout="nchw"), image_size=(8, 3))
    x = pixels()[..., :3]
    torch.testing.assert_close(chosen.judge(x), net()(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chosen.network(x), net()(x), rtol=1e-5, atol=1e-5)


def test_8_bit_pixels_cannot_be_normalised(tmp_path):
    path = uint8_nhwc(tmp_path / "u8.onnx")
    with pytest.raises(UsageError, match=r"as uint8.*leave out mean and std"):
        subject(path, preprocessing=IMAGENET)


# --- scores only ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [graph, uint8_nhwc])
def test_an_operator_without_a_counterpart_leaves_the_scores(tmp_path, make):
    path = make(tmp_path / "shrink.onnx", after=("Shrink",))
    chosen, x = subject(path), pixels()
    assert chosen.network is None
    assert "no differentiable twin can be built" in chosen.score_only
    assert "Shrink" in chosen.score_only
    assert "\n" not in chosen.score_only
    assert str(tmp_path) not in chosen.score_only
    logits = net()(x)
    wanted = torch.where(logits.abs() > 0.5, logits, 0)
    torch.testing.assert_close(chosen.judge(x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(as_logits(chosen, x.numpy()), wanted.numpy(), atol=1e-5)
    assert math.isnan(twin_error(chosen, x))
    with pytest.raises(OnnxFileError, match="no differentiable twin"):
        load(path)


def quantized(path, form):
    """`net` in int8, `path` being the file of `net`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([{"image": pixels(16).numpy()}])

        def get_next(self):
            return next(self.batches, None)

    out = path.with_name("q.onnx")
    quantize_static(str(path), str(out), Reader(), quant_format=QuantFormat[form])
    return out


def test_integer_kernels_leave_the_scores(tmp_path):
    chosen = subject(quantized(graph(tmp_path / "f.onnx"), "QOperator"))
    assert (chosen.kind, chosen.network, chosen.unrounded) == ("int8", None, None)
    assert "QLinearConv" in chosen.score_only or "Converter is not implemented" in chosen.score_only
    torch.testing.assert_close(chosen.judge(pixels()), net()(pixels()), atol=0.3, rtol=0)


def test_without_onnx2torch_the_scores_are_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    path = graph(tmp_path / "f.onnx")
    chosen = subject(path)
    assert chosen.network is None
    assert "pip install onnx2torch" in chosen.score_only
    with pytest.raises(OnnxFileError, match="pip install onnx2torch"):
        load(path)


class Wrong(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda x: x.mean((2, 3)), r"gives \(1, 3\) instead of \(1, 4\) logits"),
        (lambda x: torch.zeros(len(x), 4), "does not run"),
        (lambda x: x.view(2, 7), r"does not run \(RuntimeError"),
    ],
)
def test_a_twin_that_gives_no_logits_or_gradient_is_none(tmp_path, monkeypatch, answer, text):
    import re

    monkeypatch.setattr(subject_onnx, "twin", lambda path, rounding: Wrong(answer))
    chosen = subject(graph(tmp_path / "f.onnx"))
    assert chosen.network is None
    assert re.search(text, chosen.score_only)


# --- int8 -------------------------------------------------------------------------------------------------------------


def test_a_file_that_rounds_is_int8_and_has_a_second_network_that_does_not(tmp_path):
    path, x = quantized(graph(tmp_path / "f.onnx"), "QDQ"), pixels(30)
    chosen, shifted = subject(path), subject(path, preprocessing=Preprocessing((0.25, 0.5, 0.0), (0.5, 0.25, 1.0)))
    assert (chosen.kind, chosen.score_only, chosen.grid, chosen.image_size) == ("int8", None, False, (8, 8))
    step = float(chosen.judge(x).max() - chosen.judge(x).min()) / 255
    assert float((chosen.network(x) - chosen.judge(x)).abs().mean()) < 0.2 * step, "the twin rounds as the session does"
    assert step / 10 < float((chosen.unrounded(x) - chosen.judge(x)).abs().mean()) < 10 * step, "the other does not"
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(slope(chosen.unrounded, x).flatten(1), slope(net(), x).flatten(1)) > 0.98).all()
    mean, std = torch.tensor([0.25, 0.5, 0.0])[:, None, None], torch.tensor([0.5, 0.25, 1.0])[:, None, None]
    torch.testing.assert_close(shifted.unrounded(x), chosen.unrounded((x - mean) / std), rtol=1e-5, atol=1e-5)
    assert subject(graph(tmp_path / "g.onnx")).kind == subject(uint8_nhwc(tmp_path / "u.onnx")).kind == "onnx"


def test_int8_files_of_8_bit_pixels_take_the_grid_in_both_networks(tmp_path):
    import onnx

    from rnas_zoo.deploy.form import Form, dress

    path, x = quantized(graph(tmp_path / "f.onnx"), "QDQ"), pixels(10)
    model = onnx.load(path)
    dress(model, Form(input="uint8-nhwc"), (8, 8))
    onnx.save(model, tmp_path / "u8.onnx")
    chosen, plain = subject(tmp_path / "u8.onnx"), subject(path)
    assert (chosen.kind, chosen.grid) == ("int8", True)
    for name in ("network", "unrounded"):
        mine, other = getattr(chosen, name), getattr(plain, name)
        torch.testing.assert_close(mine(x), other(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope(mine, x), slope(other, x), rtol=1e-4, atol=1e-6)
        assert torch.equal(mine((x + 0.4 / 255).clamp(0, 1)), mine(x)), "pixels are still rounded"


def test_an_unreadable_file_is_of_kind_onnx_until_somebody_loads_it(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    assert subject_onnx.onnx_kind(tmp_path / "x.onnx") == subject_onnx.onnx_kind(tmp_path / "none.onnx") == "onnx"
    with pytest.raises(OnnxFileError):
        subject(tmp_path / "x.onnx")


# --- batches, threads, errors of the twin -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("make", [graph, uint8_nhwc])
def test_a_fixed_batch_size_is_filled_up(tmp_path, make, size):
    shape = (size, 8, 8, 3) if make is uint8_nhwc else (size, 3, 8, 8)
    chosen = subject(make(tmp_path / "fixed.onnx", shape=shape))
    for count in (1, 3, 7):
        x = pixels(count)
        torch.testing.assert_close(chosen.judge(x), net()(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(chosen.network(x), net()(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope(chosen.network, x), slope(net(), x), rtol=1e-4, atol=1e-6)


def test_the_session_uses_torch_s_number_of_threads(tmp_path, monkeypatch):
    made, session = [], subject_onnx.Session
    monkeypatch.setattr(
        subject_onnx,
        "Session",
        lambda path, provider, threads: made.append(threads) or session(path, provider, threads),
    )
    subject(graph(tmp_path / "f.onnx"))
    assert made == [torch.get_num_threads()]


def test_the_error_of_a_twin_is_the_largest_difference_of_finite_logits(tmp_path):
    import dataclasses

    chosen, x = subject(graph(tmp_path / "f.onnx")), pixels(3)
    shift = torch.tensor([[0.1], [-0.5], [0.2]])

    def with_judge(judge):
        return dataclasses.replace(chosen, judge=judge)

    assert twin_error(with_judge(lambda x: chosen.network(x) + shift), x) == pytest.approx(0.5, abs=1e-6)
    lost = torch.tensor([[0.0], [torch.nan], [0.0]])
    assert twin_error(with_judge(lambda x: chosen.network(x) + shift + lost), x) == pytest.approx(0.2, abs=1e-6)
    assert twin_error(with_judge(lambda x: chosen.network(x) * torch.nan), x) == 0
    assert twin_error(with_judge(chosen.network), x) == 0
    broken = dataclasses.replace(chosen, network=Wrong(lambda x: net()(x) / 0))
    assert twin_error(broken, x) == math.inf
