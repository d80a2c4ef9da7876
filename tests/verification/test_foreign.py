"""Models made by others: their own pixels are measured right when stated, and never measured wrong in silence."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from rnas_zoo import data
from rnas_zoo import verify as full_verify
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import FlaggedError
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.verification import flags
from rnas_zoo.verification.run import Report

FITTED, MEASURED, ATTACKED = 300, 64, 16
verify = partial(full_verify, data_name="digits", protocol="quick", threat=Threat("linf", "2/255"), device="cpu")

LOADER = """
import pathlib
import timm, torch
from torch import nn

class Bytes(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x / 255)

def load():
    network = timm.create_model("resnet18", num_classes=10)
    network.load_state_dict(torch.load(pathlib.Path(__file__).with_name("resnet18.pt"), weights_only=True))
    return network.eval()

def bytes():
    return Bytes(load())
"""


class Bytes(nn.Module):
    """The network behind pixels of 0 to 255, as many are exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x / 255)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """timm's resnet18 with random features; its last layer is the ridge regression of digits' classes on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet18", num_classes=10, zero_init_last=False).eval()
    train = data.load("digits").train
    x, target = data.to_pixels(train.images[:FITTED]), np.eye(10)[train.labels[:FITTED]]
    with torch.no_grad():
        features = network.forward_head(network.forward_features(x), pre_logits=True).double()
        centre, size = features.mean(0), features.std(0) + 1e-6
        scaled = (features - centre) / size
        found = torch.linalg.solve(
            scaled.T @ scaled + 100 * torch.eye(512), scaled.T @ torch.from_numpy(10 * (target - 0.1))
        )
        network.fc.weight.copy_((found / size[:, None]).T)
        network.fc.bias.copy_(-(centre / size) @ found)
    return network


@pytest.fixture(scope="module")
def truth(resnet) -> np.ndarray:
    """Whether the network is right about each of the images measured, asked without this package's verification."""
    test = data.load("digits").test
    with torch.no_grad():
        predicted = resnet(data.to_pixels(test.images[:MEASURED])).argmax(1).numpy()
    right = predicted == test.labels[:MEASURED]
    assert right.mean() > 0.6
    return right


@pytest.fixture(scope="module")
def inside(resnet, truth) -> Report:
    """The network in memory, verified."""
    return verify(resnet, n=ATTACKED)


@pytest.fixture(scope="module")
def file(resnet, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    torch.save(resnet.state_dict(), folder / "resnet18.pt")
    (folder / "models.py").write_text(LOADER)
    return folder / "models.py"


@pytest.fixture(scope="module")
def onnx_file(resnet, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "bytes.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Bytes(resnet).eval(), (torch.rand(2, 3, 32, 32),), str(path), dynamo=True, external_data=False,
            verbose=False, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        )  # fmt: skip
    return path


def same_verdicts(report: Report, expected: Report) -> None:
    for key in ("position", "pixels_sha256", "clean_correct"):
        np.testing.assert_array_equal(report.verdicts[key], expected.verdicts[key])
    np.testing.assert_allclose(report.verdicts["clean_margin"], expected.verdicts["clean_margin"], atol=1e-3)
    differ = (report.verdicts["broken_by"] != "") != (expected.verdicts["broken_by"] != "")
    assert differ.sum() <= 1, "a margin near zero may fall either way"


def test_in_memory_it_has_its_accuracy_and_no_flags(inside, truth):
    np.testing.assert_array_equal(inside.verdicts["clean_correct"], truth[:ATTACKED])
    assert inside.run["flags"] == []
    assert inside.run["preprocessing"] is None
    assert inside.robust_accuracy < inside.clean_accuracy


def test_from_a_python_file_it_is_the_same_model(file, inside):
    report = verify(f"{file}:load", n=ATTACKED)
    same_verdicts(report, inside)
    assert report.run["flags"] == []
    assert report.run["subject"]["sha256"] == inside.run["subject"]["sha256"]


def test_from_an_onnx_file_for_0_to_255_it_is_the_same_model(onnx_file, inside):
    report = verify(onnx_file, n=ATTACKED, preprocessing=Preprocessing(range=255))
    same_verdicts(report, inside)
    assert report.run["flags"] == []
    assert report.run["subject"]["kind"] == "onnx"
    assert report.run["preprocessing"]["range"] == 255
    assert report.run["eps"] == "2/255", "eps stays in pixels of [0, 1]"
    found = np.abs(report.x_adv - data.to_pixels(data.load("digits").test.images[:ATTACKED]).numpy()).max()
    assert 1.9 / 255 < found <= 2 / 255 + 1e-6


@pytest.mark.parametrize("form", ["onnx", "python"])
def test_with_the_stated_range_its_clean_accuracy_is_right(file, onnx_file, truth, form):
    ref = onnx_file if form == "onnx" else f"{file}:bytes"
    report = verify(ref, n=MEASURED, threat=Threat("linf", 0), preprocessing=Preprocessing(range=255))
    np.testing.assert_array_equal(report.verdicts["clean_correct"], truth)
    assert report.clean_accuracy == report.robust_accuracy == truth.mean()


@pytest.mark.parametrize("form", ["onnx", "python"])
@pytest.mark.parametrize("stated", [None, Preprocessing(range=1)], ids=["absent", "wrong"])
def test_without_the_range_it_ends_in_a_flag_and_no_number(file, onnx_file, form, stated):
    ref = onnx_file if form == "onnx" else f"{file}:bytes"
    with pytest.raises(FlaggedError, match=r"^(preprocessing|constant): clean accuracy is .*--range") as error:
        verify(ref, n=MEASURED, preprocessing=stated)
    assert flags.explain(str(error.value))


def test_a_wrong_mean_ends_in_a_flag_and_no_number(file):
    wrong = Preprocessing(mean=(0.9, 0.9, 0.9), std=(0.01, 0.01, 0.01))
    with pytest.raises(FlaggedError, match=r"^(preprocessing|constant): "):
        verify(f"{file}:load", n=MEASURED, preprocessing=wrong)


def test_a_declared_accuracy_tells_a_wrong_range_on_few_images(file):
    with pytest.raises(FlaggedError, match=r"^preprocessing: .*its card states 90\.0%"):
        verify(f"{file}:bytes", n=ATTACKED, declared=0.9)
