"""Cards whose claims are tested again: honest ones are reproduced, and every way to cheat is named."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn

from rnas_zoo import data
from rnas_zoo.cli import run
from rnas_zoo.files import sha256_file
from rnas_zoo.hub import card, reverify
from rnas_zoo.models.weights import tensor_digest
from rnas_zoo.testing.hub import LocalHub
from rnas_zoo.verification import claims, evidence

from .publishing import use
from .tiny import NAME, SIZE, measure, pack, record, release, trained


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained(0, 200)


@pytest.fixture(scope="module")
def other() -> nn.Module:
    return trained(1, 100)


@pytest.fixture(scope="module")
def sound(network, tmp_path_factory) -> Path:
    """A release with evidence by `quick` on 64 images and its card; tests change copies."""
    folder = release(tmp_path_factory.mktemp("sound") / NAME, network)
    report = measure(folder, "quick", 64)
    assert report.clean_accuracy > 0.7
    assert (report.verdicts["broken_by"] != "").sum() > 10
    pack(folder, network, report)
    record(folder, report.run, report.verdicts)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "release"))


@pytest.fixture
def against_card(capfd):
    """Runs `rnas-zoo verify REF --against-card --json`; returns the exit code and the claim's fate."""

    def invoke(ref: object, *options: object) -> tuple[int, dict[str, Any]]:
        code = run(["verify", str(ref), "--against-card", "--json", "--device", "cpu", *map(str, options)])
        out, err = capfd.readouterr()
        assert out.count("\n") == 1, err
        return code, json.loads(out)["claim"]

    return invoke


@pytest.fixture
def no_attack(monkeypatch) -> None:
    def refuse(*arguments, **options):
        raise AssertionError("attacked although the files say enough")

    monkeypatch.setattr("rnas_zoo.verification.request.verify", refuse)


# --- honest releases --------------------------------------------------------------------------------------------------


def test_an_honest_card_is_reproduced_and_a_weaker_attack_refutes_nothing(against_card, folder):
    assert reverify.examine(folder) == reverify.Findings()
    code, claim = against_card(folder)
    assert (code, claim["verdict"], claim["reasons"]) == (0, "reproduced", [])
    code, claim = against_card(folder, "--n", 8)
    assert (code, claim["verdict"]) == (0, "not refuted")
    assert "56 of the claim's 64 images are left out" in claim["reasons"]


def test_a_release_on_the_hub_is_tested_as_its_folder_is(against_card, folder, tmp_path, monkeypatch):
    with LocalHub(tmp_path / "hub") as hub:
        use(hub, tmp_path, monkeypatch)
        api = HfApi(endpoint=hub.url, token=hub.token)
        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
            api.create_repo("owner/tiny")
            honest = api.upload_folder(repo_id="owner/tiny", folder_path=folder).oid
            raise_on_card(folder)
            api.upload_folder(repo_id="owner/tiny", folder_path=folder)
        code, claim = against_card(f"hf-hub:owner/tiny@{honest}")
        assert (code, claim["verdict"]) == (0, "reproduced")
        code, claim = against_card("hf-hub:owner/tiny")
        assert (code, claim["verdict"]) == (1, "refuted")
        assert "is not what the evidence says" in claim["reasons"][0]


def test_a_folder_without_a_card_is_judged_by_its_evidence(against_card, folder):
    (folder / "README.md").unlink()
    (note,) = reverify.examine(folder).notes
    assert "has no README.md" in note
    assert against_card(folder)[1]["verdict"] == "reproduced"


def rewrite_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def of_another_release(folder: Path) -> None:
    """The same folder as if another release of the package had measured it and worded its card."""
    rewrite_json(folder / "robustness.json", lambda value: value["runs"][0]["versions"].update(rnas_zoo="0.0.9"))
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text + "\nClean accuracy under the old heading: 12.3 %.\n")


def test_the_wording_of_another_release_refutes_nothing_but_its_stated_figures_do(against_card, folder):
    of_another_release(folder)
    found = reverify.examine(folder)
    assert found.problems == []
    assert "written by rnas_zoo 0.0.9" in found.notes[0]
    assert found.notes[0].endswith("figures of it that are not among ours: 12.3 %")
    assert against_card(folder)[1]["verdict"] == "reproduced"
    true = evidence.read(folder)[0][0]["robust_accuracy"]
    text = (folder / "README.md").read_text()
    assert f"value: {round(true, 4)}" in text
    (folder / "README.md").write_text(text.replace(f"value: {round(true, 4)}", "value: 0.9876"))
    assert reverify.examine(folder).problems == [
        "the front matter of README.md states 0.9876, which the evidence does not"
    ]


