"""The Square Attack under L2: its parts against their definitions, its verdicts against the authors' package."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from rnas_zoo import random
from rnas_zoo.attacks import Keys, Square, Threat, square_l2
from rnas_zoo.attacks.square_l2 import hill, move, profile, start_tiles

from .small import Counting, Linear, keys

CPU = torch.device("cpu")
THREAT = Threat("l2", 0.6)


def attack(model, x: Tensor, y: Tensor, queries: int = 40, threat: Threat = THREAT, key: Keys | None = None):
    return square_l2(model, x, y, threat, Square(queries=queries), key or keys(len(x)))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_hill_by_hand():
    a, b, c = 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9
    expected = [[c, c, c, c, c], [c, b, b, b, c], [c, b, a, b, c], [c, b, b, b, c], [c, c, c, c, c]]
    torch.testing.assert_close(hill(5, 5), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(hill(1, 5), torch.tensor([[c, b, a, b, c]], dtype=torch.float64))


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 7, 9, 12, 29])
def test_the_profile_is_the_reference_s(side):
    reference = SquareAttack(None, norm="L2", device="cpu")
    with torch.random.fork_rng(devices=[]):
        seen = [reference.eta(side) for _ in range(20)]
    for ours in profile(side, torch.float32, CPU):
        assert min(float((ours - theirs).abs().max()) for theirs in seen) < 1e-6
        assert float(ours.norm()) == pytest.approx(1)


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_the_profile_of_any_side_is_finite(side):
    found = profile(side, torch.float64, CPU)
    assert found.shape == (2, side, side)
    assert torch.equal(found[1], found[0].T)
    assert float(found[0].norm()) == pytest.approx(1)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (32, 32), (8, 8), (13, 27), (27, 13), (3, 4), (1, 6)])
def test_the_start_is_tiles_of_the_profile(height, width):
    x = torch.zeros(6, 2, height, width, dtype=torch.float64)
    delta = start_tiles(x, {"seed": 1, "positions": torch.arange(6)})
    side = max(min(height, width) // 5, 1)
    top, left = height % side // 2, width % side // 2
    seen, tiles = profile(side, x.dtype, CPU), []
    for row in range(height // side):
        for column in range(width // side):
            place = (slice(top + row * side, top + (row + 1) * side), slice(left + column * side, None))
            tile = delta[:, :, place[0], place[1]][..., :side]
            tiles.append(tile.flatten(2))
            for image in tile:
                turn = [all(torch.equal(part, s * p) or torch.equal(part, -s * p) for part in image)
                        for s, p in ((1, seen[0]), (1, seen[1]))]  # fmt: skip
                assert any(turn), "all channels of a tile are turned alike, each has its own sign"
    total = torch.stack(tiles).square().sum()
    torch.testing.assert_close(total, delta.square().sum())
    assert len({tuple(image.flatten().tolist()) for image in delta}) == 6


def plain_move(delta: Tensor, eta: Tensor, corners: list[int], side: int, eps: float) -> Tensor:
    """One image, as the paper's algorithm is written."""
    top, left, top2, left2 = corners
    channels = len(delta)
    out = delta.clone()
    allowed = max(eps**2 - float(delta.square().sum()), 0.0) / channels
    for c in range(channels):
        inside = [(i, j) for i in range(top, top + side) for j in range(left, left + side)]
        other = [(i, j) for i in range(top2, top2 + side) for j in range(left2, left2 + side)]
        mass = sum(float(delta[c, i, j]) ** 2 for i, j in set(inside) | set(other))
        own = math.sqrt(sum(float(delta[c, i, j]) ** 2 for i, j in inside))
        new = [float(eta[c, i - top, j - left]) + float(delta[c, i, j]) / max(own, 1e-12) for i, j in inside]
        length = math.sqrt(sum(v * v for v in new))
        for i, j in other:
            out[c, i, j] = 0.0
        for (i, j), value in zip(inside, new, strict=True):
            out[c, i, j] = value / max(length, 1e-12) * math.sqrt(allowed + mass)
    return out


