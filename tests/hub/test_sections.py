"""What cards show beyond the evidence: limits, classes, curve, clean twin, cost."""

import json
import shutil

import numpy as np
import pytest

from rnas_zoo import resources
from rnas_zoo.errors import CheckFailedError, DataError, UsageError
from rnas_zoo.hub import card, sections, twin
from rnas_zoo.verification import evidence


@pytest.fixture
def folder(release, tmp_path):
    return shutil.copytree(release, tmp_path / "copy")


def change_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_clean(folder):
    """Turn a release folder's papers into those of a clean twin."""
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('objective = "pgd"', 'objective = "clean"'))
    change_json(folder / "config.json", lambda value: value["rnas_zoo"].update(name="rnas_cells.clean_digits"))


def test_the_card_has_every_number_of_limits_json(release):
    text = (release / "README.md").read_text(encoding="utf-8")
    found = json.loads((release / "limits.json").read_text(encoding="utf-8"))
    part = text.partition("## What it is not robust to")[2].partition("\n## ")[0]
    assert len(found["rows"]) == part.count("\n| ") - 2
    for row in found["rows"]:
        assert f"| {100 * row['accuracy']:.1f} % | {100 * row['interval'][0]:.1f} % to " in part
    assert "L2 0.5 (protocol `quick`)" in part
    assert "L∞ 24/255" in part
    assert found["n"] == 40
    worst = min(row["accuracy"] for row in found["rows"] if row["kind"] == "attack")
    assert f"it is {100 * worst:.1f} %; without any adversary" in part


def test_classes_add_up_to_the_run_shown(release):
    shown = evidence.strongest(evidence.read(release)[0])
    found = sections.classes_section(release, shown)
    for key, stated in (("clean", "clean_accuracy"), ("robust", "robust_accuracy")):
        total = sum(row["n"] * row[key] for _, row in found["rows"])
        assert total / 40 == pytest.approx(shown[0][stated])
    assert (release / "figures" / "classes.png").read_bytes().startswith(b"\x89PNG")
    text = (release / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {row['n']} | " in text for name, row in found["rows"])


def test_of_many_classes_the_weakest_and_strongest_are_shown(folder, monkeypatch):
    monkeypatch.setattr(sections, "SHOWN_CLASSES", 4)
    shown = evidence.strongest(evidence.read(folder)[0])
    found = sections.classes_section(folder, shown)
    monkeypatch.setattr(sections, "SHOWN_CLASSES", 20)
    robust = sorted(row["robust"] for _, row in sections.classes_section(folder, shown)["rows"])
    assert [row["robust"] for _, row in found["rows"]] == robust[:2] + robust[-2:]
    assert not found["every"]


def test_verdicts_on_other_data_are_not_split_by_these_labels(folder):
    with np.load(folder / "labels.npz") as file:
        np.savez(folder / "labels.npz", labels=file["labels"], dataset=np.array("svhn"))
    assert sections.classes_section(folder, evidence.strongest(evidence.read(folder)[0])) is None


def test_the_curve_s_points_are_in_the_card(release):
    points = next(iter(json.loads((release / "figures" / "curve.json").read_text()).values()))
    text = (release / "README.md").read_text(encoding="utf-8")
    for eps, accuracy in points:
        assert f"| {round(eps * 255)}/255 | {100 * accuracy:.1f} % | " in text
    assert "first 40 images" in text


def test_the_cost_of_training_is_the_run_s(release, trained_run):
    found = json.loads((release / "training.json").read_text())
    run = json.loads((trained_run / "run.json").read_text())
    assert found["seconds"] == run["seconds"]
    assert found["steps"] == 40
    assert found["threads"] == run["torch_threads"]
    assert found["cpu_seconds"] == run["cpu_seconds"] > 0
    took = f"That took {run['seconds'] / 60:.1f} minutes ({run['cpu_seconds'] / 60:.1f} CPU minutes) on a CPU"
    assert took in (release / "README.md").read_text()


def test_a_pause_does_not_count_as_training():
    known = {"device": "cpu", "threads": 1, "processes": 1, "seconds": 7200.0}
    assert sections.training_time({**known, "cpu_seconds": 3600.0}) == "60.0 CPU min, a CPU (1 thread)"
    assert sections.training_time(known) == "120.0 min, a CPU (1 thread)"
    on_gpu = {**known, "device": "NVIDIA H200", "cpu_seconds": 60.0}
    assert sections.training_time(on_gpu) == "120.0 min, NVIDIA H200"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "a CPU (2 threads)"),
        ({"threads": 1}, "a CPU (1 thread)"),
        ({"threads": None}, "a CPU"),
        ({"device": "NVIDIA H200", "threads": 16}, "NVIDIA H200"),
        ({"device": "NVIDIA H200", "processes": 4}, "4 × NVIDIA H200"),
    ],
)
def test_machines_in_words(changes, words):
    assert sections.hardware({"device": "cpu", "threads": 2, "processes": 1, **changes}) == words