# --- files that are not what they say: nothing needs to be attacked ---------------------------------------------------


def raise_on_card(folder: Path, *_: Any) -> None:
    """The robust accuracy of the card, five points higher, by hand."""
    true = 100 * evidence.read(folder)[0][0]["robust_accuracy"]
    text = (folder / "README.md").read_text()
    assert f"{true:.1f} %" in text
    (folder / "README.md").write_text(text.replace(f"{true:.1f} %", f"{true + 5:.1f} %"))


def change_weights(folder: Path, *_: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.fc.weight"][3] += 0.1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def forge_checksums(folder: Path) -> None:
    """Every checksum becomes that of the files at hand, and the card follows."""
    digest = tensor_digest(load_file(folder / "model.safetensors"))
    rewrite_json(folder / "config.json", lambda v: v["pretrained_cfg"].update(notes=[f"tensors-sha256:{digest}"]))
    rewrite_json(folder / "export.json", lambda v: v.update(sha256=sha256_file(folder / "model.onnx")))
    sha256 = sha256_file(folder / "model.safetensors")
    rewrite_json(folder / "robustness.json", lambda v: [each["subject"].update(sha256=sha256) for each in v["runs"]])
    card.write(folder)


def change_weights_and_checksums(folder: Path, *_: Any) -> None:
    change_weights(folder)
    forge_checksums(folder)


def swap_onnx(folder: Path, other: nn.Module) -> None:
    model = onnx.load(folder / "model.onnx")
    weights = {name: tensor.numpy() for name, tensor in other.state_dict().items()}
    (head,) = (t for t in model.graph.initializer if list(t.dims) in ([10, 12], [12, 10]))
    wanted = weights["head.fc.weight"]
    head.raw_data = (wanted if list(head.dims) == [10, 12] else wanted.T).astype(np.float32).tobytes()
    onnx.save(model, folder / "model.onnx")


def swap_onnx_and_checksums(folder: Path, other: nn.Module) -> None:
    swap_onnx(folder, other)
    forge_checksums(folder)


def evidence_of_other_weights(folder: Path, other: nn.Module) -> None:
    report = measure(other, "quick", 64)
    subject = {"kind": "torch", "file": "model.safetensors", "sha256": "0" * 64}
    record(folder, {**report.run, "subject": subject}, report.verdicts)


def change_pack(name: str):
    def change(folder: Path, *_: Any) -> None:
        with np.load(folder / "check.npz") as check:
            arrays = {key: check[key].copy() for key in check.files}
        arrays[name][5, 2] += 1
        np.savez_compressed(folder / "check.npz", **arrays)

    return change


def change_number(folder: Path, *_: Any) -> None:
    rewrite_json(folder / "robustness.json", lambda value: value["runs"][0].update(robust_accuracy=0.99))
    (folder / "README.md").write_text(card.render(folder))


def change_attack(folder: Path, *_: Any) -> None:
    rewrite_json(folder / "robustness.json", lambda value: value["runs"][0]["attacks"]["fgsm"].update(broken=0))
    (folder / "README.md").write_text(card.render(folder))


def change_record(folder: Path, *_: Any) -> None:
    with np.load(folder / "verdicts.npz") as tables:
        arrays = {key: tables[key].copy() for key in tables.files}
    (name,) = (key for key in arrays if key.endswith("broken_by"))
    arrays[name][:] = ""
    np.savez_compressed(folder / "verdicts.npz", **arrays)


def hide_broken_images(folder: Path, *_: Any) -> None:
    """Records that call every image robust, totals and card that follow; the adversarial images stay."""
    (own,), (table,) = evidence.read(folder)
    record(folder, *raised(own, table, int((table["broken_by"] != "").sum())))


CHEATS = {
    "weights": (change_weights, "model.safetensors holds other tensors: digest"),
    "weights and checksums": (change_weights_and_checksums, r"the network differs by .* from check\.npz"),
    "card": (raise_on_card, r"README\.md: line \d+ is not what the evidence says"),
    "onnx file": (swap_onnx, r"model\.onnx is not the file of export\.json"),
    "onnx file and checksums": (swap_onnx_and_checksums, r"model\.onnx differs by .* from the network"),
    "evidence of other weights": (evidence_of_other_weights, "model.safetensors is not the file of robustness.json"),
    "golden logits": (change_pack("logits"), r"the network differs by 1 from check\.npz"),
    "adversarial logits": (change_pack("adversarial_logits"), r"by 1 from check\.npz on its adversarial images"),
    "a number": (change_number, "does not add up: robust_accuracy is stated as 0.99"),
    "an attack's total": (change_attack, "fgsm is stated to break 0 images, its 64 records say at least"),
    "records against their images": (hide_broken_images, "claimed robust are broken by their twins in check.npz"),
}


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize("case", CHEATS)
def test_cheating_is_caught_by_the_files_alone(against_card, folder, other, case):
    cheat, reason = CHEATS[case]
    cheat(folder, other)
    code, claim = against_card(folder)
    assert (code, claim["verdict"]) == (1, "refuted")
    assert any(re.search(reason, each) for each in claim["reasons"]), claim["reasons"]
    assert claim["text"].startswith("Refuted without a verification: ")


def test_verdicts_that_are_not_those_that_were_written_are_damaged_evidence(folder, capfd):
    change_record(folder)
    assert run(["verify", str(folder), "--against-card"]) == 2
    assert "a table of verdicts is not the one that was written" in capfd.readouterr().err


# --- claims that only an attack refutes -------------------------------------------------------------------------------


def raised(run: dict[str, Any], table: dict[str, np.ndarray], count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record and its verdicts in which the first `count` broken images are robust, and every total follows."""
    table = {key: value.copy() for key, value in table.items()}
    rows = np.flatnonzero(table["broken_by"] != "")[:count]
    attacks = {name: dict(totals) for name, totals in run["attacks"].items()}
    for name in table["broken_by"][rows]:
        attacks[str(name)]["broken"] -= 1
    for key, value in (("broken_by", ""), ("route", ""), ("step", -1), ("margin", 0.5)):
        table[key][rows] = value
    robust = round(run["robust_accuracy"] * run["n"]) + len(rows)
    exact = stats.binomtest(robust, run["n"]).proportion_ci(method="exact")
    interval = [float(exact.low), float(exact.high)]
    return {**run, "attacks": attacks, "robust_accuracy": robust / run["n"], "interval": interval}, table


def test_evidence_of_other_weights_with_our_checksums_disagrees_on_clean_images(against_card, folder, other):
    evidence_of_other_weights(folder, other)
    forge_checksums(folder)
    (folder / "check.npz").unlink()
    card.write(folder)
    code, claim = against_card(folder)
    assert (code, claim["verdict"]) == (1, "refuted")
    assert any("clean verdicts disagree" in reason for reason in claim["reasons"])


@pytest.mark.usefixtures("short_protocols")
def test_five_points_more_with_records_that_agree_are_refuted_image_by_image(against_card, folder, network):
    """The forger changes all that this package writes: records, totals, intervals, adversarial images, logits, card."""
    honest = measure(folder, "standard", 256)
    assert 0.2 < honest.robust_accuracy < 0.8
    forged, table = raised(honest.run, honest.verdicts, 13)
    assert forged["robust_accuracy"] == pytest.approx(honest.robust_accuracy + 13 / 256)
    same = claims.compare(honest.run, honest.verdicts, honest.run, honest.verdicts)
    assert same.verdict == "reproduced"
    by_interval = claims.compare_number(forged["robust_accuracy"], honest.run)
    assert by_interval.verdict == "not refuted", "an interval of six points cannot tell"

    changed = np.flatnonzero((honest.verdicts["broken_by"] != "") & (table["broken_by"] == ""))
    assert len(changed) == 13
    x_adv = honest.x_adv.copy()
    x_adv[changed] = data.to_pixels(data.load("digits", SIZE).test.images[changed]).numpy()
    pack(folder, network, replace(honest, x_adv=x_adv))
    record(folder, forged, table)
    assert reverify.examine(folder) == reverify.Findings(), "the folder agrees with itself"

    code, claim = against_card(folder, "--protocol", "standard")
    assert (code, claim["verdict"]) == (1, "refuted")
    assert claim["reasons"] == ["13 images claimed robust are broken, at most 1 of 256 may be"]
    assert claim["positions"] == changed.tolist()
