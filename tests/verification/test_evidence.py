"""Evidence: one record per run, and numbers that must add up."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rnas_zoo import data
from rnas_zoo.errors import CheckFailedError, DataError
from rnas_zoo.verification import evidence

# --- records ----------------------------------------------------------------------------------------------------------


def made(n: int = 10, seed: int = 0, **changes) -> tuple[dict, dict[str, np.ndarray]]:
    """A run and its records, counted here."""
    generator = np.random.default_rng(seed)
    correct = generator.random(n) < 0.8
    broken_by = np.where(correct & (generator.random(n) < 0.4), "pgd20", "")
    refused = generator.random(n) < 0.1
    hashes = [data.pixel_hash(generator.integers(0, 256, (4, 4, 3))) for _ in range(n)]
    robust = sum(bool(c) and b == "" and not r for c, b, r in zip(correct, broken_by, refused, strict=True))
    exact = stats.binomtest(robust, n).proportion_ci(method="exact")
    run = {
        "subject": {"kind": "torch", "file": "model.safetensors", "sha256": "00"},
        "dataset": {"name": "digits", "split": "test", "images_sha256": data.images_hash(hashes)},
        "norm": "linf",
        "eps": "8/255",
        "protocol": "quick",
        "seed": 0,
        "n": n,
        "refused": int(refused.sum()),
        "clean_accuracy": int(correct.sum()) / n,
        "robust_accuracy": robust / n,
        "interval": [float(exact.low), float(exact.high)],
        **changes,
    }
    verdicts = {
        "position": np.arange(n),
        "pixels_sha256": np.array(hashes),
        "clean_correct": correct,
        "clean_margin": np.where(correct, 1, -1) * generator.uniform(0.01, 5, n).astype(np.float32),
        "broken_by": broken_by,
        "route": np.where(broken_by == "", "", "network"),
        "step": np.where(broken_by == "", -1, 3),
        "margin": generator.normal(size=n).astype(np.float32),
        "norm": generator.random(n).astype(np.float32),
        "refused": refused,
    }
    return run, verdicts


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(found[key], expected[key]) for key in evidence.PER_IMAGE)


def test_a_folder_without_evidence_has_none(tmp_path):
    assert evidence.read(tmp_path) == ([], [])


def test_what_is_appended_is_read(tmp_path):
    first, second = made(10), made(7, seed=1, protocol="standard")
    evidence.append(tmp_path, *first)
    evidence.append(tmp_path, *second)
    runs, verdicts = evidence.read(tmp_path)
    assert runs == [first[0], second[0]]
    assert same(verdicts[0], first[1])
    assert same(verdicts[1], second[1])
    assert json.loads((tmp_path / "robustness.json").read_text())["schema"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["robustness.json", "verdicts.npz"]


def test_the_largest_seed_is_read_back(tmp_path):
    run, verdicts = made()
    evidence.append(tmp_path, {**run, "seed": 2**64 - 1}, verdicts)
    ((found,), _) = evidence.read(tmp_path)
    assert found["seed"] == 2**64 - 1


def test_runs_on_the_same_images_store_them_once(tmp_path):
    first, second, other = made(10), made(10, seed=1, protocol="standard"), made(10, seed=2, protocol="fast")
    for key in ("position", "pixels_sha256"):
        second[1][key] = first[1][key]
    other[1]["position"] = first[1]["position"] + 1
    for each in (first, second, other):
        evidence.append(tmp_path, *each)
    assert all(
        same(table, right[1]) for table, right in zip(evidence.read(tmp_path)[1], (first, second, other), strict=True)
    )
    with np.load(tmp_path / "verdicts.npz") as file:
        for key, times in (("position", 2), ("pixels_sha256", 2), ("broken_by", 3)):
            assert sum(name.endswith(f".{key}") for name in file.files) == times


def test_tables_with_images_of_their_own_are_read(tmp_path):
    run, table = made(10)
    evidence.append(tmp_path, run, table)
    (digest,) = keys(tmp_path)
    np.savez_compressed(tmp_path / "verdicts.npz", **{f"{digest}.{key}": table[key] for key in evidence.PER_IMAGE})
    assert same(evidence.read(tmp_path)[1][0], table)


def test_the_same_run_is_replaced_and_others_are_kept(tmp_path):
    other, old, new = made(10, protocol="standard"), made(10), made(10, seed=3)
    new[0]["dataset"] = old[0]["dataset"]  # the same images
    for run, verdicts in (old, other, new):
        evidence.append(tmp_path, run, verdicts)
    runs, verdicts = evidence.read(tmp_path)
    assert runs == [other[0], new[0]]
    assert same(verdicts[0], other[1])
    assert same(verdicts[1], new[1])


@pytest.mark.parametrize(
    "change",
    [
        {"subject": {"kind": "onnx", "file": "model.onnx", "sha256": "01"}},
        {"dataset": {"name": "cifar10", "split": "test", "images_sha256": "x"}},
        {"norm": "l2"},
        {"eps": "4/255"},
        {"protocol": "standard"},
        {"seed": 1},
        {"source": {"name": "other", "sha256": "02"}},
        {"preprocessing": {"mean": (0.5, 0.5, 0.5)}},
    ],
)
def test_a_run_that_differs_in_what_it_measured_is_another(tmp_path, change):
    evidence.append(tmp_path, *made())
    evidence.append(tmp_path, *made(**change))
    assert len(evidence.read(tmp_path)[0]) == 2
    evidence.append(tmp_path, *made(**change))
    assert len(evidence.read(tmp_path)[0]) == 2


@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
def test_records_that_add_up_are_accepted(n, seed):
    evidence.check(*made(n, seed))


def test_totals_of_attacks_are_those_of_the_records():
    """Attacks that see what others left break what the records say; those that see all may break more."""
    run, verdicts = made(40)
    count, correct = int((verdicts["broken_by"] == "pgd20").sum()), int(verdicts["clean_correct"].sum())
    assert 0 < count < correct
    for protocol, allowed in (("quick", range(count, correct + 1)), ("standard", [count]), ("given", [count])):
        for stated in range(correct + 3):
            claimed = {**run, "protocol": protocol, "attacks": {"pgd20": {"broken": stated, "passes": 1}}}
            if stated in allowed:
                evidence.check(claimed, verdicts)
            else:
                with pytest.raises(CheckFailedError, match=f"pgd20 is stated to break {stated} images"):
                    evidence.check(claimed, verdicts)


TAMPERED = {
    "robust accuracy": lambda run, verdicts: run.update(robust_accuracy=run["robust_accuracy"] + 0.1),
    "clean accuracy": lambda run, verdicts: run.update(clean_accuracy=run["clean_accuracy"] - 0.1),
    "accuracy not a number": lambda run, verdicts: run.update(robust_accuracy=float("nan")),
    "interval": lambda run, verdicts: run.update(interval=[run["interval"][0] + 0.05, run["interval"][1]]),
    "interval cut": lambda run, verdicts: run.update(interval=run["interval"][:1]),
    "refused": lambda run, verdicts: run.update(refused=run["refused"] + 1),
    "n": lambda run, verdicts: run.update(n=run["n"] - 1),
    "n of zero": lambda run, verdicts: run.update(n=0),
    "a broken image": lambda run, verdicts: verdicts["broken_by"].__setitem__(robust(verdicts), "pgd20"),
    "a correct image": lambda run, verdicts: verdicts["clean_correct"].__setitem__(robust(verdicts), False),
    "a refused image": lambda run, verdicts: verdicts["refused"].__setitem__(robust(verdicts), True),
    "an attack": lambda run, verdicts: run.update(attacks={"pgd20": {"broken": 0, "passes": 1}}),
    "an attack beyond all": lambda run, verdicts: run.update(attacks={"pgd20": {"broken": run["n"] + 1}}),
    "an attack without a number": lambda run, verdicts: run.update(attacks={"pgd20": {"broken": "many"}}),
    "attacks that are none": lambda run, verdicts: run.update(attacks=[1]),
    "a missing record": lambda run, verdicts: verdicts.update(margin=verdicts["margin"][1:]),
}


def robust(verdicts: dict[str, np.ndarray]) -> int:
    return int(np.flatnonzero(verdicts["clean_correct"] & (verdicts["broken_by"] == "") & ~verdicts["refused"])[0])


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_numbers_are_found(case, tmp_path):
    run, verdicts = copy.deepcopy(made())
    evidence.check(run, verdicts)
    TAMPERED[case](run, verdicts)
    with pytest.raises(CheckFailedError, match="does not add up") as error:
        evidence.check(run, verdicts)
    assert error.value.exit_code == 1
    with pytest.raises(CheckFailedError):
        evidence.append(tmp_path, run, verdicts)
    assert list(tmp_path.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    evidence.append(tmp_path, *made())
    return tmp_path


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema": 1}', '{"schema": 1, "runs": 3}'])
def test_a_damaged_record_file_is_refused(folder, text):
    (folder / "robustness.json").write_text(text)
    with pytest.raises(DataError, match=r"robustness\.json: damaged"):
        evidence.read(folder)


def test_records_of_a_newer_release_are_refused(folder):
    (folder / "robustness.json").write_text('{"schema": 2, "runs": []}')
    with pytest.raises(DataError, match="schema 2 is not supported"):
        evidence.read(folder)


@pytest.mark.parametrize("kept", [0, 0.2, 0.6, 0.95, 0.999])
def test_cut_off_verdicts_are_refused(folder, kept):
    path = folder / "verdicts.npz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match="damaged evidence"):
        evidence.read(folder)


def keys(folder) -> set[str]:
    """The digests of the tables that a folder's verdicts.npz holds."""
    with np.load(folder / "verdicts.npz") as file:
        return {name.removesuffix(".broken_by") for name in file.files if name.endswith(".broken_by")}


