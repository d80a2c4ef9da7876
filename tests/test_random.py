"""Counter-based draws: published vectors, a plain-integer reference, equality across backends, batch independence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnas_zoo import random as draws
from rnas_zoo.errors import UsageError

WORD = st.integers(0, 2**32 - 1)
IMAGE_DRAWS = [draws.uniform, draws.signs, draws.normal]
POSITIONS = torch.tensor([5, 0, 9_999, 2**32 - 1, 17])

# The Random123 distribution's kat_vectors file, "philox4x32 10": counter, key, result.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def reference(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox-4x32-10 as the paper writes it, in Python integers."""
    left, r1, right, r2 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * left, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * right, 2**32)
        left, r1, right, r2 = high1 ^ r1 ^ k0, low1, high0 ^ r2 ^ k1, low0
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return left, r1, right, r2


def some(function, shape=(3, 5, 7), *, seed=3, stream="test", draw=2, positions=POSITIONS) -> torch.Tensor:
    return function(shape, seed=seed, stream=stream, draw=draw, positions=positions)


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
@pytest.mark.parametrize("backend", ["ints", "numpy", "torch"])
def test_published_vectors(counter, key, expected, backend):
    make = {"ints": int, "numpy": lambda w: np.array([w]), "torch": lambda w: torch.tensor([w])}[backend]
    result = draws.philox4x32(tuple(make(word) for word in words(counter)), tuple(words(key)))
    assert [int(np.squeeze(word)) for word in result] == words(expected)


@given(counters=st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=8), key=st.tuples(WORD, WORD))
@settings(max_examples=100, deadline=None)
def test_equals_the_plain_reference_on_numpy_and_torch(counters, key):
    expected = [reference(counter, key) for counter in counters]
    columns = np.array(counters, dtype=np.int64).T
    with np.errstate(all="raise"):
        on_numpy = draws.philox4x32(tuple(columns), key)
    on_torch = draws.philox4x32(tuple(torch.from_numpy(columns)), key)
    assert all(word.dtype == np.int64 for word in on_numpy)
    assert all(word.dtype == torch.int64 for word in on_torch)
    assert np.stack(on_numpy, axis=1).tolist() == [list(row) for row in expected]
    assert torch.stack(on_torch, dim=1).tolist() == [list(row) for row in expected]


def test_counter_words_broadcast():
    block, position = np.arange(6), np.arange(4)[:, None]
    full = [word.copy() for word in np.broadcast_arrays(block, position, np.array(7), np.array(2**32 - 1))]
    lazy = draws.philox4x32((block, position, 7, 2**32 - 1), (1, 2))
    for a, b in zip(lazy, draws.philox4x32(tuple(full), (1, 2)), strict=True):
        assert a.shape == (4, 6)
        np.testing.assert_array_equal(a, b)


def test_stream_ids_are_frozen():
    """Published evidence rests on these numbers."""
    assert draws.stream("") == 0
    assert draws.stream("123456789") == 0xCBF43926  # the CRC-32 check value
    assert 0 <= draws.stream("pgd/start ε") < 2**32


# --- values per image -------------------------------------------------------------------------------------------------


