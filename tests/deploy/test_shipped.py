"""What a file keeps of its model's accuracy, beside numbers that can be worked out, and how its time is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnas_zoo.attacks import Threat
from rnas_zoo.deploy import onnx_export, shipped
from rnas_zoo.deploy.form import Form
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.deploy.shipped import MAX_LOSS, kept_accuracy, latency, lost, within_budget
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.verification.run import verify

from ..graphs import graph, uint8_nhwc

SCALE = 20.0
BIASES = {"model": (0.0, 0.0, 0.0), "file": (2.3, 0.0, -0.1)}  # the file is another function, so that both can be told
N, EPS = 21, 13 / 255


def mean_colours(bias: tuple[float, ...]) -> nn.Module:
    """Mean red, green and blue of an image of 16x16 as the logits of three classes."""
    head = nn.Linear(3, 3)
    head.weight.data, head.bias.data = SCALE * torch.eye(3), torch.tensor(bias)
    found = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    found.pretrained_cfg = {"input_size": (3, 16, 16)}
    return found


def worked_out(data: Path, bias: tuple[float, ...], eps: float) -> tuple[float, float]:
    """Clean and robust accuracy: the worst image takes eps from one colour and gives it to another, pixel by pixel."""
    arrays = np.load(data)
    x, y = arrays["x_test"][:N] / 255, arrays["y_test"][:N]

    def logit(pixels: np.ndarray, colour: int) -> np.ndarray:
        return SCALE * pixels[..., colour].mean((1, 2)) + bias[colour]

    def standing(by: float) -> float:
        less, more = np.clip(x - by, 0, 1), np.clip(x + by, 0, 1)
        own = np.stack([logit(less, colour) for colour in range(3)])[y, np.arange(N)]
        rivals = np.stack([np.where(y == colour, -np.inf, logit(more, colour)) for colour in range(3)])
        return float((own > rivals.max(0)).mean())

    return standing(0), standing(eps)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "file.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "EXPORTERS", ("torchscript",))  # the faster one
        onnx_export.export(mean_colours(BIASES["file"]), path)
    return path


def test_both_accuracies_are_those_of_the_worst_images(file, small_data):
    model, threat = mean_colours(BIASES["model"]), Threat("linf", EPS)
    found = kept_accuracy(model, file, str(small_data), threat=threat, n=N)
    assert found.keys() == {"dataset", "n", "threat", "protocol", "model", "file"}
    assert (found["n"], found["threat"], found["protocol"]) == (N, "L∞ 13/255", "quick")
    wanted = {name: worked_out(small_data, bias, EPS) for name, bias in BIASES.items()}
    assert len({*wanted["model"], *wanted["file"]}) == 4, "four numbers that cannot be mistaken for each other"
    for name, (clean, robust) in wanted.items():
        assert (found[name]["clean"], found[name]["robust"]) == (clean, robust)
        assert found[name]["interval"] == list(clopper_pearson(round(robust * N), N))


def test_the_numbers_are_verify_s_own(file, small_data):
    model = mean_colours(BIASES["model"])
    asked = {"threat": Threat("l2", 0.4), "protocol": "quick", "n": 9, "seed": 3}
    found = kept_accuracy(model, file, str(small_data), **asked)
    for name, subject in (("model", model), ("file", file)):
        run = verify(subject, data_name=str(small_data), device="cpu", **asked).run
        assert found[name] == {
            "clean": run["clean_accuracy"],
            "robust": run["robust_accuracy"],
            "interval": run["interval"],
        }
    assert found["dataset"] == run["dataset"]["name"]


def test_accuracy_lost():
    before, after = {"clean": 0.9, "robust": 0.5, "interval": [0.4, 0.6]}, {"clean": 0.85, "robust": 0.52}
    assert lost(before, after) == pytest.approx({"clean": 0.05, "robust": -0.02})


@pytest.mark.parametrize(
    ("clean", "robust", "fine"),
    [
        ((0.905, 0.9), (0.5, 0.5), True),
        ((0.9, 0.9), (0.51, 0.5), True),
        ((0.705, 0.7), (0.31, 0.3), True),
        ((0.8, 0.9), (0.4, 0.5), True),
        ((0.9051, 0.9), (0.5, 0.5), False),
        ((0.9, 0.9), (0.5101, 0.5), False),
        ((0.9, 0.95), (0.52, 0.5), False),
    ],
)
def test_half_a_point_clean_and_one_point_robust_may_be_lost(clean, robust, fine):
    before, after = ({"clean": clean[i], "robust": robust[i]} for i in range(2))
    assert within_budget(lost(before, after)) is fine


@pytest.mark.parametrize("n", [200, 256, 1000, 10_000])
def test_exactly_the_budget_passes_whatever_the_number_of_images(n):
    for right in range(0, n, 7):
        for name, allowed in (("clean", 0.005), ("robust", 0.01)):
            most = int(allowed * n + 1e-6)
            if right < most + 1:
                continue
            same = dict.fromkeys(MAX_LOSS, right / n)
            assert within_budget(lost(same, {**same, name: (right - most) / n}))
            assert not within_budget(lost(same, {**same, name: (right - most - 1) / n}))


@pytest.mark.parametrize(("write", "form"), [(graph, Form()), (uint8_nhwc, Form("uint8-nhwc"))], ids=["float", "uint8"])
def test_every_file_is_timed_at_both_batch_sizes(write, form, tmp_path, monkeypatch):
    asked = []

    class Recorded(Session):
        def logits(self, images, batch_size=256):
            asked.append((images.shape, images.dtype))
            return super().logits(images, batch_size)

    monkeypatch.setattr(shipped, "Session", Recorded)
    payload = write(tmp_path / "model.onnx").read_bytes()
    found = latency({"float32": payload, "int8": payload}, form, (8, 8), seconds=0.01, repeats=5)
    assert found.keys() == {"float32", "int8", "threads"}
    assert found["threads"] == torch.get_num_threads()
    for name in ("float32", "int8"):
        assert found[name].keys() == {"1", "32"}
        for times in found[name].values():
            assert 0 < times["p50"] <= times["p95"]
            assert 1 <= times["samples"] <= 5
    shape, kind = ((8, 8, 3), np.uint8) if form.grid else ((3, 8, 8), np.float32)
    assert set(asked) == {((batch, *shape), np.dtype(kind)) for batch in (1, 32)}


def test_times_belong_to_their_file_and_batch_size(tmp_path, monkeypatch):
    def measure(calls, settings):
        assert (settings.seconds, settings.repeats) == (0.5, 7)
        return [[len(calls) + i, len(calls) + i + 1.0] for i in range(len(calls))]

    monkeypatch.setattr(shipped, "measure", measure)
    payload = graph(tmp_path / "model.onnx").read_bytes()
    found = latency({"a": payload, "b": payload}, Form(), (8, 8), seconds=0.5, repeats=7)
    medians = [found[name][batch]["p50"] for name in ("a", "b") for batch in ("1", "32")]
    assert medians == [4.5, 5.5, 6.5, 7.5]
