"""Counter-based draws: a value is a pure function of what it is for, never of how many values were drawn before.

Generator: Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A key of
two 32-bit words (the seed) and a counter of four (block of coordinates, image position, stream, draw) give four random
words, by integer operations only: the same bits on NumPy, on the CPU and on the GPU.

All functions here read the same words for the same (seed, stream, draw): give each purpose its own stream or draw.
"""

from __future__ import annotations

import math
import operator
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .errors import UsageError

if TYPE_CHECKING:
    import torch

X = TypeVar("X", bound=Any)

_MASK = 0xFFFFFFFF
# The published multipliers minus 2^32: products stay within 2^62, so int64 never overflows, and the high half of the
# unsigned product is the high half of this one plus the other factor.
_M0 = 0xD2511F53 - 2**32
_M1 = 0xCD9E8D57 - 2**32
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def philox4x32(counter: tuple[X, X, X, X], key: tuple[int, int]) -> tuple[X, X, X, X]:
    """Ten rounds of Philox-4x32.

    Args:
        counter: four broadcastable int64 tensors or int64 arrays of 32-bit words, each 0..2^32-1 (not checked); plain
            ints may stand for some of them.
        key: two 32-bit words.

    Returns:
        Four int64 tensors or arrays of words, each 0..2^32-1, in the common shape of the counter.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) + c2) ^ (c1 ^ k0), p1 & _MASK, ((p0 >> 32) + c0) ^ (c3 ^ k1), p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def stream(name: str) -> int:
    """The 32-bit id of a stream name (its CRC-32): the same in every process and version."""
    return zlib.crc32(name.encode())


def uniform(shape: tuple[int, ...], *, seed: int, stream: str, draw: int, positions: torch.Tensor) -> torch.Tensor:
    """Uniform values in [0,1), multiples of 2^-24, equal bit for bit on all devices.

    A value depends on (seed, stream, draw, the image's position, the flat index of the coordinate in `shape`) alone, so
    neither on the other images of the batch nor on their order.

    Args:
        shape: shape of one image's values, without the batch.
        seed: 0..2^64-1.
        stream: name of the purpose.
        draw: which draw of that purpose (a step, a restart, an epoch), 0..2^32-1.
        positions: integer tensor (B,), one position per image, 0..2^32-1. Range-checked on the CPU; on a GPU, where a
            check would wait for the device, taken modulo 2^32.

    Returns:
        float32 (B, *shape) on the device of `positions`.

    Raises:
        UsageError: an argument outside its range, or positions that are not a vector of integers.
    """
    _, words, values, out = _prepare(shape, (4,), seed, stream, draw, positions)
    for lane, word in enumerate(words):
        out[..., lane] = word >> 8
    out *= 2.0**-24
    return _per_image(values, shape)


def signs(shape: tuple[int, ...], *, seed: int, stream: str, draw: int, positions: torch.Tensor) -> torch.Tensor:
    """Fair signs, -1.0 or +1.0, one bit each, equal bit for bit on all devices; arguments and errors as `uniform`.

    Returns:
        float32 (B, *shape) on the device of `positions`.
    """
    xp, words, values, out = _prepare(shape, (4, 32), seed, stream, draw, positions)
    bits = xp.arange(32, device=out.device)
    for lane, word in enumerate(words):
        out[..., lane, :] = word[..., None] >> bits & 1
    out *= 2
    out -= 1
    return _per_image(values, shape)


def normal(shape: tuple[int, ...], *, seed: int, stream: str, draw: int, positions: torch.Tensor) -> torch.Tensor:
    """Standard normal values by Box-Muller, within ±6.7; arguments and errors as `uniform`.

    Computed in float64 from equal words and rounded to float32: devices agree up to that rounding (their log, cos and
    sin may differ in the last bit), not bit for bit.

    Returns:
        float32 (B, *shape) on the device of `positions`.
    """
    xp, words, values, out = _prepare(shape, (4,), seed, stream, draw, positions)
    for lane in (0, 2):
        radius = xp.sqrt(-2.0 * xp.log(xp.asarray(words[lane] + 1, dtype=xp.float64) * 2.0**-32))
        angle = xp.asarray(words[lane + 1], dtype=xp.float64) * (2.0 * math.pi * 2.0**-32)
        out[..., lane] = radius * xp.cos(angle)
        out[..., lane + 1] = radius * xp.sin(angle)
    return _per_image(values, shape)


def integers(n: int, low: int, high: int, *, seed: int, stream: str, draw: int) -> np.ndarray:
    """`n` integers from [low, high): 64-bit words modulo the range, which bends a probability by less than 2^-32 of it.

    Returns:
        int64 (n,).

    Raises:
        UsageError: `n` negative or from 2^33 on, a range empty or of more than 2^32 values, bounds outside int64, or
            seed or draw out of range.
    """
    low, high = operator.index(low), operator.index(high)
    if not 0 < high - low <= 2**32:
        raise UsageError(f"integers from [{low}, {high}): the range must hold 1 to 2^32 values")
    if low < -(2**63) or high > 2**63:
        raise UsageError(f"integers from [{low}, {high}): the bounds must fit int64")
    return (_words64(n, seed, stream, draw) % np.uint64(high - low)).astype(np.int64) + np.int64(low)


def permutation(n: int, *, seed: int, stream: str, draw: int) -> np.ndarray:
    """A permutation of 0..n-1: the stable argsort of `n` 64-bit words.

    Returns:
        int64 (n,).

    Raises:
        UsageError: `n` negative or from 2^33 on, or seed or draw out of range.
    """
    return np.argsort(_words64(n, seed, stream, draw), kind="stable").astype(np.int64, copy=False)


def _prepare(
    shape: tuple[int, ...], lanes: tuple[int, ...], seed: int, name: str, draw: int, positions: torch.Tensor
) -> tuple[Any, tuple[Any, ...], torch.Tensor, Any]:
    """What a draw per image works with: the array module, the four words (B, blocks), the float32 tensor of values
    (B, blocks, *lanes) to return, and that tensor as the array module sees it, to fill.
    """
    import torch

    if positions.ndim != 1 or positions.is_floating_point() or positions.is_complex() or positions.dtype == torch.bool:
        kind = f"{positions.dtype} {tuple(positions.shape)}"
        raise UsageError(f"positions must be a vector of integers, one per image, not {kind}")
    blocks = _within("number of blocks", -(-math.prod(shape) // math.prod(lanes)), 32)
    values = torch.empty((len(positions), blocks, *lanes), dtype=torch.float32, device=positions.device)
    xp: Any = _array_module(positions)
    out: Any = values
    images: Any = positions.to(torch.int64)
    if positions.device.type == "cpu" and len(images):
        _within("position", int(images.min()), 32)
        _within("position", int(images.max()), 32)
    if xp is np:
        out, images = out.numpy(), images.numpy()
    block = xp.arange(blocks, device=out.device)
    counter = (block, images[:, None] & _MASK, stream(name), _within("draw", draw, 32))
    return xp, philox4x32(counter, _key(seed)), values, out


def _array_module(positions: torch.Tensor) -> Any:
    """NumPy on the CPU, where many short operations in a row would suffer from torch's thread barriers; else torch."""
    import torch

    return np if positions.device.type == "cpu" else torch


def _per_image(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(B, blocks, *lanes) without what overhangs `shape`, as a contiguous (B, *shape)."""
    return values.flatten(1)[:, : math.prod(shape)].reshape(len(values), *shape).contiguous()


def _key(seed: int) -> tuple[int, int]:
    seed = _within("seed", seed, 64)
    return seed & _MASK, seed >> 32


def _within(name: str, value: int, bits: int) -> int:
    value = operator.index(value)
    if not 0 <= value < 2**bits:
        raise UsageError(f"{name} {value} lies outside 0..2^{bits}-1")
    return value


def _words64(n: int, seed: int, name: str, draw: int) -> np.ndarray:
    """uint64 (n,): two words each, low word first, at position 0."""
    block: Any = np.arange(-(-_within("number of values", n, 33) // 2), dtype=np.int64)
    words = philox4x32((block, 0, stream(name), _within("draw", draw, 32)), _key(seed))
    a, b, c, d = (word.astype(np.uint64) for word in words)
    return np.stack([a | b << np.uint64(32), c | d << np.uint64(32)], axis=1).reshape(-1)[:n]
