"""`rnas-zoo verify` and the claims of a release: reproduced, not refuted or refuted, image by image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.hub import card, usage
from rnas_zoo.verification import claims, evidence
from rnas_zoo.verification.run import verify

from . import verifying
from .test_cli import refused

record, zoo = verifying.record, verifying.zoo  # fixtures


@pytest.fixture(scope="module")
def small(release, tmp_path_factory) -> Path:
    """The release with evidence on 16 images alone, about the weights, and without stored adversarial images."""
    folder = Path(shutil.copytree(release, tmp_path_factory.mktemp("small") / "small"))
    for name in ("model.onnx", "export.json", "check.npz", "robustness.json", "verdicts.npz"):
        (folder / name).unlink()
    report = verify(folder, data_name="digits", n=16, threat=Threat("linf", "16/255"), protocol="quick", device="cpu")
    evidence.append(folder, report.run, report.verdicts)
    card.write(folder)
    return folder


@pytest.fixture
def copy(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def rewrite(folder: Path, change) -> None:
    """Forge the torch evidence so that it still adds up, and the card: `change` edits its verdicts in place."""
    (own, *_), (table, *_) = evidence.read(folder)
    table = {key: value.copy() for key, value in table.items()}
    change(table)
    robust = int((table["clean_correct"] & (table["broken_by"] == "")).sum())
    own["clean_accuracy"], own["robust_accuracy"] = table["clean_correct"].mean(), robust / own["n"]
    own["interval"] = list(evidence.clopper_pearson(robust, own["n"]))
    for name in ("robustness.json", "verdicts.npz"):
        (folder / name).unlink()
    evidence.append(folder, own, table)
    card.write(folder)


@pytest.mark.parametrize("file", ["", "model.onnx"])
def test_the_same_protocol_reproduces_a_card(record, release, file):
    found = record(release / file, "--against-card")
    assert found["claim"]["verdict"] == "reproduced"
    assert found["claim"]["reasons"] == found["claim"]["positions"] == []
    stated = evidence.read(release)[0][1 if file else 0]
    for key in ("n", "norm", "eps", "protocol", "seed", "robust_accuracy", "clean_accuracy", "dataset", "subject"):
        assert found[key] == stated[key]


def test_a_saved_run_is_the_next_claim(record, zoo, copy):
    saved = record(copy, "--data", "digits", "--n", 18, "--eps", "8/255", "--protocol", "quick", "--save")
    assert [each["n"] for each in evidence.read(copy)[0]] == [16, 18]
    again = record(copy, "--against-card")
    assert again["claim"]["verdict"] == "reproduced"
    assert (again["protocol"], again["n"], again["eps"]) == ("quick", 18, "8/255")
    assert again["robust_accuracy"] == saved["robust_accuracy"]
    code, out, _ = zoo(copy, "--against-card", "--n", 9)
    assert code == 0
    assert "Not refuted: the claim is a robust accuracy of" in out
    assert "9 of the claim's 18 images are left out" in out


def test_quick_refutes_no_honest_card_of_a_stronger_protocol(record, copy):
    strong = verify(copy, data_name="digits", n=16, threat=Threat("linf", "16/255"), protocol="fast", device="cpu")
    evidence.append(copy, strong.run, strong.verdicts)
    card.write(copy)
    weaker = record(copy, "--against-card", "--protocol", "quick")
    assert weaker["claim"]["verdict"] == "not refuted"
    assert any("quick (weaker)" in reason for reason in weaker["claim"]["reasons"])
    assert weaker["robust_accuracy"] >= strong.robust_accuracy


def test_images_claimed_robust_that_break_refute_the_card_by_name(record, zoo, copy):
    hidden = []

    def hide(table):
        hidden.extend(np.flatnonzero(table["broken_by"] != "")[[0, 2, -1]].tolist())
        table["broken_by"][hidden] = ""

    rewrite(copy, hide)
    found = record(copy, "--against-card", code=1)
    assert found["claim"]["verdict"] == "refuted"
    assert found["claim"]["positions"] == hidden
    assert any("3 images claimed robust are broken" in reason for reason in found["claim"]["reasons"])
    code, out, _ = zoo(copy, "--against-card")
    assert code == 1
    assert out.rstrip().endswith("images: " + ", ".join(map(str, hidden)))


def test_a_false_clean_verdict_refutes_the_card(record, copy):
    row = []

    def lie(table):
        row.append(int(np.flatnonzero((table["broken_by"] == "") & (table["clean_margin"] > 0.01))[0]))
        table["clean_correct"][row] = False

    rewrite(copy, lie)
    found = record(copy, "--against-card", code=1)
    assert found["claim"]["positions"] == row


def test_numbers_that_do_not_add_up_refute_the_card(record, copy):
    path = copy / "robustness.json"
    value = json.loads(path.read_text())
    value["runs"][0]["robust_accuracy"] += 0.1
    path.write_text(json.dumps(value))
    found = record(copy, "--against-card", code=1)
    assert any("does not add up: robust_accuracy is stated as" in reason for reason in found["claim"]["reasons"])


def test_other_weights_refute_the_card(record, zoo, copy):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file({**tensors, name: tensors[name] * 1.5}, path, metadata={"format": "pt"})
    found = record(copy, "--against-card", code=1)
    assert found["claim"]["verdict"] == "refuted"
    assert any("holds other tensors: digest" in reason for reason in found["claim"]["reasons"])
    assert any("is not the file of robustness.json" in reason for reason in found["claim"]["reasons"])
    code, out, _ = zoo(copy, "--against-card")
    assert code == 1
    assert out.startswith("Refuted without a verification: model.safetensors")
    refused(zoo(copy, "--data", "digits"), "digest")
    path.write_bytes(path.read_bytes()[:1000])
    refused(zoo(copy, "--against-card"), "damaged", "Download it again")


def test_a_damaged_onnx_file_beside_the_weights_refutes_the_card(record, copy, release):
    import onnx

    model = onnx.load(release / "model.onnx")
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * 3).tobytes()
    onnx.save(model, copy / "model.onnx")
    shutil.copy(release / "export.json", copy)
    claim = record(copy, "--against-card", code=1)["claim"]
    assert any("model.onnx is not the file of" in reason for reason in claim["reasons"])


def trained(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small convolutional network trained for a moment, and 256 images on a few of which it is wrong."""
    x = torch.rand(256, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).long() + 2 * (x[:, 2, :3].mean((1, 2)) > 0.5).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval(), x, y


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_claim_is_never_refuted_by_a_weaker_protocol(seed):
    model, x, y = trained(seed)
    threat = Threat("linf", 0.02)
    for n in (64, 256):
        claim = verify(model, x, y, n=n, threat=threat, protocol="fast", device="cpu")
        assert 0.1 < claim.robust_accuracy < claim.clean_accuracy - 0.1
        for attack_seed in (0, 1):
            found = verify(model, x, y, n=n, threat=threat, protocol="quick", seed=attack_seed, device="cpu")
            outcome = claims.compare(claim.run, claim.verdicts, found.run, found.verdicts)
            assert outcome.verdict == "not refuted", outcome.text
            assert outcome.exit_code == 0


