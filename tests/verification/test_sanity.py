"""Sanity flags: models planted to fool attacks are flagged or refused, honest ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnas_zoo.attacks import Threat

from . import planted
from .planted import CLASSES, EPS, Around, Linear, broken, codes, exactly_robust, robust, verify

images = planted.images  # fixture


# --- honest models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", [Threat("linf", EPS), Threat("l2", 0.2), Threat("linf", 0.0)], ids=str)
@pytest.mark.parametrize("protocol", ["quick", "fast"])
def test_an_honest_linear_model_has_no_flags(images, threat, protocol):
    assert codes(verify(Linear(), *images, threat=threat, protocol=protocol)) == []


def test_honest_convolutional_networks_have_no_flags(small_net, small_batch):
    x, y = small_batch
    assert codes(verify(small_net.float(), x.float(), y, threat=Threat("linf", 0.03))) == []


@pytest.mark.parametrize("seed", range(3))
def test_honest_trained_networks_have_no_flags(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(256, 3, 8, 8, generator=generator)
    y = (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).long() + 2 * (x[:, 2, :4].mean((1, 2)) > 0.5).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(72, 4),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    report = verify(net.eval(), x[:64], y[:64], threat=Threat("linf", 0.02))
    assert report.clean_accuracy > 0.8
    assert report.robust_accuracy < report.clean_accuracy
    assert codes(report) == []


# --- masked gradients -------------------------------------------------------------------------------------------------


def one_hot(logits: Tensor) -> Tensor:
    return nn.functional.one_hot(logits.argmax(1), CLASSES).float() + 0 * logits


MASKED = {
    "one-hot": Around(after=one_hot),
    "sign": Around(after=lambda logits: 3 * (logits - logits.amax(1, keepdim=True)).sign()),
    "quantised": Around(before=lambda x: (x * 8).round() / 8),
    "detached": Around(after=lambda logits: logits.detach() + 0 * logits),
}


@pytest.mark.parametrize("name", MASKED)
def test_models_without_gradients_are_flagged(images, name):
    report = verify(MASKED[name], *images, threat=Threat("linf", EPS))
    found = codes(report)
    assert {"zero-gradients", "unbounded-eps"} <= set(found)
    (text,) = [text for text in report.run["flags"] if text.startswith("zero-gradients")]
    if name != "sign":
        count = min(32, int(report.verdicts["clean_correct"].sum()))
        assert f"on {count} of {count} images" in text
    if name in ("one-hot", "sign"):
        assert "loss-not-rising" in found
    if name != "quantised":
        assert report.robust_accuracy > exactly_robust(*images, EPS).mean() + 0.1, "the flags are deserved"


def test_the_flag_counts_the_images_without_a_gradient(images):
    def dark_half(x: Tensor) -> Tensor:
        bright = (x.mean((1, 2, 3)) > 0.5).float()[:, None, None, None]
        return bright * x + (1 - bright) * x.detach()

    x, y = images
    report = verify(Around(before=dark_half), x, y, threat=Threat("linf", EPS))
    right = report.verdicts["clean_correct"]
    seen = np.flatnonzero(right)[:32]
    dark = int((x[seen].mean((1, 2, 3)) <= 0.5).sum())
    assert 3 < dark < 30
    (text,) = [text for text in report.run["flags"] if text.startswith("zero-gradients")]
    assert f"zero on {dark} of 32 images" in text


class Backwards(torch.autograd.Function):
    """The identity with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


def backwards(x: Tensor) -> Tensor:
    return Backwards.apply(x) if bool(x.sum() > -1) else x  # a branch, so that no trace loses the gradient's own rule


def test_gradients_that_point_the_wrong_way_lose_against_noise(images):
    threat = Threat("linf", 0.1)
    report = verify(Around(before=backwards), *images, threat=threat)
    assert {"black-box-wins", "loss-not-rising", "unbounded-eps"} <= set(codes(report))
    by_noise = int((report.verdicts["broken_by"] == "noise").sum())
    assert by_noise >= 2
    honest = verify(Linear(), *images, threat=threat)
    assert honest.run["attacks"]["noise"] == report.run["attacks"]["noise"]
    assert codes(honest) == [], "noise broke as many of the honest model, but PGD broke them too"


# --- how outputs are read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["quick", "fast"])
@pytest.mark.parametrize("scale", [1e4, 1e6, 1e-5])
def test_the_scale_of_logits_changes_no_verdict(images, scale, protocol):
    threat = Threat("linf", EPS)
    report = verify(Around(after=lambda logits: scale * logits), *images, threat=threat, protocol=protocol)
    assert codes(report) == ["logit-scale"]
    np.testing.assert_array_equal(robust(report), exactly_robust(*images, EPS))
    plain = verify(Linear(), *images, threat=threat, protocol=protocol)
    np.testing.assert_array_equal(broken(report), broken(plain))
    unmoved = ~plain.verdicts["clean_correct"]
    np.testing.assert_allclose(report.verdicts["margin"][unmoved], scale * plain.verdicts["margin"][unmoved], rtol=1e-3)


def test_unread_a_large_scale_fools_attacks(images):
    loud = Around(after=lambda logits: 1e4 * logits)
    report = verify(loud, *images, threat=Threat("linf", EPS), checks=False)
    assert report.robust_accuracy > exactly_robust(*images, EPS).mean() + 0.1


@pytest.mark.parametrize("sharpness", [1, 5])
def test_softmax_outputs_are_read_as_logarithms(images, sharpness):
    model = Around(after=lambda logits: (sharpness * logits).softmax(1))
    report = verify(model, *images, threat=Threat("linf", EPS))
    assert codes(report) == ["probabilities"]
    exact = exactly_robust(*images, EPS)
    assert 0.1 < exact.mean() < 0.7
    np.testing.assert_array_equal(robust(report), exact)
    assert ((report.verdicts["margin"] >= -1) & (report.verdicts["margin"] <= 1)).all(), "verdicts are the model's own"


def test_softmax_outputs_that_rounded_to_one_have_lost_their_gradient(images):
    model = Around(after=lambda logits: (40 * logits).softmax(1))
    found = codes(verify(model, *images, threat=Threat("linf", EPS)))
    assert {"probabilities", "zero-gradients", "unbounded-eps"} <= set(found)


# --- chance and neighbours --------------------------------------------------------------------------------------------


def test_a_randomised_forward_is_flagged(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = Around(after=lambda logits: logits + 0.01 * torch.randn_like(logits))
        report = verify(noisy, *images, threat=Threat("linf", EPS))
    assert "random-forward" in codes(report)
    assert "batch-dependent" not in codes(report), "neighbours cannot be told from chance"


class Fickle(Linear):
    """Each time it is asked, half of the images get another answer."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if bool(x.sum() < -1):  # a branch, so that no trace freezes one draw
            return logits
        moved = torch.from_numpy(self.chance.random(len(x)) < 0.5)
        return torch.where(moved[:, None], logits.roll(1, 1), logits)


@pytest.mark.parametrize("checks", [True, False])
def test_verdicts_that_cannot_be_repeated_are_flagged(images, checks):
    report = verify(Fickle(), *images, threat=Threat("linf", EPS), checks=checks)
    assert "not-repeatable" in codes(report)
    assert ("random-forward" in codes(report)) == checks


def test_statistics_of_the_batch_are_flagged_and_running_ones_are_not(images):
    for tracked in (False, True):
        norm = nn.BatchNorm2d(3, track_running_stats=tracked)
        report = verify(nn.Sequential(norm, Linear()).eval(), *images, threat=Threat("linf", EPS))
        assert ("batch-dependent" in codes(report)) == (not tracked)
