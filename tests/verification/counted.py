"""Runs of made-up images whose numbers are counted one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy import stats

from rnas_zoo import data

PARAMS = {"pgd20": {"steps": 20, "step": 2 / 255}}


def table(correct, broken, refused=(), positions=None, **changes) -> tuple[dict, dict[str, np.ndarray]]:
    """A run over images of which those in `broken` are broken, its numbers counted one by one."""
    n = len(correct)
    positions = list(range(n)) if positions is None else list(positions)
    hashes = [data.pixel_hash(np.full((1, 1, 3), [p % 251, p // 251, 7])) for p in positions]
    robust = sum(1 for i in range(n) if correct[i] and i not in broken and i not in refused)
    exact = stats.binomtest(robust, n).proportion_ci(method="exact")
    run = {
        "subject": {"kind": "torch", "file": "model.safetensors", "sha256": "ab" * 32},
        "dataset": {"name": "cifar10", "split": "test", "images_sha256": data.images_hash(hashes)},
        "norm": "linf",
        "eps": "8/255",
        "protocol": "standard",
        "params": PARAMS,
        "seed": 0,
        "n": n,
        "refused": len(refused),
        "clean_accuracy": sum(map(bool, correct)) / n,
        "robust_accuracy": robust / n,
        "interval": [float(exact.low), float(exact.high)],
        "flags": [],
        **changes,
    }
    hit = [correct[i] and i in broken for i in range(n)]
    verdicts = {
        "position": np.array(positions),
        "pixels_sha256": np.array(hashes),
        "clean_correct": np.array([bool(c) for c in correct]),
        "clean_margin": np.array([0.5 if c else -0.5 for c in correct], np.float32),
        "broken_by": np.array(["apgd-ce" if h else "" for h in hit]),
        "route": np.array(["network" if h else "" for h in hit]),
        "step": np.array([4 if h else -1 for h in hit]),
        "margin": np.array([-0.1 if h else 0.1 for h in hit], np.float32),
        "norm": np.full(n, 8 / 255, np.float32),
        "refused": np.array([i in refused for i in range(n)]),
    }
    return run, verdicts


@st.composite
def models(draw, largest: int = 900):
    """Which of n images a model classifies correctly, and which of those an attack breaks."""
    n = draw(st.one_of(st.integers(1, 12), st.integers(195, 205), st.integers(395, 405), st.integers(1, largest)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    correct = generator.random(n) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    broken = {int(i) for i in np.flatnonzero(correct & (generator.random(n) < draw(st.sampled_from([0.0, 0.4, 0.9]))))}
    return correct, broken, generator
