"""Arrays of files that others wrote: whole, or refused before they cost memory."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnas_zoo import arrays
from rnas_zoo.arrays import read_array, read_arrays

from .strategies import reproducible

DTYPES = st.sampled_from(["u1", "<i8", ">i4", "<f4", "<f2", "?", "<U3", ">U2", "S2"])


def stored(path, *members, kind=zipfile.ZIP_STORED):
    """An archive of (name, bytes)."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def announced(shape: str, descr: str = "|u1", data: bytes = bytes(8)) -> bytes:
    """An .npy file whose header says whatever it says."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@reproducible(40)
@given(
    array=DTYPES.flatmap(lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, min_side=0))),
    packed=st.booleans(),
    order=st.sampled_from("CF"),
)
def test_what_numpy_writes_is_read_back(tmp_path_factory, array, packed, order):
    folder = tmp_path_factory.mktemp("arrays")
    (np.savez_compressed if packed else np.savez)(folder / "a.npz", a=np.asarray(array, order=order), b=np.arange(3))
    np.save(folder / "a.npy", array)
    for found in (read_arrays(folder / "a.npz")["a"], read_array(folder / "a.npy")):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
    assert set(read_arrays(folder / "a.npz", ["b", "c"])) == {"b"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (announced("(1000000000000,)"), r"announced as uint8 \(1000000000000,\)"),
        (announced("(4294967296, 4294967296, 4)"), "announced as"),
        (announced("(9,)"), "9 bytes, and there are 8"),
        (announced("(-1,)"), "announced as"),
        (announced("(100000000,)", "|V0"), "announced as"),
        (announced("(1,)", "<U100000000"), "announced as"),
        (announced("(2,)", "<U1", b"\xff" * 8), "no Unicode"),
        (announced("(1,)", "|O"), "pickle"),
        (npy(np.array([{}], object)), "pickle"),
        (pickle.dumps([1]), "magic"),
        (announced("(8,)").replace(b"\x01\x00", b"\x03\x00", 1), "version 3"),
        (announced("(" * 3000 + ")" * 3000), ""),
        (announced("(8,)")[:20], ""),
        (b"", ""),
    ],
)
def test_what_no_honest_file_says_is_refused(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as refused:
        read_arrays(stored(tmp_path / "a.npz", ("a.npy", content)))
    assert "\n" not in str(refused.value).strip()
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch, kind):
    path = stored(tmp_path / "bomb.npz", ("a.npy", npy(np.zeros(2_000_000, np.uint8))), kind=kind)
    assert read_arrays(path)["a"].shape == (2_000_000,)
    monkeypatch.setattr(arrays, "UNPACKED", 1_000_000)
    with pytest.raises(ValueError, match="far more than arrays do"):
        read_arrays(path)
    assert read_arrays(path, ["b"]) == {}


def test_damaged_archives_are_refused_in_one_line(tmp_path):
    path = stored(tmp_path / "a.npz", ("a.npy", npy(np.arange(500))), kind=zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    outcomes = set()
    for position in generator.choice(len(whole), 120, replace=False):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            outcomes.add(tuple(read_arrays(path)))
        except (ValueError, OSError) as error:
            outcomes.add(str(error))
    assert len(outcomes) > 2
    assert not any("\n" in text for text in outcomes if isinstance(text, str))
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")
