"""The cheap network is the network: folded batch norm, channels-last, and rows filled up to a tile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rnas_zoo.verification.accelerate import QUANTUM, Tiled, folded


class Residual(nn.Module):
    """Two branches, the first convolution's output is used twice, so its batch norm cannot be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.stem(x)
        return self.head((self.inner(F.relu(self.stem_norm(raw))) + raw).mean((2, 3)))


class Twice(nn.Module):
    """One convolution asked twice, followed by another batch norm each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(F.relu(self.one(self.conv(x))))).amax((2, 3))


class Shared(nn.Module):
    """Two convolutions, with tied weights, before one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(self.first(x)).mean((2, 3)), self.norm(self.second(x)).amax((2, 3))], 1)


class View(nn.Module):
    """Flattens by a view, which images in channels-last order do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).view(-1, 4 * 36))


class Decides(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(self.conv(x)).mean((2, 3))
        return found if bool(x.sum() > 0) else -found


class Overflows(nn.Module):
    """Numbers that leave single precision between convolution and batch norm, which folding would bring back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


def bn(channels: int, **options: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, **options)


FOLDS: dict[str, Callable[[], nn.Module]] = {
    "conv-bn-relu": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), bn(6), nn.ReLU(), nn.Conv2d(6, 4, 1), bn(4), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 3, groups=3, padding=2, dilation=2, bias=False), nn.Conv2d(3, 6, 1, bias=False), bn(6),
        nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ),
    "without affine": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), bn(6, affine=False), nn.Flatten(), nn.Linear(216, 4)),
    "residual": Residual,
    "shared batch norm": Shared,
}  # fmt: skip
FOLDED = {"conv-bn-relu": 0, "depthwise": 0, "without affine": 0, "residual": 1, "shared batch norm": 0}
LEFT: dict[str, Callable[[], nn.Module]] = {
    "conv twice": Twice,
    "batch norm after pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), bn(6), nn.Flatten(), nn.Linear(54, 4)
    ),
    "batch norm first": lambda: nn.Sequential(bn(3), nn.Conv2d(3, 4, 8), nn.Flatten()),
    "linear only": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
}
REFUSED: dict[str, Callable[[], nn.Module]] = {"view": View, "control flow": Decides}


def make(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network in evaluation mode whose batch norms have seen data and have weights of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.2, 3)
    return net.eval()


def images(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.detach().abs().max())))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", [*FOLDS, *LEFT])
def test_a_folded_network_is_the_same_function_with_the_same_gradient(name, seed):
    net, x = make({**FOLDS, **LEFT}[name], seed), images(9)
    found, memory_format = folded(net, images(4, seed=2))
    assert found is not net
    assert memory_format == torch.channels_last
    answers = []
    for ask, order in ((net, torch.contiguous_format), (found, memory_format)):
        z = x.clone().contiguous(memory_format=order).requires_grad_(True)
        logits = ask(z)
        (gradient,) = torch.autograd.grad(logits.square().sum(), z)
        answers.append((logits, gradient))
    close(answers[1][0], answers[0][0])
    close(answers[1][1], answers[0][1])
    assert not any(module.training for module in found.modules())
    assert not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize("name", list(FOLDS))
def test_batch_norm_behind_a_convolution_is_gone(name):
    assert norms(folded(make(FOLDS[name]), images(3))[0]) == FOLDED[name]


@pytest.mark.parametrize("name", list(LEFT))
def test_batch_norm_elsewhere_stays(name):
    net = make(LEFT[name])
    assert norms(folded(net, images(3))[0]) == norms(net)


def test_batch_norm_without_statistics_stays():
    net = make(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), bn(4, track_running_stats=False), nn.Flatten()))
    found, memory_format = folded(net, images(4))
    assert norms(found) == 1
    close(found(images(5).contiguous(memory_format=memory_format)), net(images(5)))


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_traced_or_reordered_is_asked_as_it_is(name):
    net = make(REFUSED[name])
    found, memory_format = folded(net, images(3))
    assert found is net
    assert memory_format == torch.contiguous_format
    assert found(images(2)).shape == (2, 4)


def test_a_copy_that_differs_is_not_used():
    net = make(Overflows)
    with torch.no_grad():
        net.conv.weight.fill_(1e38).mul_(3)
        net.norm.weight.fill_(1e-37)
    assert not torch.isfinite(net(images(2))).all()
    assert folded(net, images(2))[0] is net


