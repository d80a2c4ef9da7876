"""int8 files: attacked with and without their rounding and by Square, judged by the session alone."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from rnas_zoo import subject_onnx
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import CheckpointError, DataError
from rnas_zoo.reference import subject
from rnas_zoo.verification import driver, evidence, store
from rnas_zoo.verification.folder_check import check_files
from rnas_zoo.verification.request import Request
from rnas_zoo.verification.run import Report
from rnas_zoo.verification.run import verify as full_verify

SIZE, PIXELS = 8, 192
EPS = 8 / 255
verify = partial(full_verify, threat=Threat("linf", "8/255"), protocol="quick", device="cpu", checks=False)

SIGNS = np.where(np.random.default_rng(0).random(PIXELS) < 0.5, -1, 1).astype(np.float32)
SIGNS[np.argsort(SIGNS, kind="stable")[: PIXELS // 2]] = -1
EVEN = np.ones(PIXELS, np.float32)


def planted(
    path: Path, direction: np.ndarray, scale: float, *, steps: bool = False, rounding: bool = True, gain: float = 1.0
) -> Path:
    """Two logits, s and -s: s is the sum of what the pixels are above 0.5, each times its direction, and then `gain`.

    Args:
        scale: of the uint8 numbers that the logits are rounded to, from -128 to 127 of it; beyond, nothing changes.
        steps: whole numbers already before, by an operator without any gradient.
    """
    weight = np.stack([direction, -direction]) * np.float32(gain)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["sums"], transB=1),
        helper.make_node("Round" if steps else "Identity", ["sums"], ["free"]),
        helper.make_node("QuantizeLinear", ["free", "scale", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["logits"]),
    ]
    if not rounding:
        nodes[2:] = [helper.make_node("Round" if steps else "Identity", ["sums"], ["logits"])]
    values = {
        "weight": weight,
        "bias": -weight.sum(1) / 2,
        "scale": np.array(scale, np.float32),
        "zero": np.array(128, np.uint8),
    }
    made = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def images(direction: np.ndarray, *distances: float, each: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 3, 8, 8) whose pixels lie by a distance on the side of their class, labels, and the distances."""
    distance = np.repeat(np.array(distances, np.float32), each)
    labels = np.arange(len(distance)) % 2
    sides = np.where(labels == 0, 1, -1)[:, None] * distance[:, None]
    return (0.5 + sides * direction).reshape(-1, 3, SIZE, SIZE).astype(np.float32), labels, distance


NEAR, MIDDLE, FAR = 0.006, 0.025, 0.05  # within the range; beyond the range, but not beyond eps; beyond eps
SATURATES = 1.92 / 128  # at a distance of 0.01


@pytest.fixture(scope="module")
def saturated(tmp_path_factory) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """A file whose logits no small step changes on most images, and such images; the last two are labelled wrong."""
    path = planted(tmp_path_factory.mktemp("planted") / "saturated.onnx", SIGNS, SATURATES)
    x, y, distance = images(SIGNS, NEAR, MIDDLE, FAR)
    y[-2:] = 1 - y[-2:]
    return path, x, y, distance


@pytest.fixture(scope="module")
def report(saturated) -> Report:
    path, x, y, _ = saturated
    return verify(path, x, y, checks=True)


def test_what_only_the_network_without_rounding_breaks_is_broken(report, saturated):
    _, _, _, distance = saturated
    table = report.verdicts
    right = np.arange(len(distance)) < len(distance) - 2
    assert table["clean_correct"].tolist() == right.tolist()
    assert set(table["route"][distance == np.float32(NEAR)]) == {"twin"}
    assert set(table["broken_by"][distance == np.float32(NEAR)]) == {"fgsm"}
    assert set(table["route"][distance == np.float32(MIDDLE)]) == {"float twin"}
    assert set(table["broken_by"][distance == np.float32(MIDDLE)]) <= {"fgsm-fp", "pgd20-fp"}
    robust = evidence.standing(table)
    assert robust.tolist() == (right & (distance > EPS)).tolist()
    assert report.robust_accuracy == robust.mean() == 4 / 18
    totals = report.run["attacks"]
    assert list(totals) == ["noise", "fgsm", "fgsm-fp", "pgd20", "pgd20-fp", "square"]
    assert {name: total["broken"] for name, total in totals.items()} == {
        "noise": 0, "fgsm": 6, "fgsm-fp": 12, "pgd20": 6, "pgd20-fp": 12, "square": totals["square"]["broken"],
    }  # fmt: skip
    assert totals["square"]["broken"] <= 6
    assert totals["pgd20"]["passes"] == totals["pgd20-fp"]["passes"] == 18 * 41


