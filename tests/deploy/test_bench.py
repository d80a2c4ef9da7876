"""Latency, measured with a clock that stands still unless the calls move it: order, counts, percentiles, refusals."""

from __future__ import annotations

import itertools
import json
import statistics

import numpy as np
import pytest
import torch

from rnas_zoo.deploy import bench
from rnas_zoo.deploy.bench import BATCHES, ROUNDS, SETTLE, compare, compete, measure, summary
from rnas_zoo.deploy.contestants import Model, Settings
from rnas_zoo.errors import CheckFailedError, UnknownNameError, UsageError

from ..contestants import Clock, contestant, logits, models, report


def test_percentiles_are_those_of_the_order_statistics():
    found = summary([float(value) for value in np.random.default_rng(0).permutation(np.arange(1, 101))])
    assert found == {"p50": 50.5, "p95": pytest.approx(95.05), "samples": 100}
    assert summary([0.25]) == {"p50": 0.25, "p95": 0.25, "samples": 1}


def taking(clock: Clock, seconds: float, name: str = "", log: list[str] | None = None):
    def call() -> None:
        clock.now += seconds
        if log is not None:
            log.append(name)

    return call


def test_calls_take_turns_and_every_turn_begins_with_calls_that_are_not_counted():
    clock, log = Clock(), []
    calls = [taking(clock, 0.001, "a", log), taking(clock, 0.004, "b", log), taking(clock, 0.5, "c", log)]
    samples = measure(calls, Settings(seconds=1.0, repeats=50), clock)
    turns = [(name, len(list(group))) for name, group in itertools.groupby(log)]
    assert [name for name, _ in turns] == ["a", "b", "c"] * ROUNDS
    uncounted = {"a": round(SETTLE / 0.001), "b": round(SETTLE / 0.004), "c": 1}
    for name, own in zip("abc", samples, strict=True):
        called = [count for turn, count in turns if turn == name]
        assert sum(called) - len(own) == pytest.approx(ROUNDS * uncounted[name], abs=ROUNDS)
    assert [len(own) for own in samples] == [50, 50, ROUNDS], (
        "the repeats, or the time, of which each round has a tenth"
    )
    assert [statistics.median(own) for own in samples] == pytest.approx([0.001, 0.004, 0.5])


def test_what_the_first_call_of_a_turn_costs_is_not_counted():
    clock, before = Clock(), []

    def cold_start(name: str):
        def call() -> None:
            clock.now += 0.001 if before[-1:] == [name] else 3.0
            before.append(name)

        return call

    samples = measure([cold_start("a"), cold_start("b")], Settings(seconds=0.1, repeats=40), clock)
    assert [max(own) for own in samples] == pytest.approx([0.001, 0.001])


@pytest.mark.parametrize("repeats", [1, 3, 10, 17, 200])
def test_no_call_is_timed_more_often_than_allowed(repeats):
    clock = Clock()
    quick, slow = measure([taking(clock, 1e-5), taking(clock, 9.0)], Settings(seconds=1.0, repeats=repeats), clock)
    assert len(quick) == repeats
    assert len(slow) == min(repeats, ROUNDS)


def test_a_machine_that_slows_down_slows_all():
    clock = Clock()

    def drifting(seconds: float):
        def call() -> None:
            clock.now += seconds * (1 + clock.now)  # after a second everything takes twice as long

        return call

    calls = [drifting(0.001), drifting(0.002)]
    one, two = (statistics.median(own) for own in measure(calls, Settings(seconds=0.5, repeats=1000), clock))
    assert clock.now > 1
    assert two / one == pytest.approx(2, rel=0.1)
    one, two = (statistics.median(measure([call], Settings(seconds=0.5, repeats=1000), clock)[0]) for call in calls)
    assert two / one > 2.5, "one after the other they would not compare"


def test_progress_counts_the_turns():
    clock, advanced = Clock(), []
    measure([taking(clock, 0.1)] * 3, Settings(seconds=0.1, repeats=4), clock, lambda: advanced.append(1))
    assert len(advanced) == 3 * 4


