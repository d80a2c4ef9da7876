"""Threat models: what is written is what is meant, and projection is the projection."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.attacks import Threat
from rnas_zoo.attacks.threat import NORMS, parse_eps
from rnas_zoo.errors import UsageError

EPS = st.floats(0, 1) | st.integers(0, 510).map(lambda k: k / 510) | st.integers(0, 255).map(lambda k: k / 255)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("8/255", Fraction(8, 255)),
        ("4/255", Fraction(4, 255)),
        ("0.5/255", Fraction(1, 510)),
        ("1/2", Fraction(1, 2)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.031", Fraction(31, 1000)),
        ("1e-3", Fraction(1, 1000)),
        ("0", Fraction(0)),
        (0.25, Fraction(1, 4)),
        (1, Fraction(1)),
    ],
)
def test_eps_is_read_exactly(text, exact):
    assert parse_eps(text) == float(exact)
    assert Threat("linf", text).eps == float(exact)


@pytest.mark.parametrize("text", ["8", 8, 8.0, "255", "16/8"])
def test_linf_eps_in_grey_levels_is_refused_with_the_fix(text):
    with pytest.raises(UsageError, match=rf"pixels lie in \[0, 1\], so write {parse_eps(text):g}/255"):
        Threat("linf", text)


def test_l2_eps_may_exceed_one():
    assert Threat("l2", "3").eps == 3.0


@pytest.mark.parametrize(
    "bad", ["nan", float("nan"), "inf", float("inf"), "-1/255", -0.1, "1/0", "8/", "", "eight", None]
)
@pytest.mark.parametrize("norm", NORMS)
def test_senseless_eps_is_refused(norm, bad):
    with pytest.raises(UsageError, match="eps"):
        Threat(norm, bad)


def test_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'l1', known are linf, l2"):
        Threat("l1", 0.1)


@given(eps=EPS, norm=st.sampled_from(NORMS))
def test_eps_text_reads_back_to_the_same_number(eps, norm):
    threat = Threat(norm, eps)
    assert Threat(norm, threat.eps_text) == threat


@given(eps=st.floats(0, 1e9))
def test_l2_eps_text_reads_back_to_the_same_number(eps):
    assert parse_eps(Threat("l2", eps).eps_text) == eps


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [
        ("linf", 8 / 255, "L∞ 8/255"),
        ("linf", 0.5 / 255, "L∞ 0.5/255"),
        ("l2", 0.123, "L2 0.123"),
        ("l2", 0.5, "L2 0.5"),
    ],
)
def test_a_threat_prints_as_it_is_written(norm, eps, text):
    assert str(Threat(norm, eps)) == text


# --- geometry ---------------------------------------------------------------------------------------------------------


@st.composite
def situations(draw):
    """A threat, clean images in the box, and points around them."""
    threat = Threat(draw(st.sampled_from(NORMS)), draw(st.floats(1e-3, 0.9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    shape = (3, draw(st.integers(1, 3)), 4, 5)
    x = torch.rand(shape, generator=generator, dtype=dtype).mul(1.4).sub(0.2).clamp(0, 1)
    reach = draw(st.sampled_from([0.01, 0.3, 5.0]))
    return threat, x, x + reach * torch.randn(shape, generator=generator, dtype=dtype)


def norms(threat: Threat, difference: torch.Tensor) -> list[float]:
    rows = difference.double().flatten(1).tolist()
    return [max(map(abs, row)) if threat.norm == "linf" else math.sqrt(math.fsum(v * v for v in row)) for row in rows]


@given(situations())
def test_projection_lies_in_ball_and_box(situation):
    threat, x, point = situation
    found = threat.project(point, x)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert max(norms(threat, found - x)) <= threat.eps + 1e-6


@given(situations())
def test_projection_is_idempotent(situation):
    threat, x, point = situation
    once = threat.project(point, x)
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=1e-6)


@given(situations(), st.floats(0, 0.999))
def test_projection_leaves_images_inside_alone(situation, part):
    threat, x, point = situation
    size = torch.tensor(norms(threat, point - x), dtype=x.dtype)[:, None, None, None]
    inside = (x + part * threat.eps * (point - x) / size).clamp(0, 1)
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=1e-6)


@given(situations())
def test_linf_projection_is_a_clamp_of_every_pixel(situation):
    threat, x, point = situation
    threat = Threat("linf", threat.eps)
    for pixel, clean, found in zip(
        point.flatten().tolist(), x.flatten().tolist(), threat.project(point, x).flatten().tolist(), strict=True
    ):
        nearest = min(max(pixel, max(clean - threat.eps, 0.0)), min(clean + threat.eps, 1.0))
        assert found == pytest.approx(nearest, abs=1e-6)


@given(situations())
def test_l2_projection_moves_along_the_line_to_the_centre(situation):
    threat, x, point = situation
    threat, x = Threat("l2", min(threat.eps, 0.2)), 0.3 + 0.4 * x  # the box is out of reach
    for clean, away, found in zip(x, point, threat.project(point, x), strict=True):
        length = math.sqrt(float((away - clean).double().square().sum()))
        expected = clean + (away - clean) * min(1.0, threat.eps / length)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@given(situations())
def test_distance_is_the_norm_of_the_difference(situation):
    threat, x, point = situation
    assert threat.distance(point, x).tolist() == pytest.approx(norms(threat, point - x), rel=1e-5)


@given(situations())
def test_ascent_attains_the_dual_norm_with_a_unit_step(situation):
    threat, x, point = situation
    gradient = point - x
    step = threat.ascent(gradient)
    gain = (step * gradient).flatten(1).double().sum(1).tolist()
    dual = [sum(map(abs, row)) if threat.norm == "linf" else math.sqrt(sum(v * v for v in row))
            for row in gradient.flatten(1).double().tolist()]  # fmt: skip
    assert gain == pytest.approx(dual, rel=1e-5)
    assert norms(threat, step) == pytest.approx([1.0] * len(x), rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_ascent_of_a_vanishing_gradient_stays_put(norm):
    assert torch.equal(Threat(norm, 0.1).ascent(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("norm", NORMS)
def test_ball_of_size_zero_is_the_image(norm):
    x, point = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Threat(norm, 0).project(point, x), x, rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_a_scaled_threat_is_the_smaller_one(norm, factor):
    whole, generator = Threat(norm, "0.25"), torch.Generator().manual_seed(0)
    x, far = torch.rand(2, 6, 3, 4, 4, generator=generator)
    size = torch.tensor(factor)
    scaled, plain = whole.scaled(size), Threat(norm, 0.25 * factor)
    torch.testing.assert_close(scaled.project(far, x), plain.project(far, x), rtol=0, atol=1e-7)
    assert torch.equal(scaled.ascent(far - x), plain.ascent(far - x))
    assert (scaled.norm, float(scaled.radius)) == (norm, pytest.approx(0.25 * factor))
    assert whole == Threat(norm, "0.25")
    each = Threat(norm, torch.linspace(0, 0.25, 6)).scaled(size)
    torch.testing.assert_close(each.radius.flatten(), torch.linspace(0, 0.25, 6) * factor)


def test_a_scaled_threat_reads_nothing_on_the_host():
    """As a captured graph needs it: a tensor without values goes through."""
    x = torch.rand(2, 3, 4, 4, device="meta")
    scaled = Threat("linf", "8/255").scaled(torch.ones((), device="meta"))
    assert scaled.project(x, x).shape == x.shape
    assert Threat("l2", 0.5).scaled(torch.ones((), device="meta")).project(x, x).shape == x.shape