@pytest.mark.parametrize("scale", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("corners", [[0, 0, 3, 4], [1, 2, 2, 3], [2, 1, 2, 1]])
def test_a_move_is_the_paper_s(corners, scale):
    generator = torch.Generator().manual_seed(0)
    delta = scale * torch.randn(5, 3, 6, 8, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(5, 3, 1, 1, generator=generator) > 0.5, 1.0, -1.0)
    eta = profile(3, torch.float64, CPU)[0] * signs
    inside = (torch.arange(3)[:, None] * 8 + torch.arange(3)).flatten()
    windows = tuple((inside + 8 * corners[k] + corners[k + 1]).expand(5, -1) for k in (0, 2))
    found = move(delta, eta.flatten(2), windows, 0.9)
    expected = torch.stack([plain_move(d, e, corners, 3, 0.9) for d, e in zip(delta, eta, strict=True)])
    torch.testing.assert_close(found, expected)
    before, after = (z.square().sum((1, 2, 3)) for z in (delta, found))
    torch.testing.assert_close(after, torch.maximum(before, torch.full_like(before, 0.81)))


def plain_square(model, x: Tensor, label: int, eps: float, config: Square, position: int) -> Tensor:
    """The paper's loop for one image (1, C, H, W), with the draws of its position."""
    key = {"seed": 5, "draw": 0, "positions": torch.tensor([position])}
    places = random.uniform((256, 4), stream="square-l2-place", **key)[0]
    turned = random.uniform((256,), stream="square-l2-turn", **key)[0] > 0.5
    signs = random.signs((256, x.shape[1]), stream="square-l2-sign", **key)[0]
    height, width = x.shape[2:]

    def image(delta: Tensor) -> Tensor:
        return (x + eps * delta / delta.norm()).clamp(0, 1)

    def margin(z: Tensor) -> float:
        logits = model(z)[0].tolist()
        return max(v for j, v in enumerate(logits) if j != label) - logits[label]

    best = image(start_tiles(x, {"seed": 5, "positions": torch.tensor([position])}))
    value = margin(best)
    for query in range(config.queries):
        if value > 0:
            break
        share = config.p_init / (1 if query <= 10 else 2 if query <= 50 else 4)
        side = max(round(math.sqrt(share * height * width)), 3)
        side = min(side if side % 2 else side + 1, height, width)
        corners = [int(u * (room - side)) for u, room in zip(places[query], [height, width] * 2, strict=True)]
        eta = profile(side, x.dtype, CPU)[int(turned[query])] * signs[query][:, None, None]
        z = image(plain_move((best - x)[0], eta, corners, side, eps)[None])
        if margin(z) > value:
            best, value = z, margin(z)
    return best


# --- the attack -------------------------------------------------------------------------------------------------------


def test_images_lie_in_ball_and_box_and_are_judged_as_reported(small_net, small_batch):
    x, y = small_batch
    y = torch.where(torch.arange(len(y)) % 5 == 0, (y + 1) % 4, y)  # some are misclassified from the start
    found = attack(small_net, x, y)
    assert float(THREAT.distance(found.x_adv, x).max()) <= 0.6 + 1e-7
    assert 0 <= float(found.x_adv.min()) <= float(found.x_adv.max()) <= 1
    assert torch.equal(found.broken, small_net(found.x_adv).argmax(1) != y)
    assert torch.equal(found.broken, found.step >= 0)
    assert 0 in found.step.tolist()
    assert -1 in found.step.tolist()
    assert int(found.step.max()) > 0


@pytest.mark.parametrize(("height", "p_init"), [(8, 0.8), (5, 0.8), (8, 0.02)])
def test_it_is_the_plain_loop(small_net, height, p_init):
    config = Square(queries=60, p_init=p_init)
    x = torch.rand(6, 3, height, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    small_net.requires_grad_(False)
    y = small_net(x).argmax(1)
    found = square_l2(small_net, x, y, THREAT, config, keys(6)).x_adv
    for i in range(len(x)):
        expected = plain_square(small_net, x[i : i + 1], int(y[i]), 0.6, config, i)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=0, atol=1e-7)


def test_results_depend_on_neither_batch_nor_order(small_net, small_batch):
    x, y = small_batch
    whole = attack(small_net, x, y)
    for size in (1, 7):
        for part in torch.arange(len(x) - 1, -1, -1).split(size):
            found = attack(small_net, x[part], y[part], key=Keys(5, part))
            torch.testing.assert_close(found.x_adv, whole.x_adv[part], rtol=0, atol=1e-6)
            assert torch.equal(found.step, whole.step[part])


def test_an_eps_per_image_gives_what_each_eps_gives(small_net, small_batch):
    x, y = small_batch
    sizes = [0.0, 0.3, 0.6]
    eps = torch.tensor(sizes, dtype=x.dtype)[torch.arange(len(x)) % 3]
    mixed = attack(small_net, x, y, threat=Threat("l2", eps))
    for index, size in enumerate(sizes):
        rows = torch.arange(index, len(x), 3)
        found = attack(small_net, x[rows], y[rows], threat=Threat("l2", size), key=Keys(5, rows))
        torch.testing.assert_close(mixed.x_adv[rows], found.x_adv, rtol=0, atol=1e-6)
        assert torch.equal(mixed.step[rows], found.step)


def test_images_keep_their_type_whatever_that_of_eps(small_net, small_batch):
    x, y = small_batch[0].float(), small_batch[1]
    eps = torch.full((len(x),), 0.6, dtype=torch.float64)
    assert attack(small_net.float(), x, y, threat=Threat("l2", eps)).x_adv.dtype == torch.float32


def test_only_better_proposals_are_kept(small_net, small_batch):
    x, y = small_batch
    before = None
    for queries in (0, 1, 5, 20, 60):
        logits = small_net(attack(small_net, x, y, queries).x_adv).detach()
        margin = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], float("-inf")).amax(1)
        assert before is None or bool((margin <= before + 1e-12).all())
        before = margin


