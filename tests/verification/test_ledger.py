"""The ledger against a naive record per image, and rounding onto the 8-bit grid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import data
from rnas_zoo.attacks import AttackResult, Threat
from rnas_zoo.verification.evidence import PER_IMAGE
from rnas_zoo.verification.ledger import CLEAN, Ledger, attack_part, clean_part, hashes_of, on_grid

ATTACKS = ("first", "second", "third")
PIXELS = np.random.default_rng(0).random((9, 3, 2, 2), np.float32)


def random_parts(seed: int, n: int) -> list[tuple[str, dict[str, Any]]]:
    """Pieces of every stage, in the protocol's order; each stage cuts the images into other pieces."""
    generator = np.random.default_rng(seed)
    margins = np.array([-1.0, -0.5, 0.0, 0.25, 0.5, 2.0])  # few values: ties happen
    parts: list[tuple[str, dict[str, Any]]] = []
    for stage in (CLEAN, *ATTACKS):
        order = generator.permutation(n)
        cuts = np.sort(generator.integers(0, n + 1, 2))
        for rows in np.split(order, cuts):
            if not len(rows):
                continue
            m = len(rows)
            refused = generator.random(m) < 0.15
            part = {"rows": rows, "refused": refused, "margin": generator.choice(margins, m)}
            part["predicted"] = generator.integers(0, 5, m)
            if stage == CLEAN:
                part |= {"correct": (generator.random(m) < 0.7) & ~refused, "twin_error": np.array(generator.random())}
            else:
                broken = (generator.random(m) < 0.4) & ~refused
                part |= {
                    "broken": broken,
                    "x_adv": generator.random((m, 3, 2, 2)).astype(np.float32),
                    "norm": generator.random(m),
                    "step": np.where(broken, generator.integers(0, 30, m), -1),
                    "unstable": generator.random(m) < 0.1,
                    "passes": generator.integers(1, 99, m).astype(float),
                    "route": np.array(str(generator.choice(["network", "twin"]))),
                }
            parts.append((stage, part))
    return parts


def naive(parts: list[tuple[str, dict[str, Any]]], n: int) -> list[dict[str, Any]]:
    """One dictionary per image, by the rules in words: the first breaking attack counts, else the smallest margin."""
    images: list[dict[str, Any]] = [
        {"refused": False, "broken_by": "", "route": "", "step": -1, "norm": 0.0, "unstable": False, "each": set()}
        for _ in range(n)
    ]
    for stage, part in parts:
        for i, row in enumerate(part["rows"]):
            image, margin = images[row], part["margin"][i]
            image["refused"] = image["refused"] or bool(part["refused"][i])
            if stage == CLEAN:
                image |= {"correct": bool(part["correct"][i]), "clean_margin": margin, "margin": margin}
                image |= {"class": part["predicted"][i], "clean_class": part["predicted"][i], "x_adv": PIXELS[row]}
                continue
            image["unstable"] = image["unstable"] or bool(part["unstable"][i])
            breaks = bool(part["broken"][i]) and image["correct"]
            if breaks:
                image["each"].add(stage)
            if image["broken_by"]:
                continue
            if breaks:
                image |= {"broken_by": stage, "route": str(part["route"]), "step": part["step"][i]}
            elif margin > image["margin"]:
                continue
            image |= {"margin": margin, "norm": part["norm"][i], "class": part["predicted"][i]}
            image["x_adv"] = part["x_adv"][i]
    return images


def state(ledger: Ledger) -> dict[str, np.ndarray]:
    found = {key: value for key, value in vars(ledger).items() if isinstance(value, np.ndarray)}
    found |= {f"done {key}": value for key, value in ledger.done.items()}
    found |= {f"broken {key}": value for key, value in ledger.broken_each.items()}
    return found | {"passes": np.array(list(ledger.passes.values())), "twin": np.array(ledger.twin_error)}


def apply(parts: list[tuple[str, dict[str, Any]]], n: int = len(PIXELS)) -> Ledger:
    ledger = Ledger(PIXELS[:n], ATTACKS)
    for stage, part in parts:
        ledger.apply(stage, part)
    return ledger


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, len(PIXELS)))
def test_a_ledger_is_a_record_per_image(seed, n):
    parts = random_parts(seed, n)
    ledger, images = apply(parts, n), naive(parts, n)
    for row, image in enumerate(images):
        for key in ("refused", "broken_by", "route", "step", "norm", "unstable", "correct", "clean_margin", "margin"):
            assert getattr(ledger, key)[row] == image[key], key
        assert (ledger.clean_class[row], ledger.adversarial_class[row]) == (image["clean_class"], image["class"])
        np.testing.assert_array_equal(ledger.x_adv[row], image["x_adv"])
        assert {name for name in ATTACKS if ledger.broken_each[name][row]} == image["each"]
        robust = image["correct"] and not image["refused"] and not image["broken_by"]
        assert ledger.standing[row] == robust
    for name in ATTACKS:
        assert ledger.passes[name].sum() == sum(part["passes"].sum() for stage, part in parts if stage == name)
    assert ledger.twin_error == max(float(part["twin_error"]) for stage, part in parts if stage == CLEAN)