@pytest.mark.parametrize("offset", [0, 20])
def test_scrambled_verdicts_are_refused(folder, offset):
    path = folder / "verdicts.npz"
    content = bytearray(path.read_bytes())
    name = f"{keys(folder).pop()}.broken_by.npy".encode()
    begin = content.index(name) + len(name) + content[28] + 256 * content[29] + offset
    content[begin : begin + 40] = bytes([255] * 40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged evidence"):
        evidence.read(folder)


def test_missing_and_foreign_verdicts_are_refused(folder):
    path, (digest,) = folder / "verdicts.npz", keys(folder)
    np.savez(path, **{f"{digest}.position": np.arange(10)})
    with pytest.raises(DataError):
        evidence.read(folder)
    np.savez(path, **{f"{digest}.{key}": np.array([{}], dtype=object) for key in evidence.PER_IMAGE})
    with pytest.raises(DataError):
        evidence.read(folder)
    path.unlink()
    with pytest.raises(DataError):
        evidence.read(folder)


@pytest.mark.parametrize("key", evidence.PER_IMAGE)
def test_a_changed_verdict_is_refused(folder, key):
    path = folder / "verdicts.npz"
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file.files}
    (name,) = (name for name in arrays if name.endswith(f".{key}"))
    arrays[name] = (
        arrays[name][::-1].copy() if key in ("position", "pixels_sha256") else arrays[name] == arrays[name].dtype.type()
    )
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="damaged evidence"):
        evidence.read(folder)


