"""The protocol `standard`: AutoAttack on images of which the exact answer is known, on torch and on ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rnas_zoo
from rnas_zoo.attacks import Threat
from rnas_zoo.verification import evidence

from ..attacks.test_autoattack import exactly_robust, learn_templates, linear

THREAT = Threat("linf", 0.005)


@pytest.fixture(scope="module")
def problem():
    """A linear model of five classes, 40 images in the interior of the box, labels of which a few are wrong."""
    model = linear(5).float()
    x = 0.35 + 0.3 * torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 5
    return model, x, y


@pytest.fixture(scope="module")
def report(problem):
    return rnas_zoo.verify(*problem, threat=THREAT, protocol="standard", batch_size=16, device="cpu")


def test_verdicts_are_the_exact_ones_image_by_image(problem, report):
    model, x, y = problem
    robust, distance = exactly_robust(model, x, y, THREAT)
    found = torch.from_numpy(report.verdicts["clean_correct"] & (report.verdicts["broken_by"] == ""))
    sure = distance > 1e-3
    assert sure.float().mean() > 0.8
    assert torch.equal(found[sure], robust[sure])
    assert not report.verdicts["clean_correct"][:4].any()


def test_each_attack_sees_only_what_the_ones_before_left(report):
    run = report.run
    broken = sum(totals["broken"] for totals in run["attacks"].values())
    assert broken == (report.verdicts["broken_by"] != "").sum()
    survivors = round(run["robust_accuracy"] * run["n"])
    at_ce = round(run["clean_accuracy"] * run["n"])
    passes = {name: totals["passes"] for name, totals in run["attacks"].items()}
    assert 2 * 101 * survivors <= passes["apgd-ce"] < 2 * 101 * at_ce, "a broken image costs no more steps"
    assert passes["apgd-t"] >= (1 + 4 * 2 * 101) * survivors
    assert passes["fab-t"] >= (1 + 4 * 3 * 100) * survivors
    assert passes["square"] >= 5001 * survivors
    after = [evidence.accuracy_under(run, name) for name in run["attacks"]]
    assert after == sorted(after, reverse=True)
    assert after[-1] == pytest.approx(run["robust_accuracy"])
    assert list(run["attacks"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_parameters_in_the_evidence_are_the_published_ones(report):
    params = report.run["params"]
    assert params["apgd-ce"]["steps"] == params["apgd-t"]["steps"] == params["fab-t"]["steps"] == 100
    assert params["apgd-ce"]["restarts"] == 1
    assert params["apgd-t"]["targets"] == params["fab-t"]["targets"] == 9
    assert params["square"] == {"queries": 5000, "p_init": 0.8}


def test_batches_do_not_change_verdicts(problem, report):
    again = rnas_zoo.verify(*problem, threat=THREAT, protocol="standard", batch_size=40, device="cpu")
    assert np.array_equal(again.verdicts["broken_by"] != "", report.verdicts["broken_by"] != "")


def test_an_onnx_file_gets_the_same_verdicts(problem, report, tmp_path):
    model, x, y = problem
    torch.onnx.export(
        model,
        (x[:2],),
        str(tmp_path / "m.onnx"),
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    onnx = rnas_zoo.verify(tmp_path / "m.onnx", x, y, threat=THREAT, protocol="standard", batch_size=40, device="cpu")
    assert onnx.run["subject"]["kind"] == "onnx"
    assert onnx.run["flags"] == []
    assert np.array_equal(onnx.verdicts["broken_by"] != "", report.verdicts["broken_by"] != "")


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_standard_is_exact_on_linear_models_and_no_protocol_is_below_it(norm, classes):
    model = linear(classes).float()
    x = 0.35 + 0.3 * torch.rand(32, 3, 6, 6, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        y = model(x).argmax(1)
    threat = Threat(norm, {"linf": 0.005, "l2": 0.045}[norm])
    robust, distance = exactly_robust(model, x, y, threat)
    sure = (distance > 1e-4).numpy()
    for protocol in ("standard", "fast", "quick"):
        verdicts = rnas_zoo.verify(model, x, y, threat=threat, protocol=protocol, device="cpu", checks=False).verdicts
        found = verdicts["broken_by"] == ""
        assert not (~found & robust.numpy())[sure].any(), f"{protocol} broke what nothing can break"
        if protocol == "standard":
            np.testing.assert_array_equal(found[sure], robust.numpy()[sure])
    assert 0.1 < robust.float().mean() < 0.9


def test_standard_is_exact_where_the_box_cuts_the_ball():
    model = linear(2, seed=3).float()
    x = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(1)).round()
    with torch.no_grad():
        logits = model(x)
    y, threat = logits.argmax(1), Threat("linf", 0.1)
    towards = (model[1].weight[1 - y] - model[1].weight[y]).detach().view_as(x)
    reach = torch.where(towards > 0, 1 - x, x).clamp_max(threat.eps)  # what each pixel can gain the other class
    slack = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    slack = slack - (towards.abs() * reach).sum((1, 2, 3))
    found = rnas_zoo.verify(model, x, y, threat=threat, device="cpu", checks=False).verdicts["broken_by"] == ""
    sure = (slack.abs() > 1e-3).numpy()
    np.testing.assert_array_equal(found[sure], (slack > 0).numpy()[sure])
    assert 0.1 < (slack > 0).float().mean() < 0.9


class Affine(torch.nn.Module):
    """A model whose logits are scaled and shifted: the same classifier."""

    def __init__(self, model: torch.nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.model, self.scale, self.shift = model, scale, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.model(x) + self.shift


@pytest.fixture(scope="module")
def plain(problem):
    return rnas_zoo.verify(*problem, threat=THREAT, device="cpu")


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 0), (1e-2, 0), (1e2, 0), (1e4, 0), (1, -50), (1, 1000), (3, 7)])
def test_affine_changes_of_the_logits_change_no_verdict(problem, plain, scale, shift):
    model, x, y = problem
    report = rnas_zoo.verify(Affine(model, scale, shift).eval(), x, y, threat=THREAT, device="cpu")
    np.testing.assert_array_equal(report.verdicts["broken_by"] == "", plain.verdicts["broken_by"] == "")
    odd = scale in (1e-4, 1e-2, 1e4)
    assert [text.partition(":")[0] for text in report.run["flags"]] == (["logit-scale"] if odd else [])


@pytest.fixture(scope="module")
def convolutional():
    """A small network with batch norm that learnt noisy templates, and 24 images of which some can be broken."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(128, 5),
        )
        draw = learn_templates(model, steps=120)
    x, y = draw(24)
    return model.eval(), x, y