def test_uniform_is_what_the_docstring_says():
    """Block i serves coordinates 4i … 4i+3; key = seed words; counter = (block, position, stream, draw)."""
    seed = 2**63 + 12345
    values = draws.uniform((3, 3), seed=seed, stream="pgd", draw=6, positions=torch.tensor([41]))
    for coordinate, value in enumerate(values.flatten().tolist()):
        counter = (coordinate // 4, 41, draws.stream("pgd"), 6)
        word = reference(counter, (seed % 2**32, seed // 2**32))[coordinate % 4]
        assert value == (word >> 8) / 2**24


def test_signs_are_single_bits():
    values = draws.signs((150,), seed=1, stream="pgd", draw=6, positions=torch.tensor([41]))[0].tolist()
    for coordinate in (0, 1, 31, 32, 127, 128, 149):
        word = reference((coordinate // 128, 41, draws.stream("pgd"), 6), (1, 0))[coordinate % 128 // 32]
        assert values[coordinate] == (1.0 if word >> coordinate % 32 & 1 else -1.0)


def test_values_are_frozen():
    """A changed draw would silently change every verdict that was published."""
    arguments = {"seed": 0, "stream": "golden", "draw": 0}
    positions = torch.tensor([0, 1])
    assert draws.uniform((2,), **arguments, positions=positions).mul(2**24).tolist() == [
        [9719284, 10793575],
        [8364316, 13074061],
    ]
    assert draws.integers(4, -5, 100, **arguments).tolist() == [98, 18, 33, -4]
    assert draws.permutation(8, **arguments).tolist() == [3, 5, 0, 1, 4, 2, 6, 7]


@pytest.mark.parametrize("function", IMAGE_DRAWS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 32, 32), (0,), (2, 0)])
def test_shapes(function, shape):
    for count in (0, 1, 5):
        values = some(function, shape, positions=POSITIONS[:count])
        assert values.shape == (count, *shape)
        assert values.dtype == torch.float32
        assert values.is_contiguous()


@pytest.mark.parametrize("function", IMAGE_DRAWS)
@given(
    positions=st.lists(WORD, min_size=1, max_size=6),
    data=st.data(),
    size=st.integers(1, 300),
    seed=st.integers(0, 2**64 - 1),
    draw=WORD,
)
@settings(max_examples=25, deadline=None)
def test_a_row_depends_on_its_own_position_only(function, positions, data, size, seed, draw):
    whole = some(function, (size,), seed=seed, draw=draw, positions=torch.tensor(positions))
    rows = data.draw(st.lists(st.integers(0, len(positions) - 1), min_size=1, max_size=6))
    picked = some(function, (size,), seed=seed, draw=draw, positions=torch.tensor(positions)[rows])
    assert torch.equal(picked, whole[rows])


@pytest.mark.parametrize("function", [draws.uniform, draws.signs])
def test_a_coordinate_does_not_depend_on_the_shape(function):
    assert torch.equal(some(function, (3, 32, 32)).flatten(1)[:, :1000], some(function, (1000,)))


@pytest.mark.parametrize("function", IMAGE_DRAWS)
def test_every_part_of_the_identity_counts(function):
    base = some(function)
    others = [
        some(function, seed=4),
        some(function, seed=3 + 2**32),
        some(function, stream="tests"),
        some(function, draw=3),
        some(function, positions=POSITIONS - 1 + 2 * (POSITIONS == 0)),
    ]
    assert torch.equal(base, some(function))
    for other in others:
        assert not any(torch.equal(a, b) for a, b in zip(base, other, strict=True))
    assert len({tuple(row.flatten().tolist()) for row in base}) == len(POSITIONS)


@pytest.mark.parametrize("function", IMAGE_DRAWS)
def test_global_generators_are_left_alone(function):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    before = some(function)
    torch.manual_seed(99)
    assert torch.equal(some(function), before)
    torch.set_rng_state(torch_state)
    some(function)
    draws.permutation(10, seed=0, stream="test", draw=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("function", IMAGE_DRAWS)
def test_thread_count_and_default_dtype_do_not_matter(function):
    positions = torch.arange(64)
    before = some(function, (3, 32, 32), positions=positions)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        after = some(function, (3, 32, 32), positions=positions.to(torch.int32))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert after.dtype == torch.float32
    assert torch.equal(after, before)


@pytest.mark.parametrize("function", IMAGE_DRAWS)
@pytest.mark.parametrize("shape", [(), (5,), (3, 32, 32), (0,)])
def test_the_path_of_other_devices_equals_the_path_of_the_cpu(function, shape, monkeypatch):
    """A GPU runs torch operations, the CPU NumPy's: here both on the CPU."""
    by_numpy = some(function, shape)
    monkeypatch.setattr(draws, "_array_module", lambda positions: torch)
    monkeypatch.setattr(np, "arange", None)
    by_torch = some(function, shape)
    if function is draws.normal:
        torch.testing.assert_close(by_torch, by_numpy, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(by_torch, by_numpy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: compares its draws with the CPU's")
@pytest.mark.parametrize("function", IMAGE_DRAWS)
def test_cuda_equals_cpu(function):
    positions = torch.cat([torch.arange(200), POSITIONS])
    on_cpu = some(function, (3, 32, 32), positions=positions)
    on_cuda = some(function, (3, 32, 32), positions=positions.cuda())
    assert on_cuda.device.type == "cuda"
    if function is draws.normal:
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(on_cuda.cpu(), on_cpu)


# --- distributions (fixed seeds: these never flicker) -----------------------------------------------------------------


def test_uniform_distribution():
    values = draws.uniform((1000,), seed=0, stream="distribution", draw=0, positions=torch.arange(1000)).double()
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 1 / 2) < 4 / (12e6) ** 0.5
    assert abs(values.var() - 1 / 12) < 4 * (1 / 180 / 1e6) ** 0.5
    assert stats.chisquare(np.histogram(values, bins=256, range=(0, 1))[0]).pvalue > 1e-3
    for axis in (0, 1):  # neighbouring images, neighbouring coordinates
        a, b = values.narrow(axis, 0, 999).flatten(), values.narrow(axis, 1, 999).flatten()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4e-3


def test_sign_distribution():
    values = draws.signs((1024,), seed=0, stream="distribution", draw=0, positions=torch.arange(1000))
    assert set(values.unique().tolist()) == {-1.0, 1.0}
    assert abs(values.mean()) < 4 / 1024e3**0.5
    assert values.mean(dim=0).abs().max() < 5 / 1000**0.5
    assert values.mean(dim=1).abs().max() < 5 / 1024**0.5


def test_normal_distribution():
    values = draws.normal((1000,), seed=0, stream="distribution", draw=0, positions=torch.arange(1000)).double()
    assert values.abs().max() < 6.7
    assert abs(values.mean()) < 4e-3
    assert abs(values.var() - 1) < 4 * 2**0.5 * 1e-3
    assert stats.kstest(values.flatten()[::7], "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(values.reshape(-1, 2).T)[0, 1]) < 6e-3  # the two halves of a Box-Muller pair


# --- integers and permutations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 7), (-3, 4), (0, 2**32), (2**63 - 10, 2**63), (-(2**63), 5 - 2**63)]
)
def test_integers_stay_in_range(low, high):
    values = draws.integers(1001, low, high, seed=5, stream="test", draw=0)
    assert values.dtype == np.int64
    assert values.shape == (1001,)
    assert low <= int(values.min()) <= int(values.max()) < high
    assert len(np.unique(values)) == high - low or high - low > 1000


def test_integers_are_uniform():
    values = draws.integers(100_000, 0, 10, seed=0, stream="distribution", draw=0)
    assert stats.chisquare(np.bincount(values, minlength=10)).pvalue > 1e-3


def test_a_longer_draw_begins_with_the_shorter_one():
    short, long = (draws.integers(n, 0, 10**6, seed=5, stream="test", draw=0) for n in (7, 1000))
    np.testing.assert_array_equal(short, long[:7])


@given(n=st.integers(0, 300), seed=st.integers(0, 2**64 - 1), draw=WORD)
@settings(max_examples=50, deadline=None)
def test_permutation_is_one(n, seed, draw):
    order = draws.permutation(n, seed=seed, stream="shuffle", draw=draw)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_differ_and_are_fair():
    orders = np.stack([draws.permutation(5, seed=0, stream="shuffle", draw=draw) for draw in range(2000)])
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-3


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", IMAGE_DRAWS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed"),
        ({"draw": -1}, "draw -1"),
        ({"draw": 2**32}, "draw"),
        ({"positions": torch.tensor([-1])}, "position -1"),
        ({"positions": torch.tensor([0, 2**32])}, "position 4294967296"),
        ({"positions": torch.tensor([0.0])}, "float32"),
        ({"positions": torch.tensor([True])}, "bool"),
        ({"positions": torch.tensor(3)}, "vector"),
        ({"positions": torch.zeros(2, 2, dtype=torch.int64)}, r"\(2, 2\)"),
    ],
)
def test_refusals(function, change, message):
    with pytest.raises(UsageError, match=message):
        some(function, **change)


def test_extreme_arguments_are_accepted():
    some(draws.uniform, seed=2**64 - 1, draw=2**32 - 1, positions=torch.tensor([2**32 - 1]))
    some(draws.uniform, seed=np.int64(7), draw=np.int32(1), positions=torch.tensor([3], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(3, 0, 0), (3, 5, 4), (3, 0, 2**32 + 1), (-1, 0, 5), (3, 2**63 - 1, 2**63 + 1), (3, -(2**63) - 1, 0 - 2**63)],
)
def test_integer_refusals(n, low, high):
    with pytest.raises(UsageError):
        draws.integers(n, low, high, seed=0, stream="test", draw=0)


def test_permutation_refusals():
    for arguments in ({"n": -1}, {"seed": -1}, {"draw": -1}):
        with pytest.raises(UsageError):
            draws.permutation(**{"n": 3, "seed": 0, "stream": "test", "draw": 0, **arguments})


def test_importing_the_module_does_not_import_torch():
    code = (
        "import sys, rnas_zoo.random as r; r.permutation(9, seed=0, stream='a', draw=0); exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
