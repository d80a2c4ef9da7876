"""Limits: other threat models and corruptions, counted as one would count them by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import UsageError
from rnas_zoo.intervals import clopper_pearson
from rnas_zoo.verification.corruptions import Corruption, corrupt
from rnas_zoo.verification.limits import beyond, limits, per_class
from rnas_zoo.verification.run import verify


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (Threat("linf", "8/255"), ["L2 0.5", "L∞ 12/255"]),
        (Threat("l2", 0.5), ["L∞ 8/255", "L2 0.75"]),
        (Threat("linf", 0.8), ["L2 0.5", "L∞ 255/255"]),
    ],
)
def test_beyond_a_threat_model_are_the_other_norm_and_half_as_much_again(own, others):
    assert [str(threat) for threat in beyond(own)] == others


class Mean(nn.Module):
    """Two classes: dark or bright images, with a margin of their own."""

    def forward(self, x):
        bright = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-bright, bright], dim=1)


@pytest.fixture(scope="module")
def images():
    levels = np.array([10, 120, 126, 129, 135, 250, 60, 140])
    pixels = np.broadcast_to(levels[:, None, None, None], (8, 8, 8, 3)).astype(np.uint8)
    return data.ImageSet(pixels, (levels > 127.5).astype(np.int64))


def test_every_row_is_what_counting_gives(images):
    found = limits(Mean().eval(), images, Threat("linf", "8/255"), seed=3, batch_size=3, device="cpu")
    rows = {row["kind"]: [r for r in found["rows"] if r["kind"] == row["kind"]] for row in found["rows"]}
    assert found["n"] == 8
    assert [row["accuracy"] for row in rows["clean"]] == [1.0]
    # Shifting a mean: L2 0.5 over 192 equal pixels moves each by 0.5/sqrt(192), i.e. 9.2 levels; L∞ by 12 levels.
    distance = np.abs(images.images[:, 0, 0, 0] - 127.5)
    assert rows["attack"][0]["norm"] == "l2"
    assert rows["attack"][0]["accuracy"] == (distance > 255 * 0.5 / np.sqrt(192)).mean()
    assert rows["attack"][1]["eps"] == "12/255"
    assert rows["attack"][1]["accuracy"] == (distance > 12).mean()
    for row in rows["corruption"]:
        corruption = Corruption(row["corruption"], next(iter(row["parameters"].values())))
        changed = corrupt(images.images, corruption, seed=3, positions=np.arange(8))
        right = (changed.mean((1, 2, 3)) > 127.5) == images.labels
        assert row["accuracy"] == right.mean()
        assert row["interval"] == list(clopper_pearson(int(right.sum()), 8))


def test_the_result_does_not_depend_on_the_batch(images):
    settings = {"seed": 1, "device": "cpu"}
    one, many = (limits(Mean().eval(), images, Threat("l2", 0.5), batch_size=b, **settings) for b in (1, 64))
    assert one == many
    order = np.arange(8)[::-1].copy()
    turned = limits(Mean().eval(), images.take(order), Threat("l2", 0.5), places=order, **settings)
    assert [row["accuracy"] for row in turned["rows"]] == [row["accuracy"] for row in one["rows"]]


def test_no_images_are_refused(images):
    with pytest.raises(UsageError, match="at least one image"):
        limits(Mean().eval(), images.take(np.arange(0)), Threat(), device="cpu")


def test_accuracy_by_class_is_that_of_its_images(images):
    rows = np.array([5, 2, 3, 0, 7])
    part = images.take(rows)
    report = verify(
        Mean().eval(), part.images, part.labels, threat=Threat("linf", "8/255"), protocol="quick", positions=rows,
        checks=False, device="cpu",
    )  # fmt: skip
    robust = np.abs(part.images[:, 0, 0, 0] - 127.5) > 8
    found = per_class(report.verdicts, images.labels, 3)
    for label in (0, 1):
        mine = part.labels == label
        assert found[label]["n"] == mine.sum()
        assert found[label]["robust"] == robust[mine].mean()
        assert found[label]["clean"] == 1
    assert found[2] == {"n": 0, "clean": None, "robust": None, "interval": None}
    assert sum(row["n"] * (row["robust"] or 0) for row in found) == report.robust_accuracy * len(rows)
    with pytest.raises(UsageError, match="position 7"):
        per_class(report.verdicts, images.labels[:6], 2)