def test_a_report_says_what_the_clock_said():
    found = report()
    assert json.loads(json.dumps(found)) == found
    assert found["batches"] == [1, 32]
    assert found["threads"] == torch.get_num_threads()
    small, large, plain = found["models"]
    torch_run, fp32, int8 = small["runs"]
    assert (small["model"], small["parameters"], small["untrained"]) == ("small", 112_790, False)
    assert torch_run["latency"]["1"] == pytest.approx({"p50": 0.003, "p95": 0.003, "samples": 20})
    assert torch_run["latency"]["32"]["p50"] == pytest.approx(0.034)
    assert fp32["latency"]["1"]["p50"] == pytest.approx(0.0005)
    assert fp32["images_per_second"] == pytest.approx(32 / 0.00825)
    assert [run["speedup"] for run in small["runs"]] == pytest.approx([1, 6, 3])
    assert [run["difference"] for run in small["runs"]] == [None, 0, pytest.approx(0.5, abs=1e-5)]
    assert int8["accuracy"]["protocol"] == "fast"
    assert large["runs"][1]["difference"] == pytest.approx(1e-4, rel=0.1)
    measured, missing = plain["runs"]
    assert plain["untrained"]
    assert (missing["runtime"], missing["note"], missing["latency"]) == ("onnxruntime", "no export", None)
    assert missing.keys() == measured.keys()


def test_a_model_that_torch_does_not_run_is_compared_with_nothing():
    clock = Clock()
    model = Model("file.onnx", (8, 8), (contestant("onnxruntime int8", clock, 1.0, exact=False),))
    assert compare(model, 1e-3) == {}
    run = compete([model], Settings(seconds=0.01, repeats=2), clock=clock)["models"][0]["runs"][0]
    assert (run["difference"], run["speedup"]) == (None, None)


@pytest.mark.parametrize("shift", [0.02, -0.02, np.nan, np.inf])
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch.compile"])
def test_times_of_another_function_are_refused(runtime, shift):
    clock = Clock()
    pair = contestant("torch", clock, 1.0), contestant(runtime, clock, 1.0, shift=shift)
    with pytest.raises(CheckFailedError, match=rf"net: at batch 1 the logits of {runtime} differ from torch's"):
        compete([Model("net", (8, 8), pair)], Settings(), clock=clock)


def test_an_answer_that_is_wrong_at_one_batch_size_only_is_refused():
    clock = Clock()

    def call(images: np.ndarray) -> np.ndarray:
        return logits(images) + (len(images) > 1)

    odd = contestant("onnxruntime", clock, 1.0)
    pair = contestant("torch", clock, 1.0), type(odd)(odd.runtime, call)
    with pytest.raises(CheckFailedError, match=f"at batch {BATCHES[-1]}"):
        compare(Model("net", (8, 8), pair), 1e-3)
    pair = pair[0], type(odd)(odd.runtime, lambda images: logits(images)[:, :2])
    with pytest.raises(CheckFailedError, match="differ from torch's by inf"):
        compare(Model("net", (8, 8), pair), 1e-3)


def test_the_tolerance_is_relative_to_logits_above_one():
    clock = Clock()
    largest = float(np.abs(logits(bench.pictures(1, (8, 8)))).max())
    assert largest > 4
    pair = contestant("torch", clock, 1.0), contestant("onnxruntime", clock, 1.0, shift=0.9e-3 * largest)
    assert compare(Model("net", (8, 8), pair), 1e-3)["onnxruntime"] > 3e-3


def test_wrong_use_is_refused_before_anything_is_loaded(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"unknown baseline 'resnet_18'.*Did you mean.*resnet18"):
        bench.bench(["no/such/folder"], baselines=["resnet18", "resnet_18"])
    with pytest.raises(UsageError, match="at least one model"):
        bench.bench([])
    for wrong in ({"seconds": 0.0}, {"repeats": 0}, {"seconds": float("nan")}):
        with pytest.raises(UsageError, match="needs time and calls"):
            Settings(**wrong)
    monkeypatch.setattr(bench, "resolve_device", lambda name: torch.device("cuda", 1))
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=1"):
        bench.bench(["rnas_cl_s3"])


def test_baselines_take_the_images_and_classes_of_the_first_model(monkeypatch):
    seen = []
    clock = Clock()

    def of_network(name, network, settings, size, *, untrained):
        with torch.no_grad():
            seen.append((name, size, network(torch.zeros(1, 3, *size)).shape[1], untrained, network.training))
        return Model(name, size, (contestant("torch", clock, 1.0),), untrained)

    monkeypatch.setattr(bench, "resolve", lambda ref, settings: models(clock)[0])
    monkeypatch.setattr(bench, "of_network", of_network)
    before = torch.random.get_rng_state()
    found = bench.bench(["small"], Settings(seconds=0.01, repeats=2), baselines=["test_resnet"])
    assert seen == [("test_resnet", (8, 8), 3, True, False)]
    assert [model["model"] for model in found["models"]] == ["small", "test_resnet"]
    assert torch.equal(torch.random.get_rng_state(), before)
