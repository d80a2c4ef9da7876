"""How `fuzz.py` spoils a valid file: by bytes, and by structure, so that what is inside gets past the parser.

All choices are drawn from the generator given; the same state gives the same file.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import re
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

DEEP = 100_000
TOKENS = (
    b"[" * DEEP, b'{"a":' * DEEP, b"(" * 5000, b"-" * DEEP, b"1" * 5000, b"9" * 30, b"-1", b"1e999", b"NaN",
    b"Infinity", b"null", b"true", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\n" * 5000, b'"', b"---\n", b"&a [*a]",
    b"!!python/object", b"a.b.c = 1\n", b"1" + b".a" * 3000 + b" = 1\n", b"x = 2026-13-45\n", b", " * 3000,
    b"../../etc/passwd", "\u0663".encode(), "é".encode(),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), "", "a", "8/255", "1/0", "1e999", "\ud800", "\x00", "x" * 10_000, "../../etc/passwd",
    [], {}, [[]], [None], {"": None}, [1, 2, 3], ["a", "b"], [float("nan")] * 3, list(range(2000)), {"schema": 1},
    "linf", "9" * 5000 + "/255",
)  # fmt: skip
SHAPES = (
    "(10**9,)",
    "(1000000000000,)",
    "(-1,)",
    "(4, 4294967296, 4294967296)",
    "(0,)",
    "()",
    "(1e3,)",
    "(True,)",
    "(" + "1, " * 70 + ")",
)
TYPES = ("|O", "<U100000000", "<f16", "|V0", "<i8", "<M8[s]", "<c16", "|S0", "[('a', '<f4')]", "x", "|b1")


def mutated(form: str, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A spoilt file of one of the seeds: half of them by structure, where the form has any."""
    data = rng.choice(seeds)
    change = STRUCTURED.get(form)
    if change is not None and rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = change(data, rng)
        return data
    for _ in range(rng.choice((1, 1, 2, 8))):
        data = rng.choice(BYTEWISE)(data, seeds, rng)
    return data


