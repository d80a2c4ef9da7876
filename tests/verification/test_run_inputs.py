"""What a verification takes: networks, ONNX files, images and labels in several forms, or a refusal that says why."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnas_zoo
from rnas_zoo import data
from rnas_zoo.errors import DataError, OnnxFileError, UnknownNameError, UsageError

from . import small
from .small import THREATS, Linear, table, verify

conv, linear = small.conv, small.linear  # fixtures


# --- what is given ----------------------------------------------------------------------------------------------------


def test_two_lines_suffice(conv):
    module, x, y = conv
    report = rnas_zoo.verify(module, x, y)
    assert report.robust_accuracy <= report.clean_accuracy == pytest.approx(20 / 24)
    assert (report.run["norm"], report.run["eps"], report.run["protocol"]) == ("linf", "8/255", "standard")


def test_images_may_be_arrays_tensors_or_bytes(conv):
    net, x, y = conv
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    pixels = images.transpose(0, 3, 1, 2) / np.float32(255)
    expected = verify(net, pixels, y.numpy())
    for given, labels in [
        (images, y),
        (torch.from_numpy(pixels).double(), y.int()),
        (torch.from_numpy(images), y.numpy()),
    ]:
        report = verify(net, given, labels)
        assert table(report) == table(expected)
        np.testing.assert_array_equal(report.x_adv, expected.x_adv)


def test_a_data_set_is_taken_from_its_start_in_order(small_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    report = verify(model, data_name=str(small_data), n=5)
    test = data.load(small_data).test
    assert report.run["n"] == 5
    assert (report.run["dataset"]["name"], report.run["dataset"]["split"]) == ("blobs", "test")
    assert report.verdicts["pixels_sha256"].tolist() == [data.pixel_hash(image) for image in test.images[:5]]
    assert verify(model, data_name=str(small_data), n=1000).run["n"] == 24
    given = verify(model, test.images[:5], test.labels[:5])
    assert table(given) == table(report)


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 28, 28), (3, 4, 9)])
def test_a_module_for_images_of_any_size_is_verified(shape):
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    assert verify(model, x, model(x).argmax(1)).clean_accuracy == 1.0


@pytest.mark.parametrize(
    ("scale", "shift", "text"),
    [(255, 0, "from 0 to 255"), (2, -1, "from -1 to 1"), (1, 0.5, "to 1.5"), (float("nan"), 0, "nan")],
)
def test_images_outside_0_to_1_are_refused_with_their_range(scale, shift, text):
    x = torch.rand(4, 3, 5, 5)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, 1.0
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]") as error:
        verify(Linear(), x * scale + shift, torch.zeros(4, dtype=torch.long))
    assert text in str(error.value)


@pytest.mark.parametrize("label", [2, 9, -1])
def test_labels_without_a_class_are_refused_with_both_numbers(label):
    y = torch.tensor([0, 1, label])
    with pytest.raises(
        DataError, match=rf"has 2 classes, but the labels .* go from {min(label, 0)} to {max(label, 1)}"
    ):
        verify(Linear(), torch.rand(3, 3, 5, 5), y)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, 5, 5, 3), np.float32), np.zeros(4, int)),
        (np.zeros((4, 3, 5, 5), np.uint8), np.zeros(4, int)),
        (np.zeros((3, 5, 5), np.float32), np.zeros(3, int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros(3, int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros((4, 2), int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros(4)),
        (np.zeros((0, 3, 5, 5), np.float32), np.zeros(0, int)),
    ],
)
def test_images_and_labels_of_the_wrong_shape_or_type_are_refused(x, y):
    with pytest.raises(DataError, match="must be"):
        verify(Linear(), x, y)


@pytest.mark.parametrize("n", [0, -3])
def test_no_images_are_refused(linear, n):
    with pytest.raises(UsageError, match="at least one image"):
        verify(*linear, n=n)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"protocol": "quik"}, UnknownNameError, "unknown protocol 'quik'"),
        ({"batch_size": 0}, UsageError, "batch_size"),
        ({"positions": np.arange(3)}, UsageError, "one position per image"),
        ({"device": "abacus"}, UsageError, "unknown device"),
    ],
)
def test_senseless_arguments_are_refused(linear, changes, error, text):
    with pytest.raises(error, match=text):
        verify(*linear, **changes)


def test_images_are_needed(linear):
    with pytest.raises(UsageError, match="give images x and labels y"):
        verify(linear[0])


def test_protocols_that_need_somebody_else_s_images_or_model_say_so(linear):
    with pytest.raises(UsageError, match="adversarial"):
        verify(*linear, protocol="given")
    with pytest.raises(UsageError, match="transfer_from"):
        verify(*linear, protocol="transfer")
    with pytest.raises(UsageError, match="not both"):
        verify(*linear, transfer_from=linear[0], adversarial=linear[1])


@pytest.mark.parametrize("output", [lambda x: x.sum((1, 2, 3)), lambda x: (x.sum((2, 3)),), lambda x: x])
def test_a_module_that_returns_no_logits_is_refused(output):
    class Odd(nn.Module):
        def forward(self, x: Tensor):
            return output(x)

    with pytest.raises(UsageError, match=r"must return logits \(N, classes\)"):
        verify(Odd(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))


def test_progress_counts_images(conv):
    class Recorder:
        def __init__(self) -> None:
            self.started, self.done = None, 0

        def start(self, name: str, total: int, done: int = 0, *, timed: bool = True) -> None:
            self.started = total

        def advance(self, note: str = "", by: int = 1) -> None:
            self.done += by
            self.note = note

    recorder = Recorder()
    verify(*conv, batch_size=7, reporter=recorder)
    assert recorder.started == recorder.done == 24
    assert recorder.note.startswith("robust ≤ ")


# --- ONNX -------------------------------------------------------------------------------------------------------------


def export(net: nn.Module, x: Tensor, path, dynamic: bool = True) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), str(path), dynamo=True, external_data=False, verbose=False, dynamic_shapes=shapes
        )  # fmt: skip
    return str(path)


def test_an_onnx_file_gets_the_verdicts_of_the_network_it_came_from(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:2], tmp_path / "model.onnx")
    expected = verify(net, x, y, threat=THREATS[0])
    report = verify(path, x, y, threat=THREATS[0])
    assert table(report) == table(expected)
    np.testing.assert_allclose(report.verdicts["margin"], expected.verdicts["margin"], atol=1e-3)
    assert report.run["attacks"] == expected.run["attacks"]
    assert (report.run["subject"]["kind"], report.run["subject"]["file"]) == ("onnx", "model.onnx")
    assert report.run["flags"] == []
    with pytest.raises(DataError, match=r"takes images of 8x8, arrays has 6x6"):
        verify(path, torch.rand(2, 3, 6, 6), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="4 classes"):
        verify(path, x[:2], torch.tensor([0, 7]))


def test_an_onnx_file_of_fixed_batch_size_is_verified_at_that_size(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:1], tmp_path / "one.onnx", dynamic=False)
    report = verify(path, x[:6], y[:6], threat=THREATS[0], batch_size=1)
    assert table(report) == table(verify(net, x[:6], y[:6], threat=THREATS[0]))
    assert table(verify(path, x[:6], y[:6], threat=THREATS[0])) == table(report), "or at any other"


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256)) * 4])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"bad\.onnx"):
        verify(str(tmp_path / "bad.onnx"), torch.rand(1, 3, 8, 8), torch.tensor([0]))


def test_a_cut_off_or_missing_onnx_model_is_refused(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:2], tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    for kept in (0.3, 0.9):
        (tmp_path / "model.onnx").write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(OnnxFileError, match=r"model\.onnx"):
            verify(path, x, y)
    with pytest.raises(OnnxFileError, match="no such file"):
        verify(str(tmp_path / "none.onnx"), x, y)