def test_every_image_said_to_be_broken_is_misjudged_by_the_session_within_eps(report, saturated):
    path, x, y, _ = saturated
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": report.x_adv})[0].argmax(1)
    broken = report.verdicts["broken_by"] != ""
    assert (found[broken] != y[broken]).all()
    assert np.abs(report.x_adv - x).max() <= EPS + 1e-6
    np.testing.assert_array_equal(found, report.predictions[1])


def test_the_record_is_of_kind_int8_and_says_what_ran(report, saturated, tmp_path):
    run = report.run
    assert run["subject"] == {"kind": "int8", "file": "saturated.onnx", "sha256": subject(saturated[0]).sha256}
    assert list(run["params"]) == list(run["attacks"])
    assert run["params"]["pgd20-fp"] == run["params"]["pgd20"]
    assert run["params"]["pgd20"]["steps"] == 20
    assert run["params"]["square"]["queries"] == 500
    assert any(text.startswith("zero-gradients") for text in run["flags"]), "the network with rounding has none"
    evidence.append(tmp_path, run, report.verdicts)
    runs, tables = evidence.read(tmp_path)
    evidence.check(runs[0], tables[0])
    np.testing.assert_array_equal(tables[0]["route"], report.verdicts["route"])


def test_the_same_graph_without_rounding_is_attacked_as_ever(saturated, tmp_path):
    _, x, y, _ = saturated
    report = verify(planted(tmp_path / "float.onnx", SIGNS, SATURATES, rounding=False), x, y)
    assert report.run["subject"]["kind"] == "onnx"
    assert list(report.run["attacks"]) == list(report.run["params"]) == ["noise", "fgsm", "pgd20"]
    assert set(report.verdicts["route"]) == {"", "twin"}
    assert report.robust_accuracy == 4 / 18


def test_what_only_square_breaks_is_broken_and_flagged(tmp_path):
    path = planted(tmp_path / "steps.onnx", EVEN, 1.0, steps=True, gain=100 / PIXELS)
    x, y, distance = images(EVEN, 0.012, 0.045)
    report = verify(path, x, y, checks=True)
    table = report.verdicts
    assert set(table["broken_by"][distance < EPS]) == {"square"}
    assert set(table["route"][distance < EPS]) == {"session"}
    assert evidence.standing(table).tolist() == (distance > EPS).tolist()
    assert any(text.startswith("black-box-wins") for text in report.run["flags"])


def test_under_fast_too_an_image_is_robust_only_if_nothing_breaks_it(saturated):
    path, x, y, distance = saturated
    report = verify(path, x, y, protocol="fast")
    assert list(report.run["attacks"]) == ["apgd-ce", "apgd-ce-fp", "halving-t", "halving-t-fp", "square"]
    assert set(report.verdicts["route"][distance == np.float32(MIDDLE)]) == {"float twin"}
    assert report.robust_accuracy == 4 / 18
    assert report.run["attacks"]["apgd-ce-fp"]["passes"] < report.run["attacks"]["apgd-ce"]["passes"], "of those left"


