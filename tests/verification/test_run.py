"""Verification: exact where the truth is known, and the same verdict for an image wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnas_zoo
from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.reference import subject
from rnas_zoo.verification import evidence, protocols

from . import small
from .small import THREATS, Linear, each_threat, robust, table, verify

conv, linear = small.conv, small.linear  # fixtures


# --- truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", [Threat("linf", 0.015), Threat("l2", 0.1)], ids=["linf", "l2"])
def test_a_linear_model_gets_its_exact_robust_accuracy(linear, threat):
    model, x, y = linear
    exact = model.robust(x, y, threat)
    assert 0.2 < exact.mean() < 0.8
    report = verify(model, x, y, threat=threat)
    clean = (model(x).argmax(1) == y).numpy()
    assert report.clean_accuracy == clean.mean() == pytest.approx(35 / 40)
    np.testing.assert_array_equal(robust(report), exact)
    assert report.robust_accuracy == exact.mean()
    for attack in ("fgsm", "pgd20"):
        assert report.accuracy_under(attack) == pytest.approx(exact.mean())
        assert report.run["attacks"][attack]["broken"] == int((clean & ~exact).sum())
    assert report.accuracy_under("noise") > exact.mean() + 0.1, "noise is a control, not an attack"
    assert report.run["interval"] == list(evidence.clopper_pearson(int(exact.sum()), 40))


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_a_constant_model_is_as_robust_as_it_is_right(answer):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), answer), 3).float() + 0 * x.sum((1, 2, 3))[:, None]

    y = np.arange(30) % 3
    report = verify(Constant(), np.random.default_rng(0).random((30, 3, 4, 4), np.float32), y)
    assert report.clean_accuracy == report.robust_accuracy == pytest.approx(1 / 3)
    np.testing.assert_array_equal(robust(report), y == answer)
    assert all(report.run["attacks"][name]["broken"] == 0 for name in report.run["attacks"])


@each_threat
def test_adversarial_images_are_what_the_record_says(conv, threat):
    net, x, y = conv
    report = verify(net, x, y, threat=threat)
    x_adv, table = torch.from_numpy(report.x_adv), report.verdicts
    assert 0 <= report.x_adv.min() <= report.x_adv.max() <= 1
    distance = (x_adv - x).flatten(1).abs().amax(1) if threat.norm == "linf" else (x_adv - x).flatten(1).norm(dim=1)
    assert float(distance.max()) <= threat.eps + 1e-6
    np.testing.assert_allclose(table["norm"], distance.numpy(), atol=1e-6)
    with torch.no_grad():
        clean, found = net(x), net(x_adv)
    np.testing.assert_array_equal(report.predictions[0], clean.argmax(1).numpy())
    np.testing.assert_array_equal(report.predictions[1], found.argmax(1).numpy())
    correct, broken = (clean.argmax(1) == y).numpy(), table["broken_by"] != ""
    np.testing.assert_array_equal(table["clean_correct"], correct)
    np.testing.assert_array_equal(broken, correct & (found.argmax(1) != y).numpy())
    assert broken.any()
    assert not broken[correct].all()
    assert (table["step"][broken] > 0).all()
    assert (table["step"][~broken] == -1).all()
    own = found.gather(1, y[:, None])[:, 0]
    others = torch.where(nn.functional.one_hot(y, 4).bool(), torch.tensor(-torch.inf), found).amax(1)
    np.testing.assert_allclose(table["margin"], (own - others).numpy(), atol=1e-4)
    assert table["position"].tolist() == list(range(24))
    for image, text in zip(x, table["pixels_sha256"], strict=True):
        assert text == data.pixel_hash(np.rint(image.numpy().transpose(1, 2, 0) * 255).astype(np.uint8))


def test_the_run_describes_itself_and_its_records_add_up(conv, tmp_path):
    net, x, y = conv
    report = verify(net, x, y, threat=THREATS[0], seed=7)
    run = report.run
    assert (run["n"], run["seed"], run["norm"], run["eps"], run["protocol"]) == (
        24,
        7,
        "linf",
        "10.2/255",
        "quick",
    ) or (run["eps"] == "0.04")
    assert Threat(run["norm"], run["eps"]) == THREATS[0]
    assert run["subject"]["kind"] == "torch"
    assert run["dataset"]["images_sha256"] == data.images_hash(list(report.verdicts["pixels_sha256"]))
    assert run["params"]["pgd20"]["steps"] == 20
    # noise looks 5 times; FGSM looks, climbs, looks; PGD-20 climbs 20 times and looks 21 times.
    passes = {name: attack["passes"] / 24 for name, attack in run["attacks"].items()}
    assert passes == {"noise": 5, "fgsm": 3, "pgd20": 41}
    assert run["passes"] == 24 * 49
    for name, attack in run["attacks"].items():
        assert attack["broken"] >= int((report.verdicts["broken_by"] == name).sum())
    evidence.append(tmp_path, run, report.verdicts)
    runs, tables = evidence.read(tmp_path)
    assert runs == [run]
    evidence.check(runs[0], tables[0])


class Fickle(nn.Module):
    """A network that looks at its values: no cheaper copy can be traced, so every question reaches it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if bool(x.sum() > -1) else self.network(-x)


