"""Checkpoints: what goes in comes out, bit for bit, or not at all."""

from __future__ import annotations

import math
import pickle
import struct
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import CheckpointError

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@st.composite
def tensors(draw) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape)
    width = torch.empty((), dtype=dtype).element_size()
    content = draw(st.binary(min_size=count * width, max_size=count * width))
    raw = torch.tensor(list(content), dtype=torch.uint8)
    if dtype == torch.bool:
        return (raw % 2).bool().reshape(shape)
    return (raw.view(dtype) if count else torch.empty(0, dtype=dtype)).reshape(shape)


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
KEYS = st.text(max_size=8) | st.integers(-5, 10**6) | st.tuples(st.integers(0, 3), st.text(max_size=2))
VALUES = st.recursive(
    SCALARS | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip([*a], [*b], strict=True)) and all(
            same(a[key], b[key]) for key in a
        )  # fmt: skip
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (a != a and b != b)
    return a == b


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_saved_is_loaded(state):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        checkpoint.save(path, state)
        assert same(checkpoint.load(path), state)
        assert [file.name for file in Path(folder).iterdir()] == ["state.safetensors"]


def test_training_state_is_loaded(tmp_path):
    """A network and the optimisers search and training use, with their integer keys and tuples."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), torch.optim.Adam(net.parameters())]
    net(torch.rand(2, 3, 8, 8)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    state = {"net": dict(net.state_dict()), "optimizers": [o.state_dict() for o in optimizers], "step": 4}
    checkpoint.save(tmp_path / "state.safetensors", state)
    found = checkpoint.load(tmp_path / "state.safetensors")
    assert same(found, state)
    assert set(found["optimizers"][1]["state"]) == {0, 1, 2, 3}
    assert found["optimizers"][1]["param_groups"][0]["betas"] == (0.9, 0.999)


def test_tensors_that_share_memory_are_loaded_apart(tmp_path):
    base = torch.arange(6.0)
    checkpoint.save(tmp_path / "s", {"whole": base, "part": base[2:4], "turned": base.view(2, 3).t()})
    found = checkpoint.load(tmp_path / "s")
    found["whole"].zero_()
    assert found["part"].tolist() == [2.0, 3.0]
    assert found["turned"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_kinds_of_tuples_are_loaded_as_tuples(tmp_path):
    pair = namedtuple("pair", "left right")
    checkpoint.save(tmp_path / "s", {"size": torch.Size([2, 3]), "pair": pair(1, torch.ones(1))})
    found = checkpoint.load(tmp_path / "s")
    assert found["size"] == (2, 3)
    assert found["pair"][0] == 1
    assert torch.equal(found["pair"][1], torch.ones(1))


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", 1j, len, [object()], {"deep": ({"set": {1}},)}])
def test_what_is_no_plain_data_is_refused_and_the_old_file_kept(thing, tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(CheckpointError, match="cannot store"):
        checkpoint.save(path, {"thing": thing})
    assert checkpoint.load(path) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_file_is_plain_safetensors(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weight": torch.arange(3)})
    with safe_open(path, framework="pt") as file:
        assert [file.get_tensor(key).tolist() for key in file.keys()] == [[0, 1, 2]]  # noqa: SIM118


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("write", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_a_pickle_is_refused_unopened(write, tmp_path):
    path, trace = tmp_path / "state.safetensors", tmp_path / "trace"
    write({"step": 1, "bomb": Bomb(trace)}, path)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    assert not trace.exists()


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "state.safetensors"
    checkpoint.save(path, {"step": 3, "weight": torch.rand(40), "names": ["a", "b"], "empty": torch.empty(0)})
    return path.read_bytes()


def test_a_cut_off_checkpoint_is_refused_at_every_length(content, tmp_path):
    header = 8 + struct.unpack("<Q", content[:8])[0]
    path = tmp_path / "state.safetensors"
    for length in {0, 1, 7, 8, 9, 20, header // 2, header - 1, header, header + 1, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged"):
            checkpoint.load(path)
    path.write_bytes(content)
    assert checkpoint.load(path)["step"] == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"dict": [[1]]}', '{"tensor": "t9"}', '{"tensor": "t0", "x": 1}']
)
def test_a_damaged_tree_is_refused(text, tmp_path):
    path = tmp_path / "state.safetensors"
    save_file({"t0": torch.zeros(1)}, path, metadata={"rnas_zoo_checkpoint": text})
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        checkpoint.load(path)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of rnas-zoo"):
        checkpoint.load(tmp_path / "model.safetensors")


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.safetensors")