@given(seed=st.integers(0, 2**32 - 1))
def test_pieces_of_different_images_may_come_in_any_order(seed):
    parts, names = random_parts(seed, len(PIXELS)), (CLEAN, *ATTACKS)
    shuffled = [parts[i] for i in np.random.default_rng(seed).permutation(len(parts))]
    shuffled.sort(key=lambda item: names.index(item[0]))  # stages in order, their pieces in another one
    halves: list[tuple[str, dict[str, Any]]] = []  # all stages of some images before the first stage of the others
    for chosen in (True, False):
        for stage, part in parts:
            mask = (part["rows"] % 2 == 0) == chosen
            if mask.any():
                scalar = ("route", "twin_error")
                kept = {key: value if key in scalar else value[mask] for key, value in part.items()}
                halves.append((stage, kept))
    expected = state(apply(parts))
    for other in (shuffled, halves):
        for key, value in state(apply(other)).items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_the_callers_pixels_are_not_written_to():
    before = PIXELS.copy()
    apply(random_parts(0, len(PIXELS)))
    np.testing.assert_array_equal(PIXELS, before)


def clean(rows: list[int], correct: list[bool]) -> dict[str, Any]:
    n = len(rows)
    return {
        "rows": np.array(rows),
        "correct": np.array(correct),
        "refused": np.zeros(n, bool),
        "margin": np.ones(n),
        "predicted": np.zeros(n, int),
        "twin_error": np.array(0.0),
    }


def attack(rows: list[int], broken: list[bool], refused: list[bool]) -> dict[str, Any]:
    n = len(rows)
    return {
        "rows": np.array(rows),
        "broken": np.array(broken),
        "refused": np.array(refused),
        "margin": np.where(broken, -1.0, 0.5),
        "norm": np.ones(n),
        "step": np.where(broken, 3, -1),
        "predicted": np.ones(n, int),
        "unstable": np.zeros(n, bool),
        "x_adv": np.zeros((n, 3, 2, 2), np.float32),
        "passes": np.ones(n),
        "route": np.array("network"),
    }


def test_settled_images_have_nothing_left_to_do():
    ledger, names = Ledger(PIXELS[:4], ("first", "second")), ("first", "second")
    assert not ledger.settled(names, every=False).any()
    ledger.apply(CLEAN, clean([0, 1, 2], [True, False, True]))
    assert ledger.settled(names, every=False).tolist() == [False, True, False, False]
    assert not ledger.settled(names, every=True).any()
    assert ledger.settled((), every=False).tolist() == [True, True, True, False]
    ledger.apply("first", attack([0, 2], [True, False], [False, False]))
    assert ledger.settled(names, every=False).tolist() == [True, True, False, False]
    ledger.apply("second", attack([2], [False], [True]))
    assert ledger.settled(names, every=False).tolist() == [True, True, True, False]
    assert ledger.settled(names, every=True).tolist() == [False, False, True, False]
    assert not ledger.standing.any(), "image 2 was refused, image 3 has no clean verdict"


def test_per_image_records_are_those_of_the_rows_asked_for():
    ledger = apply(random_parts(4, len(PIXELS)))
    rows, positions = np.array([7, 0, 3]), np.arange(100, 109)
    hashes = hashes_of(PIXELS)
    table = ledger.per_image(positions, hashes, rows)
    assert list(table) == list(PER_IMAGE)
    assert table["position"].tolist() == [107, 100, 103]
    assert table["pixels_sha256"].tolist() == [hashes[7], hashes[0], hashes[3]]
    np.testing.assert_array_equal(table["margin"], ledger.margin[rows].astype(np.float32))
    levels = np.rint(PIXELS[7] * 255).astype(np.uint8).transpose(1, 2, 0)
    assert hashes[7] == data.pixel_hash(levels)


# --- pieces -----------------------------------------------------------------------------------------------------------


def means(x: torch.Tensor) -> torch.Tensor:
    """The judge: a class per colour; images with a pixel of exactly 1 give no numbers."""
    logits = x.mean((2, 3)) * 10
    return torch.where((x == 1).flatten(1).any(1)[:, None], torch.full_like(logits, torch.nan), logits)


def test_clean_pieces_hold_verdicts_margins_and_the_difference_of_the_network_attacked():
    x = torch.zeros(4, 3, 2, 2)
    for i, colour in enumerate((0, 1, 2, 0)):
        x[i, colour] = 0.5
    x[3, 0, 0, 0] = 1.0
    y = torch.tensor([0, 2, 2, 0])
    subject = SimpleNamespace(kind="onnx", judge=means, network=lambda z: means(z) + 0.125)
    part = clean_part(subject, x, y, np.arange(4))  # type: ignore[arg-type]
    assert part["correct"].tolist() == [True, False, True, False]
    assert part["refused"].tolist() == [False, False, False, True]
    assert part["predicted"][:3].tolist() == [0, 1, 2]
    np.testing.assert_allclose(part["margin"][:3], [5, -5, 5])
    assert float(part["twin_error"]) == pytest.approx(0.125, abs=1e-5)
    for other in ({"network": means}, {"network": None}, {"kind": "torch"}):
        same = SimpleNamespace(**{**vars(subject), **other})
        assert float(clean_part(same, x, y, np.arange(4))["twin_error"]) == 0.0  # type: ignore[arg-type]


