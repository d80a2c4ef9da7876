"""Pieces on disk: read back as written, in order; foreign, damaged and half-written ones are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rnas_zoo.errors import CheckpointError
from rnas_zoo.verification.store import Store

IDENTITY = {"protocol": "quick", "eps": 0.03, "seed": 0, "images": ["a", "b"]}


def piece(*rows: int, value: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "rows": np.array(rows),
        "x_adv": np.full((len(rows), 3, 2, 2), value, np.float32),
        "broken": np.arange(len(rows)) % 2 == 0,
        "route": np.array("twin"),
    }


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    same = [np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one]
    return one.keys() == other.keys() and all(same)


@pytest.fixture
def filled(tmp_path) -> tuple[Store, Path]:
    store = Store(tmp_path / "resume", IDENTITY)
    store.write(1, "pgd20", piece(3, 4, 5, value=0.25))
    (path,) = store.folder.glob("*.npz")
    return store, path


@pytest.mark.parametrize(
    ("key", "there", "here"), [("protocol", "quick", "full"), ("eps", 0.03, 0.031), ("images", ["a", "b"], ["a"])]
)
def test_another_verification_is_refused_with_the_field_and_both_values(tmp_path, key, there, here):
    Store(tmp_path, IDENTITY)
    with pytest.raises(CheckpointError, match="belongs to another verification") as error:
        Store(tmp_path, {**IDENTITY, key: here})
    assert f"{key} is {there!r} there and {here!r} here" in str(error.value)


def test_a_field_only_one_side_has_is_a_difference(tmp_path):
    Store(tmp_path, IDENTITY)
    with pytest.raises(CheckpointError, match="device is None there and 'cpu' here"):
        Store(tmp_path, {**IDENTITY, "device": "cpu"})
    with pytest.raises(CheckpointError, match="seed is 0 there and None here"):
        Store(tmp_path, {key: value for key, value in IDENTITY.items() if key != "seed"})


def test_the_same_identity_opens_the_folder_again_whatever_its_order_and_sequences(tmp_path):
    Store(tmp_path, IDENTITY).write(1, "fgsm", piece(0))
    again = {key: tuple(value) if isinstance(value, list) else value for key, value in reversed(IDENTITY.items())}
    assert len(Store(tmp_path, again).read()) == 1


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match=r"holds other files \(thesis\.txt\)"):
        Store(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "\udcff"])
def test_a_damaged_identity_is_named(tmp_path, text):
    (tmp_path / "verification.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"verification\.json is damaged"):
        Store(tmp_path, IDENTITY)


def test_pieces_come_back_as_written_in_the_protocols_order(tmp_path):
    store = Store(tmp_path, IDENTITY)
    written = [  # order of the protocol: number of the stage, then the first image
        (0, "clean", piece(0, 1)),
        (0, "clean", piece(1_000_000)),
        (1, "zebra", piece(9, 8)),
        (2, "pgd20", piece(2)),
        (2, "pgd20", piece(10)),
        (10, "apgd", piece(0)),
    ]
    for index in (5, 2, 4, 0, 3, 1):
        store.write(*written[index])
    found = Store(tmp_path, IDENTITY).read()
    assert [stage for stage, _ in found] == [stage for _, stage, _ in written]
    assert all(equal(part, expected) for (_, part), (_, _, expected) in zip(found, written, strict=True))


def test_a_piece_written_twice_is_one_and_the_later(tmp_path):
    store = Store(tmp_path, IDENTITY)
    store.write(1, "fgsm", piece(1, 2, value=0.0))
    store.write(1, "fgsm", piece(1, 2, value=1.0))
    ((_, part),) = store.read()
    assert equal(part, piece(1, 2, value=1.0))


def test_pieces_of_other_images_or_stages_do_not_replace_each_other(tmp_path):
    store = Store(tmp_path, IDENTITY)
    pieces = [(1, "fgsm", (1, 2)), (1, "fgsm", (1,)), (1, "fgsm", (1, 3)), (2, "pgd20", (1, 2))]
    for order, stage, rows in pieces:
        store.write(order, stage, piece(*rows))
    assert sorted((stage, tuple(part["rows"])) for stage, part in store.read()) == sorted(p[1:] for p in pieces)


def test_a_truncated_piece_is_an_error_that_names_it(filled):
    store, path = filled
    whole = path.read_bytes()
    for length in [0, 1, 2, 4, 10, 30, *range(60, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged") as error:
            store.read()
        assert str(path) in str(error.value)
    path.write_bytes(whole)
    assert equal(store.read()[0][1], piece(3, 4, 5, value=0.25))


def test_a_flipped_bit_is_an_error_or_harmless_but_never_other_data(filled):
    store, path = filled
    whole, original = path.read_bytes(), piece(3, 4, 5, value=0.25)
    refused, places = 0, range(0, len(whole), 2)
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            ((_, part),) = store.read()
        except CheckpointError:
            refused += 1
        else:
            assert equal(part, {key: original[key] for key in part}), f"byte {at}"
    assert refused > len(places) / 2


@pytest.mark.parametrize("stop", ["before", "amid"])
def test_leftovers_of_a_killed_write_are_ignored(filled, stop):
    store, path = filled
    content = path.read_bytes()[: 50 if stop == "amid" else 0]
    (store.folder / f".{path.name}.abc123.tmp.npz").write_bytes(content)
    assert len(Store(store.folder, IDENTITY).read()) == 1


def test_a_folder_killed_before_its_identity_was_written_can_be_used(tmp_path):
    (tmp_path / ".verification.json.abc123.tmp.json").write_text("{")
    Store(tmp_path, IDENTITY)
    assert json.loads((tmp_path / "verification.json").read_text()) == IDENTITY


def test_a_write_that_fails_leaves_no_piece(tmp_path, monkeypatch):
    store = Store(tmp_path, IDENTITY)

    def full(file, **arrays):
        file.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        store.write(1, "fgsm", piece(0))
    assert [path.name for path in tmp_path.iterdir()] == ["verification.json"]
    assert store.read() == []