def test_batches_of_1_16_and_256_give_the_same_verdicts(convolutional):
    model, x, y = convolutional
    threat, found = Threat("linf", 0.05), []
    for batch_size in (1, 16, 256):
        report = rnas_zoo.verify(model, x, y, threat=threat, batch_size=batch_size, device="cpu")
        found.append(report.verdicts["broken_by"])
    assert 0 < report.run["robust_accuracy"] < report.run["clean_accuracy"]
    np.testing.assert_array_equal(found[0] == "", found[1] == "")
    np.testing.assert_array_equal(found[1] == "", found[2] == "")


def test_standard_agrees_with_the_authors_package_image_by_image(convolutional):
    from pyautoattack import AutoAttack

    model, x, y = convolutional
    threat = Threat("linf", 0.05)
    ours = rnas_zoo.verify(model, x, y, threat=threat, device="cpu").verdicts
    reference = AutoAttack(model, norm="Linf", eps=threat.eps, version="standard", device="cpu", seed=0)
    reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = 4
    found = reference.run_standard_evaluation(x, y, batch_size=24)[0]
    with torch.no_grad():
        theirs = (model(found).argmax(1) == y).numpy()
    assert int((theirs != (ours["clean_correct"] & (ours["broken_by"] == ""))).sum()) == 0