def _flip(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(min(len(found), rng.choice((1, 1, 4, 64)))):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def _cut(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] if rng.random() < 0.5 else data[:begin] + data[end:]


def _splice(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(seeds)
    (begin, end), (first, last) = _span(data, rng), _span(other, rng)
    return data[:begin] + other[first:last] + data[end:]


def _repeat(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    begin, end = _span(data, rng)
    end = min(end, begin + 200_000)
    return data[:end] + data[begin:end] * rng.choice((1, 2, 5)) + data[end:]


def _token(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + rng.choice(TOKENS) + data[begin if rng.random() < 0.5 else end :]


def _number(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+", data[:100_000]))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(TOKENS[4:12]) + data[one.end() :]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + int(2 ** rng.uniform(0, 12)))


BYTEWISE = (_flip, _flip, _cut, _splice, _repeat, _token, _number)


def bent(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place replaced, removed, doubled, wrapped or renamed."""
    places = list(_places(value))
    holder, key = rng.choice(places) if places else (None, None)
    if holder is None:
        return rng.choice(VALUES)
    what = rng.random()
    if what < 0.6:
        holder[key] = rng.choice(VALUES)
    elif what < 0.75:
        del holder[key]
    elif what < 0.85:
        holder[key] = [holder[key], copy.deepcopy(holder[key])]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(rng.choice(holder)))
    else:
        other, own = rng.choice(list(holder)), holder[key]
        holder[rng.choice((f"{key}x", other, "schema", ""))] = own
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _token(data, [data], rng)
    return json.dumps(bent(value, rng)).encode()


def _toml(data: bytes, rng: random.Random) -> bytes:
    from rnas_zoo.engine.config import to_toml
    from rnas_zoo.errors import UsageError

    try:
        return to_toml(bent(tomllib.loads(data.decode()), rng)).encode("utf-8", "surrogatepass")
    except (ValueError, UsageError, AttributeError, RecursionError):
        return _token(data, [data], rng)


def _npz(data: bytes, rng: random.Random) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # spoilt already
        return _flip(data, [data], rng)
    row = rng.randrange(len(members)) if members else 0
    name, content = members[row] if members else ("a.npy", b"")
    what = rng.randrange(7)
    if what == 0:
        del members[row : row + 1]
    elif what == 1:
        members[row : row + 1] = [(name, rng.choice(BYTEWISE)(content, [content], rng))]
    elif what == 2:
        members.append((name, pickle.dumps({"a": print})))
    elif what == 3:
        members[row : row + 1] = [(name, pickle.dumps([1]))]
    elif what == 4:
        members[row : row + 1] = [
            (rng.choice((name, "x.npy", "../x.npy", "")), rng.choice([*members, (name, content)])[1])
        ]
    else:
        pattern, texts = ((rb"\([\d, ]*\)", SHAPES), (rb"'[<|>=]\w+'", TYPES))[what - 5]
        text = rng.choice(texts) if what == 5 else repr(rng.choice(texts))
        members[row : row + 1] = [
            (name, re.sub(pattern, lambda _: text.encode(), content[:128], count=1) + content[128:])
        ]
        # The header's length is stated before it.
        found = members[row][1]
        size = found.find(b"\n") - 9
        members[row] = (name, found[:8] + min(max(size, 0), 65535).to_bytes(2, "little") + found[10:])
    stored = io.BytesIO()
    with zipfile.ZipFile(
        stored, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    ) as archive:
        for name, content in members:
            archive.writestr(name or "_", content)
    return stored.getvalue()


def _tensors(data: bytes, rng: random.Random) -> bytes:
    """Of safetensors: its header, the length before it, or a text inside that is JSON itself."""
    size = int.from_bytes(data[:8], "little")
    try:
        header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    except (ValueError, RecursionError):
        return _flip(data, [data], rng)
    inner = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(inner, dict) and "rnas_zoo_checkpoint" in inner and rng.random() < 0.7:
        text = str(inner["rnas_zoo_checkpoint"]).encode("utf-8", "replace")
        spoilt = _json(text, rng) if rng.random() < 0.8 else _token(text, [text], rng)
        inner["rnas_zoo_checkpoint"] = spoilt.decode("utf-8", "replace")
    else:
        header = bent(header, rng)
    text = json.dumps(header).encode()
    length = rng.choice((len(text),) * 6 + (0, 2**40, 2**63, len(text) + 1))
    return length.to_bytes(8, "little") + text + (rest if rng.random() < 0.9 else rest[: len(rest) // 2])


def _onnx(data: bytes, rng: random.Random) -> bytes:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(data)
    except (DecodeError, ValueError):
        return _flip(data, [data], rng)
    graph, huge = model.graph, rng.choice((0, -1, 3, 2**20, 2**31, 2**40, 2**62))
    node = rng.choice(graph.node) if graph.node else onnx.NodeProto()
    tensor = rng.choice(graph.initializer) if graph.initializer else onnx.TensorProto()
    what = rng.randrange(12)
    if what == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = huge
    elif what == 1:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (
            ("location", rng.choice(("../../etc/passwd", "/dev/zero", "x.bin", ""))),
            ("length", str(huge)),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, text
    elif what == 2:
        tensor.raw_data = rng.choice((b"", tensor.raw_data[:-4], b"\xff" * len(tensor.raw_data)))
    elif what == 3 and graph.input:
        size = rng.choice(graph.input[0].type.tensor_type.shape.dim or [onnx.TensorShapeProto.Dimension()])
        size.dim_value = rng.choice((huge, 100_000, 1, 3, 33))
    elif what == 4:
        node.op_type = rng.choice(("Relu", "Loop", "Nonsense", "MatMul", "Reshape", "Tile", "Pad", "If"))
    elif what == 5 and node.attribute:
        one = rng.choice(node.attribute)
        one.i, one.f, one.s = huge, float("nan"), b"\xff"
        for row in range(len(one.ints)):
            one.ints[row] = huge
    elif what == 6:
        graph.node.remove(node)
    elif what == 7:
        entry = rng.choice(model.metadata_props) if model.metadata_props else model.metadata_props.add()
        entry.key = rng.choice((entry.key, "labels", "input_size", "output"))
        entry.value = rng.choice(
            ("[", "[1, 2]", '{"a": 1}', "[" * DEEP, '["a"]', "null", "\x00", json.dumps(rng.choice(VALUES)))
        )
    elif what == 8 and model.opset_import:
        model.opset_import[0].version = rng.choice((0, 1, 7, 99, 2**62))
    elif what == 9 and node.input:
        node.input[0] = rng.choice((node.output[0] if node.output else "", "nowhere", "image"))
    elif what == 10 and graph.input:
        graph.input[0].type.tensor_type.elem_type = rng.choice((0, 1, 2, 3, 7, 8, 10, 16, 99))
    else:
        fill = onnx.helper.make_node("ConstantOfShape", ["fuzz_shape"], ["fuzz"])
        graph.initializer.append(
            onnx.helper.make_tensor("fuzz_shape", onnx.TensorProto.INT64, [2], [max(huge, 1), 2**20])
        )
        graph.node.insert(0, fill)
        graph.node.append(onnx.helper.make_node("ReduceSum", ["fuzz"], ["fuzz_sum"], keepdims=0))
        graph.node.append(onnx.helper.make_node("Add", [graph.output[0].name, "fuzz_sum"], ["fuzz_out"]))
        graph.output[0].name = "fuzz_out"
    return model.SerializeToString(deterministic=True)


STRUCTURED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _json,
    "toml": _toml,
    "npz": _npz,
    "tensors": _tensors,
    "onnx": _onnx,
}
