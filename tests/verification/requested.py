"""What tests of requests share: one with nothing asked, and two places where claims stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rnas_zoo.verification import evidence
from rnas_zoo.verification.request import Request

NOTHING = {
    "data": None,
    "image_size": None,
    "protocol": None,
    "norm": None,
    "eps": None,
    "n": None,
    "indices": None,
    "seed": None,
    "against_card": False,
    "against": None,
    "claim": None,
    "transfer_from": None,
    "adversarial": None,
    "save": False,
}


def make(ref: object = "rnas_cl_s3", **options) -> Request:
    return Request.make(str(ref), **{**NOTHING, **options})


@pytest.fixture
def robustbench(tmp_path) -> Path:
    (tmp_path / "L2").mkdir()
    path = tmp_path / "L2" / "model.json"
    path.write_text(json.dumps({"dataset": "cifar10", "eps": "0.5", "clean_acc": "90.00", "autoattack_acc": "60.00"}))
    return path


def runs_of(folder: Path) -> list[dict]:
    return evidence.read(folder)[0]