def test_a_copy_that_is_right_on_the_example_only_is_not_used():
    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * (2.0 if len(x) > 4 else 1.0)

    class Lies(nn.Module):
        """Traced, its branch is fixed; black images do not show it."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.mean((2, 3)) * self.calls

    assert folded(Late().eval(), images(2))[0].__class__ is Late
    lying = Lies().eval()
    assert folded(lying, torch.zeros(3, 3, 8, 8))[0] is lying


@pytest.mark.parametrize("name", [*FOLDS, *LEFT, *REFUSED])
def test_the_network_given_is_not_touched(name):
    net = make({**FOLDS, **LEFT, **REFUSED}[name])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found, _ = folded(net, images(3))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None and p.is_contiguous() for p in net.parameters())
    if found is not net:
        own = {p.data_ptr() for p in net.parameters()}
        assert own.isdisjoint(p.data_ptr() for p in found.parameters())


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return make(FOLDS["conv-bn-relu"])


@settings(max_examples=25)
@given(n=st.integers(1, 70), rows=st.integers(1, 80))
def test_filling_up_and_splitting_are_invisible(net, n, rows):
    x, asked, ticks = images(n), [], []

    def watched(part: Tensor) -> Tensor:
        asked.append(len(part))
        return net(part)

    tiled = Tiled(watched, rows, tick=lambda: ticks.append(1))
    with torch.no_grad():
        found = tiled(x)
        torch.testing.assert_close(found, net(x), rtol=0, atol=1e-6)
    assert ticks == [1]
    assert all(size % QUANTUM == 0 for size in asked)
    assert max(asked) <= max(QUANTUM, rows)
    assert sum(asked) == -(-n // QUANTUM) * QUANTUM


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("memory_format", [torch.preserve_format, torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_without_filling(net, n, memory_format):
    tiled, gradients = Tiled(net, 32, memory_format=memory_format), []
    weights = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    for ask in (net, tiled):
        x = images(n).requires_grad_(True)
        gradients += torch.autograd.grad((ask(x) * weights).sum(), x)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)
    assert gradients[1].shape == (n, 3, 8, 8)


@pytest.mark.parametrize("fold", [False, True])
def test_an_image_gets_the_same_bits_in_every_batch(net, fold):
    asked, memory_format = folded(net, images(8)) if fold else (net, torch.preserve_format)
    tiled, x = Tiled(asked, 32, memory_format=memory_format), images(40)
    with torch.no_grad():
        whole = tiled(x)
        for n in range(1, 41):
            assert torch.equal(tiled(x[:n]), whole[:n]), n
            assert torch.equal(tiled(x[40 - n :]), whole[40 - n :]), n


def test_images_come_in_the_memory_format_asked_for():
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x.mean((2, 3))

    for memory_format in (torch.channels_last, torch.contiguous_format):
        Tiled(look, 64, memory_format=memory_format)(images(16))
    assert seen == [True, False]


def test_a_stop_in_tick_comes_before_the_question():
    def stop() -> None:
        raise TimeoutError

    tiled = Tiled(lambda x: pytest.fail("asked"), 16, tick=stop)
    with pytest.raises(TimeoutError):
        tiled(images(1))


def test_the_network_s_weights_are_seen_through_the_tiles(net):
    assert [p.data_ptr() for p in Tiled(net, 16).parameters()] == [p.data_ptr() for p in net.parameters()]


class Straight(torch.autograd.Function):
    """Rounds, and passes gradients on as if it had not."""

    @staticmethod
    def forward(ctx, x):
        return (x * 64).round() / 64

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0]


def test_gradients_that_somebody_defined_are_not_traced_away():
    class Rounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))

        def forward(self, x):
            return self.inner(Straight.apply(x))

    network = Rounding().eval()
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    asked, _ = folded(network, x)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(asked(z).sum(), z)
    torch.testing.assert_close(gradient.flatten(1), network.inner[1].weight.sum(0).expand(4, -1))


def test_scores_are_asked_only_where_no_gradient_is_wanted():
    questions = []

    def scores(x):
        questions.append(len(x))
        return x.mean((2, 3)) + 100

    tiled = Tiled(lambda x: x.mean((2, 3)), 16, scores=scores)
    x = torch.rand(40, 3, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(tiled(x), x.mean((2, 3)) + 100)
    assert questions == [16, 16, 8]
    torch.testing.assert_close(tiled(x), x.mean((2, 3)))
