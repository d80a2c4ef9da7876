"""The protocol `standard`: AutoAttack on images of which the exact answer is known, on torch and on ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rnas_zoo
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import UsageError
from rnas_zoo.verification import evidence

from ..attacks.test_autoattack import exactly_robust, linear

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
    assert run["attacks"]["apgd-ce"]["passes"] == 2 * 101 * at_ce
    assert run["attacks"]["square"]["passes"] >= 5001 * survivors
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


def test_l2_is_refused(problem):
    with pytest.raises(UsageError, match="linf only"):
        rnas_zoo.verify(*problem, threat=Threat("l2", 0.5), protocol="standard", device="cpu")
