"""Captured steps: every call takes one step, whatever the device does about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnas_zoo.engine.capture import Captured
from rnas_zoo.errors import UsageError

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="waits for a CUDA device: run this file on a machine with a GPU"
)


class Learner:
    """One-step adversarial training (N-FGSM) of a small network; the learning rate is a tensor."""

    def __init__(self, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        self.net.to(device)
        self.rate = torch.tensor(0.1, device=device)
        fused = True if device == "cuda" else None
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=self.rate, momentum=0.9, weight_decay=1e-3, fused=fused
        )
        self.seen: list[int] = []

    def step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.seen.append(x.data_ptr())
        start = (x + 0.1 * (2 * torch.rand_like(x) - 1)).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(self.net(start), y), start)
        attacked = (start.detach() + 0.05 * gradient.sign()).clamp(0, 1)
        logits = self.net(attacked)
        loss = F.cross_entropy(logits, y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == y).float().mean()}

    def state(self) -> list[Tensor]:
        momenta = [self.optimizer.state[p]["momentum_buffer"] for p in self.net.parameters() if self.optimizer.state[p]]
        return [*self.net.state_dict().values(), *momenta]


class Repeated:
    """Graphs as CUDA makes them, on the CPU: captures change nothing, replays overwrite the outputs of the capture."""

    def __init__(self, state: Callable[[], list[Tensor]] = list) -> None:
        self.state, self.news = state, []

    def eagerly(self, function):
        self.news.append("eager")
        return function()

    def capture(self, function):
        self.news.append("capture")
        before = [tensor.clone() for tensor in self.state()]
        with torch.random.fork_rng(devices=[]):
            outputs = function()
        for tensor, value in zip(self.state(), before, strict=True):
            tensor.copy_(value)
        parts = outputs if isinstance(outputs, dict) else {"": outputs}

        def replay() -> None:
            self.news.append("replay")
            new = function()
            for key, value in (new if isinstance(new, dict) else {"": new}).items():
                if value is not None:
                    parts[key].copy_(value)

        return replay, outputs


def batches(count: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.rand(16, 3, 8, 8, generator=generator).to(device),
            torch.randint(5, (16,), generator=generator).to(device),
        )
        for _ in range(count)
    ]


def walk(learner: Learner, step, count: int = 9) -> list[dict[str, Tensor]]:
    """Steps with a falling learning rate, reseeded each; what they returned, to be read at the end only."""
    found = []
    for index, (x, y) in enumerate(batches(count, learner.rate.device.type)):
        learner.rate.fill_(0.1 / (1 + index))
        torch.manual_seed(index)
        found.append(step(x, y))
        x.zero_()
    return found


@pytest.fixture
def plain() -> tuple[Learner, list[dict[str, Tensor]]]:
    learner = Learner()
    return learner, walk(learner, learner.step)


@pytest.mark.parametrize("enabled", [True, False])
def test_on_the_cpu_a_step_is_called_as_it_is(plain, enabled):
    learner = Learner()
    found = walk(learner, Captured(learner.step, "cpu", enabled))
    assert found == plain[1]
    assert all(map(torch.equal, learner.state(), plain[0].state()))


@pytest.mark.parametrize("warmup", [1, 3, 20])
def test_each_call_takes_one_step(plain, warmup):
    learner = Learner()
    graphs = Repeated(learner.state)
    found = walk(learner, Captured(learner.step, "cpu", warmup=warmup, graphs=graphs))
    assert found == plain[1]
    assert all(map(torch.equal, learner.state(), plain[0].state()))
    repeated = max(0, 9 - warmup)
    assert graphs.news == ["eager"] * (9 - repeated) + ["capture"] * (repeated > 0) + ["replay"] * repeated
    assert len(set(learner.seen[warmup:])) == (repeated > 0), "every repetition reads the same buffer"


def test_a_disabled_capture_records_nothing(plain):
    graphs = Repeated()
    learner = Learner()
    assert walk(learner, Captured(learner.step, "cpu", False, graphs=graphs)) == plain[1]
    assert graphs.news == []


def test_inputs_may_be_views_and_in_any_memory_format():
    seen = []
    step = Captured(lambda x: seen.append(x.stride()) or x.sum(1), "cpu", warmup=0, graphs=Repeated())
    x = torch.arange(48.0).reshape(2, 3, 2, 4)
    for given in (x.to(memory_format=torch.channels_last), x, (2 * x)[:, :, :, :], x.flip(3)):
        torch.testing.assert_close(step(given), given.sum(1), rtol=0, atol=0)
    assert set(seen) == {x.to(memory_format=torch.channels_last).stride()}


def test_outputs_may_be_a_tensor_a_mapping_or_nothing():
    total = torch.zeros(2)
    numbers = [torch.tensor(float(i)) for i in range(4)]

    def silent(x: Tensor) -> None:
        total.add_(x)

    doubled = Captured(lambda x: 2 * x, "cpu", warmup=1, graphs=Repeated())
    powers = Captured(lambda x: {"twice": 2 * x, "square": x * x}, "cpu", warmup=1, graphs=Repeated())
    added = Captured(silent, "cpu", warmup=1, graphs=Repeated(lambda: [total]))
    assert [doubled(x) for x in numbers] == [0, 2, 4, 6]
    assert [powers(x) for x in numbers] == [{"twice": 2 * i, "square": i * i} for i in range(4)]
    assert [added(x) for x in numbers] == [None] * 4
    assert total.tolist() == [6, 6]


def test_outputs_belong_to_the_caller():
    step = Captured(lambda x: x + 1, "cpu", warmup=0, graphs=Repeated())
    first = step(torch.ones(2))
    second = step(torch.zeros(2))
    second.fill_(9)
    assert first.tolist() == [2, 2]
    assert step(torch.zeros(2)).tolist() == [1, 1]


def test_after_a_reset_a_step_is_warmed_up_and_captured_again(plain):
    learner = Learner()
    graphs = Repeated(learner.state)
    captured = Captured(learner.step, "cpu", warmup=2, graphs=graphs)
    calls = []

    def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) == 5:  # as a rollback does: the optimiser gets new tensors
            learner.optimizer.load_state_dict(learner.optimizer.state_dict())
            learner.rate = learner.optimizer.param_groups[0]["lr"]
            captured.reset()
        return captured(x, y)

    found = walk(learner, step)
    assert found == plain[1]
    whole = ["eager", "eager", "capture", "replay"]
    assert graphs.news == [*whole, "replay", *whole, "replay", "replay"]


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(1, 3),),
        (torch.ones(2, 3, dtype=torch.float64),),
        (torch.ones(3),),
        (torch.ones(2, 3), torch.ones(2, 3)),
        (),
    ],
)
def test_other_inputs_than_those_captured_are_refused(inputs):
    step = Captured(lambda *x: x[0] * 2, "cpu", warmup=0, graphs=Repeated())
    step(torch.ones(2, 3))
    with pytest.raises(UsageError, match=r"captured for inputs \[\(\(2, 3\), torch.float32\)\]"):
        step(*inputs)


@pytest.mark.parametrize("output", [1.5, {"loss": 1.5}])
def test_an_output_that_could_not_change_is_refused(output):
    class Once(Repeated):
        def capture(self, function):
            return (lambda: None), function()

    step = Captured(lambda x: output, "cpu", warmup=1, graphs=Once())
    assert step(torch.ones(1)) == output
    with pytest.raises(UsageError, match=r"float 1\.5 would never change"):
        step(torch.ones(1))


def test_an_error_of_the_capture_says_what_steps_must_not_do():
    class Failing(Repeated):
        def capture(self, function):
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted") as error:
        Captured(lambda x: x, "cpu", warmup=0, graphs=Failing())(torch.ones(1))
    assert "must not read tensors on the host" in error.value.__notes__[0]


def test_a_negative_warmup_is_refused():
    with pytest.raises(UsageError, match="warmup"):
        Captured(lambda x: x, "cpu", warmup=-1)


@needs_cuda
@pytest.mark.parametrize("shared", [False, True])
def test_a_captured_step_on_cuda_is_the_eager_one(shared):
    eager, learner = Learner("cuda"), Learner("cuda")
    expected = walk(eager, eager.step, 12)
    pool = torch.cuda.graph_pool_handle() if shared else None
    even, odd = (Captured(learner.step, "cuda", pool=pool) for _ in range(2))
    calls = []

    def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        calls.append(None)
        return (even if len(calls) % 2 else odd)(x, y)

    found = walk(learner, step, 12)
    assert len(learner.seen) == 2 * (3 + 1), "three warm-up calls and one capture each"
    for row, other in zip(found, expected, strict=True):
        torch.testing.assert_close(row, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(learner.state(), eager.state(), rtol=1e-3, atol=1e-4)


@needs_cuda
def test_clipping_gradients_does_not_wait_for_the_device():
    weight = torch.ones(4, 4, device="cuda", requires_grad=True)
    weight.grad = torch.full_like(weight, 5.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        nn.utils.clip_grad_norm_([weight], 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