def test_given_images_and_those_of_another_model_are_judged_once(saturated, tmp_path, report):
    path, x, y, _ = saturated
    given = verify(path, x, y, adversarial=report.x_adv)
    assert (list(given.run["attacks"]), set(given.verdicts["route"])) == (["given"], {"", "given"})
    assert given.robust_accuracy == report.robust_accuracy
    source = planted(tmp_path / "float.onnx", SIGNS, SATURATES, rounding=False)
    transferred = verify(path, x, y, transfer_from=source)
    assert list(transferred.run["attacks"]) == ["mi-fgsm", "pgd20", "margin-pgd"]
    assert set(transferred.verdicts["route"]) == {"", "transfer"}
    assert transferred.robust_accuracy == 4 / 18


def of_nodes(path: Path, nodes: list[onnx.NodeProto]) -> Path:
    """The planted network written with other nodes around its weights."""
    model = onnx.load(planted(path, EVEN, 1.0, gain=100 / PIXELS))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def test_without_any_twin_the_session_is_asked(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["whole", "s", "z"]),
        helper.make_node("DequantizeLinear", ["whole", "s", "z"], ["coarse"]),
        helper.make_node("Gemm", ["coarse", "weight", "bias"], ["logits"], transB=1),
    ]
    path = of_nodes(tmp_path / "dynamic.onnx", nodes)
    x, y, distance = images(EVEN, 0.012, 0.045)
    report = verify(path, x, y, checks=True)
    assert report.run["subject"]["kind"] == "int8"
    assert list(report.run["attacks"]) == ["noise", "square"]
    assert evidence.standing(report.verdicts).tolist() == (distance > EPS).tolist()
    assert set(report.verdicts["route"]) == {"", "session"}
    assert any(text.startswith("score-only") for text in report.run["flags"])


def test_a_float_file_without_a_twin_is_asked_by_every_protocol(tmp_path):
    nodes = [
        helper.make_node("Shrink", ["image"], ["same"], lambd=0.0, bias=0.0),
        helper.make_node("Flatten", ["same"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
    ]
    path = of_nodes(tmp_path / "blind.onnx", nodes)
    x, y, distance = images(EVEN, 0.012, 0.045)
    for protocol, attacks in (("fast", ["square"]), ("quick", ["noise", "square"])):
        report = full_verify(path, x, y, threat=Threat("linf", EPS), protocol=protocol, device="cpu")
        assert report.run["subject"]["kind"] == "onnx"
        ran = [name for name, totals in report.run["attacks"].items() if totals["passes"]]
        assert ran == attacks
        assert evidence.standing(report.verdicts).tolist() == (distance > EPS).tolist()
        assert any(text.startswith("score-only") for text in report.run["flags"])


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 5, 9])
def test_a_run_stopped_between_the_two_networks_goes_on_where_it_was(saturated, report, tmp_path, monkeypatch, pieces):
    path, x, y, _ = saturated
    monkeypatch.setattr(driver, "BLOCK", 7)
    written: list[tuple[str, int]] = []
    real = store.Store.write

    def write(self, order: int, stage: str, part: store.Part) -> None:
        if len(written) == pieces:
            raise KeyboardInterrupt
        real(self, order, stage, part)
        written.append((stage, int(part["rows"][0])))

    monkeypatch.setattr(store.Store, "write", write)
    with pytest.raises(KeyboardInterrupt):
        verify(path, x, y, resume=tmp_path / "state")
    before, pieces = set(written), -1
    written.clear()
    again = verify(path, x, y, resume=tmp_path / "state")
    assert not before & set(written), "nothing is done twice"
    assert {stage for stage, _ in before | set(written)} == {"clean", *report.run["attacks"]}
    assert len(before | set(written)) == 3 * 7, "blocks of 7, 7 and 4 images"
    for key in ("clean_correct", "broken_by", "route", "step"):
        np.testing.assert_array_equal(again.verdicts[key], report.verdicts[key])
    assert again.run["attacks"] == report.run["attacks"]