@pytest.mark.parametrize("field", ["subject", "norm", "eps", "protocol", "n", "robust_accuracy", "interval"])
@pytest.mark.parametrize("value", [None, [], {}])
def test_records_with_fields_of_another_type_are_refused(folder, field, value):
    path = folder / "robustness.json"
    record = json.loads(path.read_text())
    if type(record["runs"][0][field]) is type(value):
        value = 3
    record["runs"][0][field] = value
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="damaged evidence"):
        evidence.read(folder)


# --- a kill between the writes ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a program wherever it is, as a signal would."""


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_evidence_is_the_old_or_the_new_whenever_the_process_is_killed(tmp_path, monkeypatch, at, replaces):
    first, old = made(9, seed=5, protocol="standard"), made(10)
    new = made(10, seed=3, eps="8/255" if replaces else "4/255")
    new[0]["dataset"] = old[0]["dataset"]
    for run, verdicts in (first, old):
        evidence.append(tmp_path, run, verdicts)
    writes, replace = [], os.replace

    def until(source, target):
        if len(writes) == at:
            raise Killed
        writes.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", until)
    expected = [first, old], [first, new] if replaces else [first, old, new]
    ended = False
    try:
        evidence.append(tmp_path, *new)
        ended = True
    except Killed:
        pass
    monkeypatch.undo()
    assert ended == (at >= (3 if replaces else 2))
    found = list(zip(*evidence.read(tmp_path), strict=True))
    for run, verdicts in found:
        evidence.check(run, verdicts)
    wanted = expected[1] if at >= 2 else expected[0]
    assert [run for run, _ in found] == [run for run, _ in wanted]
    assert all(same(table, right) for (_, table), (_, right) in zip(found, wanted, strict=True))
    evidence.append(tmp_path, *new)  # what was begun can be done again
    found = list(zip(*evidence.read(tmp_path), strict=True))
    assert [run for run, _ in found] == [run for run, _ in expected[1]]
    assert all(same(table, right) for (_, table), (_, right) in zip(found, expected[1], strict=True))


