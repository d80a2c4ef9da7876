"""Sanity flags: models planted to fool attacks are flagged or refused, honest ones are not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from rnas_zoo import verify as full_verify
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import DataError, FlaggedError, UsageError
from rnas_zoo.preprocessing import Preprocessing
from rnas_zoo.verification import flags

verify = partial(full_verify, device="cpu", protocol="quick", batch_size=32)
SIZE, CLASSES, EPS = 4, 3, 0.04


class Linear(nn.Module):
    """Three classes, linear in the image; logits of ordinary size."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(3 * (weight - weight.mean(1, keepdim=True)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Around(nn.Module):
    """A planted model: the linear one with something around it."""

    def __init__(self, before=None, after=None) -> None:
        super().__init__()
        self.linear, self.before, self.after = Linear(), before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(self.before(x) if self.before else x)
        return self.after(logits) if self.after else logits


def exactly_robust(x: Tensor, y: Tensor, eps: float) -> np.ndarray:
    """Closed form: no interior image is moved across a plane nearer than eps, and no farther one."""
    with torch.no_grad():
        weight, logits = Linear().weight.double(), x.double().flatten(1) @ Linear().weight.double().T
        reach = (weight[y][:, None] - weight[None]).abs().sum(2)
        gap = logits.gather(1, y[:, None]) - logits - eps * reach
        gap[torch.arange(len(y)), y] = torch.inf
        return (gap.amin(1) > 0).numpy()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """40 images in the interior of the box and the linear model's classes, of which five are wrong."""
    x = 0.2 + 0.6 * torch.rand(40, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = Linear()(x).argmax(1)
    y[::9] = (y[::9] + 1) % CLASSES
    return x, y


def many(n: int = 60) -> tuple[Tensor, Tensor]:
    x = 0.2 + 0.6 * torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return x, Linear()(x).argmax(1)


def codes(report) -> list[str]:
    """Codes of a run's flags, each of which leads to its section and carries a detail."""
    found = []
    for text in report.run["flags"]:
        code, _, detail = text.partition(": ")
        assert code in flags.FLAGS
        assert detail.strip()
        assert flags.explain(text) == flags.explain(code) != ""
        found.append(code)
    assert len(found) == len(set(found))
    return found


def broken(report) -> np.ndarray:
    return report.verdicts["broken_by"] != ""


def robust(report) -> np.ndarray:
    return report.verdicts["clean_correct"] & ~broken(report) & ~report.verdicts["refused"]


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