def test_a_file_of_claims_reproduces_like_the_card(record, small, tmp_path):
    found = record(small, "--against", small / "robustness.json")
    assert found["claim"]["verdict"] == "reproduced"
    shutil.copy(small / "robustness.json", tmp_path / "alone.json")
    alone = record(small, "--against", "alone.json", "--n", 16)
    assert alone["claim"]["verdict"] == "not refuted"
    assert alone["claim"]["reasons"] == ["the claim has no verdicts per image"]


def test_somebody_elses_images_can_refute_a_card(record, copy, tmp_path):
    def hide(table):
        table["broken_by"][:] = ""

    record(copy, "--against-card", "--save-adversarial", "a.npz")
    rewrite(copy, hide)
    found = record(copy, "--against-card", "--adversarial", "a.npz", code=1)
    assert found["protocol"] == "given"
    assert len(found["claim"]["positions"]) > 1


def test_images_are_brought_to_a_size_that_the_next_claim_takes_over(record, zoo, copy):
    size = ("--image-size", "16x24")
    saved = record(copy, "--data", "digits", *size, "--n", 17, "--protocol", "quick", "--save")
    test = data.load("digits", (16, 24)).test
    assert saved["dataset"] == {
        "name": "digits@16x24", "split": "test", "image_size": [16, 24],
        "images_sha256": data.images_hash([data.pixel_hash(image) for image in test.images[:17]]),
    }  # fmt: skip
    again = record(copy, "--against-card", "--eps", "8/255", "--n", 17)
    assert again["claim"]["verdict"] == "reproduced"
    assert again["dataset"] == saved["dataset"]
    command = "rnas-zoo verify FOLDER --data digits --image-size 16x24 --protocol quick --norm linf --eps 8/255 --n 17"
    runs = {run["dataset"]["name"]: run for run in evidence.read(copy)[0]}
    assert usage.verify_command(runs["digits@16x24"]) == f"{command} --seed 0"
    code, _, err = zoo(copy, "--data", "digits", "--image-size", "16x")
    assert code == 2
    assert "HEIGHTxWIDTH" in err
    _, out, _ = zoo(copy, "--data", "digits", *size, "--n", 4, "--protocol", "quick", "--eps", "0,1/255")
    assert "on 4 images of digits at 16x24, linf" in out