def test_broken_images_are_queried_no_more(small_net, small_batch):
    x, y = small_batch
    before, model = torch.get_rng_state(), Counting(small_net)
    found = attack(model, x, y, queries=30)
    spent = torch.where(found.broken, found.step, 30)
    assert found.forwards == model.forwards == len(x) + int(spent.sum())
    assert found.backwards == model.backwards == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_go_on_after_a_block_and_differ_between_seeds(small_batch):
    x, y = small_batch[0][:4], torch.zeros(4, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double().requires_grad_(False)
    model[1].weight.copy_(torch.randn(2, 192, generator=torch.Generator().manual_seed(0)))
    model[1].bias.copy_(torch.tensor([100.0, 0.0]))  # never broken
    short, long = (attack(model, x, y, queries).x_adv for queries in (256, 300))
    assert not torch.equal(short, long)
    other = attack(model, x, y, 20, key=keys(4, seed=6)).x_adv
    assert not torch.equal(other, attack(model, x, y, 20).x_adv)


def test_on_a_linear_model_it_comes_as_near_the_worst_point_as_the_reference():
    x = torch.full((20, 3, 10, 10), 0.5)
    model, threat, y = Linear((3, 10, 10)).float(), Threat("l2", 0.3), torch.arange(20) % 2
    most = threat.eps * (model.weight[0] - model.weight[1]).detach().norm()

    def never_broken(z: Tensor) -> Tensor:
        return model(z) + 100 * F.one_hot(y, 2)

    def share(z: Tensor) -> Tensor:
        return (model.margins(x, y) - model.margins(z, y)) / most

    start, ours = (share(attack(never_broken, x, y, queries, threat).x_adv) for queries in (0, 300))
    theirs = []
    for seed in range(4):
        reference = SquareAttack(never_broken, norm="L2", n_queries=300, eps=0.3, resc_schedule=False, device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reference.init_hyperparam(x)
            theirs.append(share(reference.attack_single_run(x, y)[1]).mean())
    assert float(ours.max()) <= 1
    assert float(start.mean()) < 0.5 * float(ours.mean())
    assert float(ours.mean()) == pytest.approx(float(sum(theirs)) / 4, rel=0.1)


@pytest.mark.parametrize("shape", [(3, 6, 14), (3, 14, 6), (1, 4, 4), (2, 1, 7), (3, 2, 2)])
@pytest.mark.parametrize("classes", [2, 3])
def test_any_shape_of_image_and_two_or_three_classes(shape, classes):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, *shape, generator=generator)
    weight = torch.randn(math.prod(shape), classes, generator=generator)
    y = (x.flatten(1) @ weight).argmax(1)
    found = attack(lambda z: z.flatten(1) @ weight, x, y, 30, Threat("l2", 0.2))
    assert found.x_adv.shape == x.shape
    assert found.x_adv.dtype == x.dtype
    assert float(THREAT.distance(found.x_adv, x).max()) <= 0.2 + 1e-6
    assert torch.equal(found.broken, (found.x_adv.flatten(1) @ weight).argmax(1) != y)


def test_verdicts_are_as_many_as_the_reference_s(small_net):
    net = small_net.float()
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        y = net(x).argmax(1)
    ours, theirs = [], []
    for seed in range(3):
        ours.append(int(attack(net, x, y, 200, Threat("l2", 0.45), keys(64, seed)).broken.sum()))
        reference = SquareAttack(
            net, norm="L2", n_queries=200, eps=0.45, seed=seed, p_init=0.8, resc_schedule=False, device="cpu"
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            theirs.append(int((net(reference.perturb(x, y)).argmax(1) != y).sum()))
    start = int(attack(net, x, y, 0, Threat("l2", 0.45)).broken.sum())
    assert start + 10 < min(theirs) < 50, "the search must matter, and some images must withstand it"
    assert abs(sum(ours) - sum(theirs)) <= 9, "three images per seed; the reference's own seeds differ by four"