def test_attack_pieces_believe_the_judge_and_not_the_attack():
    x = torch.full((4, 3, 2, 2), 0.5)
    x[:, 0] = 0.51
    x_adv = x.clone()
    x_adv[0, 1] += 0.02  # really broken
    x_adv[1, 1] += 0.005  # in the ball, but still right
    x_adv[2, 1] += 0.3  # misclassified, outside the ball
    x_adv[3, 1] = 1.0  # no verdict
    result = AttackResult(x_adv, torch.tensor([False, True, True, True]), torch.tensor([-1, 4, 5, 6]), 10, 7)
    subject, y = SimpleNamespace(judge=means, grid=False), torch.zeros(4, dtype=torch.long)
    part = attack_part(subject, Threat("linf", 0.05), x, y, result, np.arange(4), "network")  # type: ignore[arg-type]
    assert part["broken"].tolist() == [True, False, False, False]
    assert part["refused"].tolist() == [False, False, False, True]
    assert part["step"].tolist() == [0, -1, -1, -1], "the attack did not know: step 0; the others were not broken"
    assert round(float(part["passes"].sum())) == 17
    assert not part["unstable"].any()
    np.testing.assert_allclose(part["norm"][:3], [0.02, 0.005, 0.3], atol=1e-6)


def test_verdicts_that_change_when_asked_again_are_marked():
    calls = []

    def fickle(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        return logits if len(calls) == 1 else logits.flip(1) * torch.tensor([[1.0], [-1.0]])

    x = torch.full((2, 3, 2, 2), 0.5)
    result = AttackResult(x, torch.zeros(2, dtype=torch.bool), torch.full((2,), -1), 0, 0)
    subject, y = SimpleNamespace(judge=fickle, grid=False), torch.tensor([0, 0])
    part = attack_part(subject, Threat(), x, y, result, np.arange(2), "network")  # type: ignore[arg-type]
    assert part["unstable"].tolist() == [True, False]
    assert not part["broken"].any()


# --- the 8-bit grid ---------------------------------------------------------------------------------------------------


def distance(a: np.ndarray, b: np.ndarray, norm: str) -> float:
    difference = (a.astype(np.float64) - b.astype(np.float64)).ravel()
    return float(np.abs(difference).max() if norm == "linf" else np.sqrt((difference**2).sum()))


grids = given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(["linf", "l2"]),
    levels=st.floats(0.0, 60.0) | st.integers(0, 60).map(float),
)


@grids
def test_rounded_images_lie_on_the_grid_in_box_and_ball(seed, norm, levels):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 3, 4, 4), generator=generator).float() / 255
    threat = Threat(norm, levels / 255)
    direction = torch.randn(x.shape, generator=generator)
    x_adv = threat.project(x + (direction.sign() if norm == "linf" else direction) * levels / 255, x)
    found = on_grid(x_adv, x, threat)
    steps = found.double() * 255
    assert float((steps - steps.round()).abs().max()) < 1e-4
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    for image, clean_image, before in zip(found.numpy(), x.numpy(), x_adv.numpy(), strict=True):
        assert distance(image, clean_image, norm) <= threat.eps + 1e-6
        assert distance(image, before, "linf") <= 1 / 255 + 1e-6
    assert torch.equal(on_grid(found, x, threat), found), "a second rounding changes nothing"


@grids
def test_grid_images_inside_the_ball_stay_what_they_are(seed, norm, levels):
    generator = np.random.default_rng(seed)
    clean_levels = generator.integers(0, 256, (4, 3, 3, 3))
    largest = int(levels) if norm == "linf" else max(int(levels / np.sqrt(27)), 0)
    moved = np.clip(clean_levels + generator.integers(-largest, largest + 1, clean_levels.shape), 0, 255)
    x, x_adv = (torch.from_numpy((z / np.float32(255)).astype(np.float32)) for z in (clean_levels, moved))
    assert torch.equal(on_grid(x_adv, x, Threat(norm, levels / 255)), x_adv)


def test_a_grid_image_at_exactly_eps_keeps_its_size():
    x = torch.zeros(1, 3, 4, 4)
    x_adv = torch.full_like(x, 8 / 255)
    assert torch.equal(on_grid(x_adv, x, Threat("linf", "8/255")), x_adv)
    one = x.clone()
    one[0, 1, 2, 3] = 7 / 255
    assert torch.equal(on_grid(one, x, Threat("l2", 7 / 255)), one)


def test_nearly_whole_levels_never_leave_the_l2_ball():
    x = torch.zeros(1, 3, 8, 8)
    x_adv = torch.full_like(x, 4.99995 / 255)
    threat = Threat("l2", float(x_adv.norm()))
    assert float((on_grid(x_adv, x, threat) - x).norm()) <= threat.eps + 1e-6