def test_a_clean_twin_s_numbers_stand_beside(folder, release, tmp_path):
    clean = shutil.copytree(release, tmp_path / "clean")
    make_clean(clean)
    change_json(clean / "figures" / "curve.json", lambda value: next(iter(value.values()))[2].__setitem__(1, 0.123))
    twin.attach(folder, clean)
    shutil.rmtree(clean)
    card.write(folder)
    card.check(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    config = json.loads((release / "config.json").read_text())
    digest = config["pretrained_cfg"]["notes"][0].partition(":")[2]
    assert f"standard training, `rnas_cells.clean_digits` (tensors `{digest[:12]}`)" in text
    assert any(line.startswith("| 8/255 |") and line.endswith("| 12.3 % |") for line in text.splitlines())


def test_a_clean_twin_s_robust_accuracy_stands_in_the_second_sentence(tmp_path):
    cards = resources.folder("model_cards")
    folder = shutil.copytree(cards / "rnas_cl_s3.nfgsm_cifar10_linf8", tmp_path / "copy")
    twin.attach(folder, cards / "rnas_cl_s3.clean_cifar10")
    assert json.loads((folder / "twin.json").read_text())["robust"][0]["eps"] == "8/255"
    run = evidence.strongest(evidence.read(folder)[0])[0]
    clause = sections.twin_clause(folder, run)
    assert clause == "; its clean twin `rnas_cl_s3.clean_cifar10`: 87.8 % and 0.0 %"
    assert f"AutoAttack (protocol `standard`) with L∞ 8/255{clause}." in card.render(folder)
    assert sections.twin_clause(folder, {**run, "eps": "3/255"}) == clause.removesuffix(" and 0.0 %")
    other = {**run, "protocol": "full", "n": 10}
    assert sections.twin_clause(folder, other).endswith(
        ": 87.8 % (1,000 images) and 0.0 % (protocol `standard`, 1,000 images)"
    )
    change_json(folder / "twin.json", lambda value: value.pop("robust"))
    assert sections.twin_clause(folder, run) == clause.removesuffix(" and 0.0 %")
    (folder / "twin.json").unlink()
    assert sections.twin_clause(folder, run) == ""


def test_curves_measured_otherwise_are_not_compared(folder, release, tmp_path):
    clean = shutil.copytree(release, tmp_path / "clean")
    make_clean(clean)
    change_json(clean / "limits.json", lambda value: value["curve"].update(n=39))
    twin.attach(folder, clean)
    assert sections.curve_section(folder)["twin"] is None
    assert "clean_digits" in card.render(folder)


def test_a_clean_twin_is_found_among_the_bundled_ones(folder, release, tmp_path, monkeypatch):
    clean = shutil.copytree(release, tmp_path / "clean")
    monkeypatch.setattr(twin, "bundled_releases", lambda: {"one": release, "two": clean})
    assert twin.find(folder) is None
    make_clean(clean)
    assert twin.find(folder) == clean
    assert twin.find(clean) is None
    change_json(clean / "config.json", lambda value: value["model_args"]["genotype"].update(name="renamed"))
    assert twin.find(folder) == clean
    change_json(clean / "config.json", lambda value: value["model_args"].update(channels=5))
    assert twin.find(folder) is None
    with pytest.raises(UsageError, match="no clean twin"):
        twin.attach(folder, clean)
    with pytest.raises(UsageError, match="not a release folder"):
        twin.attach(folder, tmp_path)


def test_releases_without_these_files_still_render(folder):
    for name in ("limits.json", "labels.npz", "training.json"):
        (folder / name).unlink()
    text = card.render(folder)
    for words in ("not robust to", "By class", "That took", "curve's points"):
        assert words not in text
    assert "not for other norms" in text


def test_limits_of_other_weights_fail_the_check_and_damaged_ones_are_named(folder):
    change_json(folder / "limits.json", lambda value: value["subject"].update(sha256="0" * 64))
    with pytest.raises(CheckFailedError, match="measured on other weights"):
        card.check(folder)
    (folder / "limits.json").write_text("{")
    with pytest.raises(DataError, match=r"limits\.json: damaged"):
        card.render(folder)


@pytest.mark.parametrize(
    ("in_float", "said", "unsaid"),
    [
        ("nothing", "the same network in 8 bits, 0.31 times", "float32"),
        ("activations", "with its weights in 8 bits and everything else in float32, 0.31 times", "identity"),
    ],
)
def test_the_card_says_what_of_an_int8_file_is_rounded(tmp_path, in_float, said, unsaid):
    accuracy = {"clean": 0.689, "robust": 0.356}
    report = {
        "file": "model.int8.onnx", "bytes": 31, "float_bytes": 100, "kept": True, "setting": {"in_float": in_float},
        "latency": {"int8": {"1": {"p50": 2.0}}, "float32": {"1": {"p50": 1.0}}, "threads": 2},
        "accuracy": {"model": accuracy, "int8": {"clean": 0.691, "robust": 0.352}, "threat": "L∞ 8/255",
                     "protocol": "fast", "n": 1000},
    }  # fmt: skip
    text = sections.int8_section(tmp_path, {"file": "model.onnx", "int8": report})
    assert said in text
    assert unsaid not in text
    for part in ("68.9 % became 69.1 %", "35.6 % became 35.2 %", "2.0 times the time", "2 CPU threads", "Square"):
        assert part in text
    assert sections.int8_section(tmp_path, {"file": "model.onnx"}) == ""