def test_pieces_of_the_undoubled_protocol_do_not_fit(saturated, tmp_path, monkeypatch):
    path, x, y, _ = saturated
    with monkeypatch.context() as patch:
        patch.setattr(subject_onnx, "onnx_kind", lambda path: "onnx")
        assert verify(path, x, y, resume=tmp_path / "state").run["subject"]["kind"] == "onnx"
    with pytest.raises(CheckpointError, match="belongs to another verification: params is"):
        verify(path, x, y, resume=tmp_path / "state")


# --- claims -----------------------------------------------------------------------------------------------------------

NOTHING = dict.fromkeys(
    ("data", "image_size", "protocol", "norm", "eps", "n", "indices", "seed", "against", "claim", "transfer_from",
     "adversarial")
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(saturated, tmp_path_factory) -> Path:
    """A release folder with an int8 and a float file of the same data, and evidence about both; only to be read."""
    found = tmp_path_factory.mktemp("release")
    _, x, y, _ = saturated
    pixels = np.rint(x.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(found / "data.npz", x_train=pixels, y_train=y, x_test=pixels, y_test=y)
    planted(found / "model.int8.onnx", SIGNS, SATURATES)
    planted(found / "model.onnx", SIGNS, SATURATES, rounding=False)
    (found / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(1)}, found / "model.safetensors")
    for name, n in (("model.onnx", 18), ("model.int8.onnx", 15)):
        report = full_verify(
            found / name, data_name=str(found / "data.npz"), protocol="quick", n=n, device="cpu", checks=False
        )
        evidence.append(found, report.run, report.verdicts)
    return found


def against(folder: Path, file: str) -> Request:
    given = {**NOTHING, "data": str(folder / "data.npz"), "against_card": True, "save": False}
    return Request.make(str(folder / file), **given)


def test_an_int8_file_is_compared_with_the_int8_run_of_its_card(folder):
    request = against(folder, "model.int8.onnx")
    run, _ = request.claimed
    assert (run["subject"]["kind"], run["subject"]["file"], request.n) == ("int8", "model.int8.onnx", 15)
    assert against(folder, "model.onnx").claimed[0]["subject"]["kind"] == "onnx"
    assert request.declared == run["clean_accuracy"]
    report = request.verify(device="cpu")
    outcome = request.outcome(report)
    assert (outcome.verdict, outcome.reasons) == ("reproduced", [])
    assert set(request.routes(report)) <= {"twin", "float twin", "session"}
    assert request.routes(report)["float twin"] == 6


def test_another_int8_file_or_verdicts_too_good_refute_the_card(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    runs, tables = evidence.read(copy)
    (row,) = [row for row, run in enumerate(runs) if run["subject"]["kind"] == "int8"]
    table = {key: value.copy() for key, value in tables[row].items()}
    table["broken_by"][table["route"] == "float twin"] = ""  # as if nobody had forgotten the rounding
    robust = int(evidence.standing(table).sum())
    run = {**runs[row], "robust_accuracy": robust / 15, "interval": list(evidence.clopper_pearson(robust, 15))}
    evidence.append(copy, run, table)
    request = against(copy, "model.int8.onnx")
    outcome = request.outcome(request.verify(device="cpu"))
    assert outcome.verdict == "refuted"
    assert outcome.reasons == ["6 images claimed robust are broken, at most 1 of 15 may be"]
    planted(copy / "model.int8.onnx", SIGNS, SATURATES / 2)
    request = against(copy, "model.int8.onnx")
    reasons = request.outcome(request.verify(device="cpu")).reasons
    assert any("model.int8.onnx is not the file of robustness.json" in problem for problem in check_files(copy))
    assert any("the int8 file is not the claim's" in reason for reason in reasons)


def test_a_card_without_an_int8_run_has_no_claim_about_the_int8_file(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "robustness.json").unlink()
    (copy / "verdicts.npz").unlink()
    runs, tables = evidence.read(folder)
    for run, table in zip(runs, tables, strict=True):
        if run["subject"]["kind"] == "onnx":
            evidence.append(copy, run, table)
    with pytest.raises(DataError, match=r"no evidence about int8\. There is: onnx quick linf 8/255 n=18"):
        against(copy, "model.int8.onnx")
