"""Models that get no number: no finite logits, no better than chance, not what was declared, or in training mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from rnas_zoo.attacks import Threat
from rnas_zoo.errors import DataError, FlaggedError, UsageError
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.verification import flags

from . import planted
from .planted import CLASSES, EPS, SIZE, Around, Linear, codes, exactly_robust, many, robust, verify

images = planted.images  # fixture


# --- no verdict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_without_finite_logits_are_counted_and_flagged(images, bad):
    def touchy(x: Tensor) -> Tensor:
        return torch.where((x[:, :1].mean((1, 2, 3), keepdim=True) > 0.55), bad, x)

    x, y = images
    report = verify(Around(before=touchy), x, y, threat=Threat("linf", 0.002))
    expected = (x[:, 0].mean((1, 2)) > 0.55).numpy()
    assert 2 <= expected.sum() <= 20
    assert report.verdicts["refused"][expected].all()
    assert not robust(report)[expected].any()
    assert report.run["refused"] == report.verdicts["refused"].sum() >= expected.sum()
    assert codes(report) == ["non-finite"]


def test_a_model_that_only_gives_nan_gets_no_robust_image_and_with_many_no_number(images):
    x, y = images
    broken_model = Around(after=lambda logits: logits * float("nan"))
    report = verify(broken_model, x[:20], y[:20], threat=Threat("linf", EPS))
    assert report.run["refused"] == 20
    assert report.robust_accuracy == report.clean_accuracy == 0
    assert "non-finite" in codes(report)
    for many_images in (images, many()):
        with pytest.raises(FlaggedError, match=r"^non-finite: none of 32 images"):
            verify(broken_model, *many_images)


# --- clean accuracy ---------------------------------------------------------------------------------------------------


class Bytes(nn.Module):
    """Made for pixels of 0 to 255: what is darker than 40 hardly matters to it."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.linear, self.bias = Linear(), torch.tensor([0.0, bias, 0.0])
        self.other = torch.randn(48, 3, generator=torch.Generator().manual_seed(9))

    def forward(self, x: Tensor) -> Tensor:
        noise = 1e-3 * (x - x.mean((1, 2, 3), keepdim=True)).flatten(1) @ self.other
        return self.linear(torch.relu(x - 40) / 255) + noise + self.bias


def test_a_model_for_0_to_255_at_chance_gives_no_number_until_told():
    x, y = many()
    with pytest.raises(FlaggedError, match=r"^preprocessing: clean accuracy is .*no better.*--range") as error:
        verify(Bytes(), x, y)
    assert flags.explain(str(error.value)) == flags.explain("preprocessing")
    report = verify(Bytes(), x, y, preprocessing=Preprocessing(range=255))
    assert report.clean_accuracy > 0.9
    assert report.run["preprocessing"]["range"] == 255
    assert report.robust_accuracy < report.clean_accuracy
    assert codes(report) == []


def test_chance_needs_enough_images_to_be_told():
    x, y = many(49)
    assert "preprocessing" not in codes(verify(Bytes(), x, y))


def test_a_constant_model_is_flagged_and_with_many_images_refused(images):
    constant = Around(after=lambda logits: 0 * logits + torch.tensor([0.0, 2.0, 1.0]))
    report = verify(constant, *images, threat=Threat("linf", EPS))
    assert "constant" in codes(report)
    assert (robust(report) == (images[1] == 1).numpy()).all()
    with pytest.raises(FlaggedError, match=r"^constant: clean accuracy"):
        verify(constant, *many())
    with pytest.raises(FlaggedError, match=r"^constant: clean accuracy"):
        verify(Bytes(bias=1.0), *many())


def test_one_class_for_images_of_one_class_is_no_sign(images):
    x, y = images
    own = np.flatnonzero((y == 1).numpy() & (Linear()(x).argmax(1) == 1).numpy())
    assert len(own) > 3
    assert codes(verify(Linear(), x[own], y[own], threat=Threat("linf", EPS))) == []


@pytest.mark.parametrize("right", [20, 30])
def test_a_declared_accuracy_far_above_the_measured_one_is_refused(right):
    x, y = many(40)
    y[right:] = (y[right:] + 1) % CLASSES
    high = binomtest(right, 40).proportion_ci(0.95, method="exact").high
    for declared in (right / 40 + 0.01, right / 40 - 0.3, high + 0.099):
        assert codes(verify(Linear(), x, y, declared=min(declared, 1.0))) == []
    if high + 0.101 <= 1:
        with pytest.raises(FlaggedError, match=rf"^preprocessing: clean accuracy is {right / 40:.1%}, .*states"):
            verify(Linear(), x, y, declared=high + 0.101)
    assert codes(verify(Linear(), x, y, declared=1.0, checks=False)) == []


# --- refused before anything is measured ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Dropout2d(0.5)], ids=lambda v: type(v).__name__
)
def test_layers_in_training_mode_are_refused(images, layer):
    model = nn.Sequential(layer, Linear())
    model.train()
    with pytest.raises(UsageError, match=rf"train-mode: .*{type(layer).__name__}.*model\.eval\(\)"):
        verify(model, *images)
    with pytest.raises(UsageError, match="train-mode"):
        verify(Linear(), *images, transfer_from=model)
    assert model.training
    assert layer.training
    model.eval()
    assert codes(verify(model, *images, threat=Threat("linf", EPS))) == []


def test_a_module_without_moods_may_be_in_training_mode(images):
    model = nn.Sequential(Linear(), nn.Identity()).train()
    model[1].eval()
    report = verify(model, *images, threat=Threat("linf", EPS))
    assert [module.training for module in model.modules()] == [True, True, False]
    np.testing.assert_array_equal(robust(report), exactly_robust(*images, EPS))
    assert codes(report) == []


@pytest.mark.parametrize(("scale", "shift", "text"), [(255, 0, "from 51"), (1, -1, "from -0.8"), (2, 0, "to 1.6")])
def test_images_outside_the_box_are_an_error_that_names_the_range(scale, shift, text):
    x = torch.full((4, 3, SIZE, SIZE), 0.2)
    x[0, 0] = 0.8
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]") as error:
        verify(Linear(), scale * x + shift, torch.zeros(4, dtype=torch.long))
    assert text in str(error.value)