def test_tables_that_no_run_names_are_not_kept(tmp_path):
    old, new = made(10), made(10, seed=3)
    new[0]["dataset"] = old[0]["dataset"]
    evidence.append(tmp_path, *old)
    before = keys(tmp_path)
    evidence.append(tmp_path, *new)
    assert len(before) == len(keys(tmp_path)) == 1
    assert before != keys(tmp_path)


# --- choice -----------------------------------------------------------------------------------------------------------


def test_the_strongest_run_speaks_for_a_subject_and_threat():
    quick, large, standard, l2, onnx = (
        made(n, protocol=protocol, norm=norm, subject={"kind": kind, "file": None, "sha256": "0"})[0]
        for n, protocol, norm, kind in [
            (10, "quick", "linf", "torch"),
            (50, "quick", "linf", "torch"),
            (20, "standard", "linf", "torch"),
            (10, "quick", "l2", "torch"),
            (10, "quick", "linf", "onnx"),
        ]
    )
    for order in ([quick, large, standard, l2, onnx], [onnx, standard, l2, large, quick]):
        assert sorted(map(str, evidence.strongest(order))) == sorted(map(str, [standard, l2, onnx]))
    assert evidence.strongest([large, quick]) == evidence.strongest([quick, large]) == [large]


# --- data sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "name", "source"),
    [
        ({"name": "digits"}, "digits", "digits"),
        ({"name": "digits@16", "image_size": [16, 16]}, "digits", "digits"),
        ({"name": "tiny-imagenet@32x48", "image_size": [32, 48]}, "tiny-imagenet", "tiny-imagenet"),
        ({"name": "flowers"}, "flowers", "flowers.npz"),  # written before there were kinds
        ({"name": "flowers@16", "kind": "npz", "image_size": [16, 16]}, "flowers", "flowers.npz"),
        ({"name": "flowers@16", "kind": "npz"}, "flowers@16", "flowers@16.npz"),
        ({"name": "flowers@16", "kind": "folder", "image_size": [16, 16]}, "flowers", "flowers"),
        ({"name": "digits", "kind": "npz"}, "digits", "digits.npz"),
        ({"name": "digits", "kind": "folder"}, "digits", "./digits"),
        ({"name": None}, None, None),
        ({}, None, None),
    ],
)
def test_a_record_says_which_data_to_give(dataset, name, source):
    assert evidence.base_name(dataset) == name
    assert evidence.data_source(dataset) == source


@pytest.mark.parametrize("size", [16, "16", [16], [16, 16, 16], [16, 16.0], [True, True], None, {}])
def test_sizes_of_images_that_are_none_are_damage(tmp_path, size):
    run, verdicts = made()
    run["dataset"]["image_size"] = size
    evidence.append(tmp_path, run, verdicts)
    with pytest.raises(DataError, match=r"damaged evidence.*image_size is"):
        evidence.read(tmp_path)


def test_a_run_on_images_of_another_size_is_another(tmp_path):
    resized = {"name": "digits@16", "split": "test", "image_size": [16, 16], "images_sha256": "00"}
    for changes in ({}, {"dataset": resized}, {"dataset": resized}):
        evidence.append(tmp_path, *made(**changes))
    runs, _ = evidence.read(tmp_path)
    assert [run["dataset"].get("image_size") for run in runs] == [None, [16, 16]]
    assert len(evidence.strongest(runs)) == 2
