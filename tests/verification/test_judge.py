"""The judge: an image counts as broken if it is inside ball and box, and finitely misclassified."""

from __future__ import annotations

import pytest
import torch

from rnas_zoo.attacks import Threat
from rnas_zoo.verification.judge import judge, margins

X = torch.full((1, 3, 2, 2), 0.5)
Y = torch.tensor([1])
WRONG = lambda x: torch.tensor([[2.0, 0.5, -1.0]]).expand(len(x), 3)  # noqa: E731
RIGHT = lambda x: torch.tensor([[0.0, 0.5, -1.0]]).expand(len(x), 3)  # noqa: E731
LINF, L2 = Threat("linf", 0.1), Threat("l2", 0.1)


def moved(by: float, pixels: int = 12) -> torch.Tensor:
    offset = torch.zeros(12)
    offset[:pixels] = by
    return X + offset.view(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("threat", "x_adv", "norm", "inside"),
    [
        (LINF, moved(0.1), 0.1, True),
        (LINF, moved(-0.1), 0.1, True),
        (LINF, moved(0.1001), 0.1001, False),
        (LINF, moved(0.1001, 1), 0.1001, False),
        (LINF, X, 0.0, True),
        (L2, moved(0.1, 1), 0.1, True),
        (L2, moved(0.1, 4), 0.2, False),
        (L2, moved(0.028), 0.028 * 12**0.5, True),
        (L2, moved(0.03), 0.03 * 12**0.5, False),
    ],
)
def test_only_misclassified_images_of_the_ball_are_broken(threat, x_adv, norm, inside):
    wrong, right = (judge(logits, X, x_adv, Y, threat) for logits in (WRONG, RIGHT))
    assert wrong.broken.tolist() == [inside]
    assert right.broken.tolist() == [False]
    assert wrong.norm.tolist() == pytest.approx([norm], abs=1e-6)
    assert wrong.refused.tolist() == right.refused.tolist() == [False]
    assert (wrong.margin.tolist(), right.margin.tolist()) == ([-1.5], [0.5])


@pytest.mark.parametrize(("clean", "adversarial"), [(1.0, 1.01), (0.0, -0.01), (1.0, float("inf"))])
def test_images_outside_the_box_are_never_broken(clean, adversarial):
    x, x_adv = X.clone(), X.clone()
    x[0, 0, 0, 0], x_adv[0, 0, 0, 0] = clean, adversarial
    assert judge(WRONG, x, x_adv, Y, LINF).broken.tolist() == [False]


def test_images_that_are_not_numbers_are_never_broken():
    assert judge(WRONG, X, X * float("nan"), Y, LINF).broken.tolist() == [False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_not_finite_are_refused_and_break_nothing(bad, place):
    logits = torch.tensor([[2.0, 0.5, -1.0], [2.0, 0.5, -1.0]])
    logits[0, place] = bad
    found = judge(lambda x: logits, X.expand(2, -1, -1, -1), X.expand(2, -1, -1, -1), Y.expand(2), LINF)
    assert found.refused.tolist() == [True, False]
    assert found.broken.tolist() == [False, True]
    assert torch.isfinite(found.margin).all()


def test_the_tolerance_is_rounding_only():
    threat = Threat("linf", 8 / 255)
    for step, inside in [(8 / 255, True), (8 / 255 + 5e-7, True), (8 / 255 + 1e-5, False)]:
        assert judge(WRONG, X, X + step, Y, threat).broken.tolist() == [inside]


def test_margin_is_the_label_minus_the_best_other():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 1.0], [-2.0, -7.0, -3.0]])
    assert margins(logits, torch.tensor([0, 1, 2, 1, 0])).tolist() == [1.0, -2.0, -1.0, 0.0, 1.0]


def test_logits_are_judged_in_single_precision():
    half = lambda x: torch.tensor([[1.0, 1.5]], dtype=torch.bfloat16).expand(len(x), 2)  # noqa: E731
    assert judge(half, X, X, Y, LINF).margin.dtype == torch.float32