def test_reported_passes_are_those_made(conv):
    net, x, y = Fickle(conv[0]), conv[1][:16], conv[2][:16]
    seen = []
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    chosen = subject(net, image_size=(8, 8))
    seen.clear()
    report = verify(chosen, x, y, batch_size=16, checks=False)
    climbs = 16 * (1 + 20)
    looks = 16 * (1 + 2 * 3)  # the clean verdict, and the judge's two looks at each attack's images
    assert sum(seen) == report.run["passes"] - climbs + looks


def test_protocols_begin_with_the_control():
    assert [stage.name for stage in protocols.PROTOCOLS["quick"]] == ["noise", "fgsm", "pgd20"]


def test_evidence_is_computed_in_full_precision():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return x.mean((2, 3)) * 20

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = images.reshape(6, -1, 3).mean(1).argmax(1)
    verify(Watched().eval(), images, labels, threat=Threat("linf", 4 / 255))
    assert set(seen) == {False}


# --- images that get no verdict ---------------------------------------------------------------------------------------


class Faulty(nn.Module):
    """The linear model, but bright images, and with `touchy` moved ones, give logits that are not numbers."""

    def __init__(self, bad: float, touchy: Tensor | None = None) -> None:
        super().__init__()
        self.linear, self.bad, self.touchy = Linear(), bad, touchy

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        if self.touchy is None:
            faulty = x.mean((1, 2, 3)) > 0.6
        else:
            nearest = (x[:, None] - self.touchy[None]).flatten(2).abs().amax(2).amin(1)
            faulty = nearest > 1e-4
        return torch.where(faulty[:, None], torch.full_like(logits, self.bad), logits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_images_without_finite_logits_are_refused_and_never_robust(linear, bad):
    _, x, y = linear
    x = x.clone()
    x[3:7] += 0.25
    y = Faulty(bad).linear(x).argmax(1)
    report = verify(Faulty(bad), x, y, threat=Threat("linf", 0.01))
    assert np.flatnonzero(report.verdicts["refused"]).tolist() == [3, 4, 5, 6]
    assert report.run["refused"] == 4
    assert report.run["n"] == 40
    assert not robust(report)[3:7].any()
    assert report.robust_accuracy == robust(report).mean() == Faulty(bad).linear.robust(x, y, Threat("linf", 0.01))[
        [i for i in range(40) if not 3 <= i < 7]
    ].sum() / 40  # fmt: skip
    assert "4 images gave logits that are not finite" in report.run["flags"][0]
    evidence.check(report.run, report.verdicts)


def test_a_model_that_fails_on_moved_images_is_robust_on_none(linear):
    model, x, _ = linear
    y = model(x).argmax(1)
    report = verify(Faulty(float("nan"), touchy=x), x, y)
    assert report.clean_accuracy == 1.0
    assert report.verdicts["refused"].all()
    assert report.robust_accuracy == 0.0
    assert (report.verdicts["broken_by"] == "").all(), "an image without a verdict is not broken either"


def test_a_sound_model_has_no_flags(linear):
    assert verify(*linear).run["flags"] == []


# --- independence -----------------------------------------------------------------------------------------------------


@each_threat
def test_verdicts_do_not_depend_on_the_batch_size(conv, threat):
    whole = verify(*conv, threat=threat)
    for size in (1, 7, 64):
        report = verify(*conv, threat=threat, batch_size=size)
        assert table(report) == table(whole)
        np.testing.assert_allclose(report.verdicts["margin"], whole.verdicts["margin"], atol=1e-4)
        assert report.robust_accuracy == whole.robust_accuracy
        assert report.run["attacks"] == whole.run["attacks"]


def test_verdicts_do_not_depend_on_how_many_images_follow(conv):
    whole = verify(*conv, threat=THREATS[0], batch_size=8)
    for n in (1, 5, 8, 23):
        report = verify(*conv, threat=THREATS[0], batch_size=8, n=n)
        assert report.run["n"] == n
        assert table(report) == table(whole)[:n]
        np.testing.assert_array_equal(report.x_adv, whole.x_adv[:n])


def test_verdicts_follow_an_image_by_its_position(conv):
    net, x, y = conv
    whole = verify(net, x, y, threat=THREATS[0])
    order = np.array([17, 3, 22, 0, 8])
    part = verify(net, x[order], y[order], threat=THREATS[0], positions=order)
    assert table(part) == [table(whole)[i] for i in order]
    assert part.verdicts["position"].tolist() == order.tolist()
    np.testing.assert_allclose(part.x_adv, whole.x_adv[order], atol=1e-6)


def test_the_seed_keys_the_draws_and_not_the_images(conv):
    first, other = (verify(*conv, threat=THREATS[0], seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.x_adv, other.x_adv)
    assert first.run["dataset"] == other.run["dataset"]


def test_verification_does_not_touch_global_random_numbers_or_gradients(conv):
    net, x, y = conv
    before = torch.get_rng_state()
    with torch.no_grad():
        verify(net, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_module_keeps_its_modes():
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
    module = torch.nn.Sequential(inner, torch.nn.Flatten()).train()
    inner[1].eval()
    before = [m.training for m in module.modules()]
    statistics = inner[1].running_mean.clone()
    rnas_zoo.verify(module, np.random.default_rng(0).random((4, 3, 8, 8)), np.zeros(4, int), batch_size=2, device="cpu")
    assert [m.training for m in module.modules()] == before
    assert torch.equal(inner[1].running_mean, statistics)
