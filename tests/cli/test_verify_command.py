"""`rnas-zoo verify`: numbers refuted or not, other models' images, curves; what is printed, kept and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.verification import claims, flags
from rnas_zoo.verification.run import verify

from . import verifying
from .test_cli import refused

record, zoo = verifying.record, verifying.zoo  # fixtures

LINEAR = """
import pathlib, torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, turn=0):
        super().__init__()
        self.layer = nn.Linear(192, 10)
        self.layer.load_state_dict(torch.load(pathlib.Path(__file__).with_name("linear.pt"), weights_only=True))
        self.turn = turn

    def forward(self, x):
        return self.layer(nn.functional.avg_pool2d(x.roll(self.turn, 1), 4).flatten(1))

def load():
    return Linear()

def bytes():
    class Bytes(Linear):
        def forward(self, x):
            return super().forward((x / 255 - 0.2) .clamp(-0.19, 0.8) + 0.2)
    return Bytes()

def other():
    model = Linear()
    model.layer.weight.data += 0.3 * torch.randn(10, 192, generator=torch.Generator().manual_seed(1))
    return model
"""


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> Path:
    """A Python file whose `load` gives a linear classifier of the digits fitted in closed form."""
    folder = tmp_path_factory.mktemp("linear")
    train = data.load("digits").train
    x = nn.functional.avg_pool2d(data.to_pixels(train.images), 4).flatten(1).double()
    x = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    target = nn.functional.one_hot(torch.from_numpy(train.labels), 10).double()
    found = 10 * torch.linalg.solve(x.T @ x + torch.eye(193), x.T @ target).T.float()
    torch.save({"weight": found[:, :-1].contiguous(), "bias": found[:, -1].contiguous()}, folder / "linear.pt")
    (folder / "models.py").write_text(LINEAR)
    return folder / "models.py"


# --- claims without verdicts ------------------------------------------------------------------------------------------


def test_a_number_is_refuted_only_above_the_whole_interval(record, linear, tmp_path):
    options = (f"{linear}:load", "--data", "digits", "--n", 40, "--eps", "4/255", "--protocol", "quick")
    plain = record(*options)
    low, high = plain["interval"]
    assert 0.05 < low < plain["robust_accuracy"] < high < 0.95
    for claim, code in ((high + 0.005, 1), (high - 0.005, 0), (plain["robust_accuracy"], 0), (low, 0), (0, 0), (1, 1)):
        found = record(*options, "--claim", claim, code=code)
        assert found["claim"]["verdict"] == ("refuted" if code else "not refuted")
        assert {key: found[key] for key in plain if key != "seconds"} == {
            key: plain[key] for key in plain if key != "seconds"
        }
        (tmp_path / "Linf").mkdir(exist_ok=True)
        info = {"dataset": "digits", "eps": "4/255", "clean_acc": "90.00", "autoattack_acc": f"{100 * claim:.2f}"}
        (tmp_path / "Linf" / "model.json").write_text(json.dumps(info))
        found = record(*options, "--against", "Linf/model.json", code=code)
        assert found["claim"]["verdict"] == ("refuted" if code else "not refuted")


def test_a_claim_about_something_else_is_refused(zoo, linear, tmp_path):
    ref = f"{linear}:load"
    for content, says in (({"dataset": "cifar10"}, "verify on cifar10"), ({"eps": "2/255"}, "use --eps 2/255")):
        info = {"dataset": "digits", "eps": "8/255", "autoattack_acc": "10.00", **content}
        (tmp_path / "model.json").write_text(json.dumps(info))
        options = ("--data", "digits", "--n", 8, "--eps", "8/255", "--protocol", "quick")
        refused(zoo(ref, *options, "--against", "model.json"), says)


def test_robustbench_form_is_one_object_that_reads_back(zoo, record, linear, tmp_path):
    options = (f"{linear}:load", "--data", "digits", "--n", 40, "--eps", "4/255", "--protocol", "quick")
    plain = record(*options)
    code, out, err = zoo(*options, "--format", "robustbench")
    assert code == 0, err
    info = json.loads(out)
    (tmp_path / "Linf").mkdir()
    (tmp_path / "Linf" / "model.json").write_text(out)
    (claim,) = claims.read_claim(tmp_path / "Linf" / "model.json").runs
    assert info["external"] == f"{100 * plain['robust_accuracy']:.2f}"
    assert "quick" in info["footnote"]
    for key in ("robust_accuracy", "clean_accuracy"):
        assert claim[key] == pytest.approx(plain[key], abs=1e-4)
    assert (claim["norm"], claim["eps"], claim["dataset"]["name"]) == ("linf", "4/255", "digits")
    found = record(f"{linear}:load", "--n", 40, "--protocol", "quick", "--against", "Linf/model.json")
    assert found["eps"] == "4/255"
    assert found["claim"]["verdict"] == "not refuted"


# --- other models, other people's images ------------------------------------------------------------------------------


@pytest.fixture
def options(linear) -> tuple:
    return (f"{linear}:load", "--data", "digits", "--n", 24, "--eps", "12/255")


def test_attacks_transfer_fully_from_the_model_itself_and_less_from_another(record, zoo, options, linear):
    own = record(*options, "--protocol", "quick")
    itself = record(*options, "--transfer-from", f"{linear}:load")
    other = record(*options, "--transfer-from", f"{linear}:other")
    for found in (itself, other):
        assert found["protocol"] == "transfer"
        assert found["clean_accuracy"] == own["clean_accuracy"]
        assert list(found["attacks"]) == ["mi-fgsm", "pgd20", "margin-pgd"]
    assert itself["source"]["sha256"] == itself["subject"]["sha256"] == own["subject"]["sha256"]
    assert other["source"]["sha256"] != other["subject"]["sha256"]
    assert own["source"] is None
    assert itself["robust_accuracy"] <= own["robust_accuracy"] < other["robust_accuracy"] < own["clean_accuracy"]
    _, out, _ = zoo(*options, "--transfer-from", f"{linear}:other")
    count = round((other["clean_accuracy"] - other["robust_accuracy"]) * 24)
    assert f"broken through the transfer: {count}" in out
    refused(zoo(*options, "--protocol", "transfer"), "--transfer-from REF")


def test_adversarial_images_are_written_and_judged_again(record, zoo, options, linear, tmp_path):
    own = record(*options, "--protocol", "quick", "--save-adversarial", "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert file["x_adv"].shape == (24, 3, 32, 32)
        assert file["position"].tolist() == list(range(24))
        x_adv = file["x_adv"]
    given = record(*options, "--adversarial", "a.npz")
    assert given["protocol"] == "given"
    assert given["robust_accuracy"] == own["robust_accuracy"] < own["clean_accuracy"] == given["clean_accuracy"]
    broken = round(24 * (own["clean_accuracy"] - own["robust_accuracy"]))
    assert given["attacks"]["given"]["broken"] == broken
    _, out, _ = zoo(*options, "--adversarial", "a.npz")
    assert "broken through the given: " in out
    fewer = record(*options[:3], "--n", 6, "--eps", "12/255", "--adversarial", "a.npz")
    first = record(*options[:3], "--n", 6, "--eps", "12/255", "--protocol", "quick")
    assert (fewer["n"], fewer["robust_accuracy"]) == (6, first["robust_accuracy"])
    smaller = record(*options[:5], "--eps", "6/255", "--adversarial", "a.npz")
    assert smaller["robust_accuracy"] > own["robust_accuracy"], "images outside of the ball break nothing"
    (tmp_path / "rows.txt").write_text("5 3")
    part = record(*options[:3], "--eps", "12/255", "--indices", "rows.txt", "--adversarial", "a.npz")
    pixels, labels = data.load("digits").test.images[[5, 3]], data.load("digits").test.labels[[5, 3]]
    expected = verify(_load(linear), pixels, labels, adversarial=x_adv[[5, 3]], threat=Threat("linf", "12/255"))
    assert part["robust_accuracy"] == expected.robust_accuracy
    assert part["dataset"]["images_sha256"] == expected.run["dataset"]["images_sha256"]


def _load(linear: Path) -> nn.Module:
    from rnas_zoo import load

    return load(f"{linear}:load")


def test_positions_choose_the_images(record, options, tmp_path):
    (tmp_path / "rows.txt").write_text("7, 2\n30")
    np.save(tmp_path / "rows.npy", np.array([7, 2, 30]))
    test = data.load("digits").test
    expected = data.images_hash([data.pixel_hash(image) for image in test.images[[7, 2, 30]]])
    for name in ("rows.txt", "rows.npy"):
        found = record(*options[:3], "--indices", name, "--protocol", "quick")
        assert (found["n"], found["dataset"]["images_sha256"]) == (3, expected)


# --- curves, resuming, output -----------------------------------------------------------------------------------------


def test_several_sizes_give_a_falling_curve(record, zoo, options):
    sizes = "0,4/255,12/255,24/255"
    found = record(*options[:5], "--eps", sizes, "--protocol", "quick")
    assert set(found) == {"norm", "protocol", "n", "curve"}
    eps, accuracies = zip(*found["curve"], strict=True)
    assert eps == pytest.approx([0, 4 / 255, 12 / 255, 24 / 255])
    assert list(accuracies) == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1] < 0.2
    single = record(*options, "--protocol", "quick")
    assert accuracies[0] == single["clean_accuracy"]
    assert accuracies[2] <= single["robust_accuracy"]
    code, out, _ = zoo(*options[:5], "--eps", sizes, "--protocol", "quick")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[3:]] == sizes.split(",")
    refused(zoo(*options[:5], "--eps", "8/255,2/255", "--protocol", "quick"), "must ascend")
    refused(zoo(*options[:5], "--eps", sizes, "--save-adversarial", "a.npz"), "a curve")


def test_a_curve_is_about_the_model_as_it_is_preprocessed(record, linear):
    ref = f"{linear}:bytes"
    right, wrong = (
        record(ref, "--data", "digits", "--n", 24, "--eps", "0,1/255", "--protocol", "quick", *more)["curve"][0][1]
        for more in (("--range", 255), ())
    )
    assert right > 0.8
    assert wrong < 0.4


def test_a_curve_counts_the_images_there_are(record, small_data, tmp_path):
    (tmp_path / "flat.py").write_text(
        "import torch\nfrom torch import nn\ndef load():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))\n"
    )
    found = record("flat.py:load", "--data", small_data, "--eps", "0,1/255", "--protocol", "quick")
    assert found["n"] == 24


def test_a_finished_verification_is_read_from_its_folder(record, zoo, options, tmp_path):
    first = record(*options, "--protocol", "quick", "--resume", "kept")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    again = record(*options, "--protocol", "quick", "--resume", "kept")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == times
    plain = record(*options, "--protocol", "quick")
    for each in (first, again, plain):
        each.pop("seconds")
    assert first == again == plain
    refused(zoo(*options, "--protocol", "fast", "--resume", "kept"), "kept belongs to another verification")
    refused(zoo(*options[:5], "--eps", "1/255,2/255", "--resume", "kept"), "takes no --resume")


def test_a_budget_that_settles_nothing_exits_with_3_and_says_how_to_go_on(zoo, options):
    code, out, err = zoo(*options, "--protocol", "quick", "--time-budget", "0.001s", "--resume", "kept")
    assert (code, out) == (3, "")
    assert "--resume kept continues" in err
    assert zoo(*options, "--protocol", "quick", "--resume", "kept")[0] == 0


def test_the_table_names_every_attack_and_the_interval(zoo, record, options):
    found = record(*options, "--protocol", "quick")
    code, out, _ = zoo(*options, "--protocol", "quick")
    assert code == 0
    lines = out.splitlines()
    assert "on 24 images of digits" in lines[0]
    assert [line.split("  ")[0] for line in lines[3:8]] == [
        "none (clean)", "random noise (control)", "fgsm", "pgd20", "all together"
    ]  # fmt: skip
    assert f"{100 * found['robust_accuracy']:.1f} %" in lines[7]
    assert f"{100 * found['interval'][1]:.1f} %" in lines[8]
    assert "flag:" not in out


def test_a_flag_in_the_table_leads_to_its_explanation(zoo, tmp_path):
    (tmp_path / "dull.py").write_text(
        "from torch import nn\nclass M(nn.Module):\n    def forward(self, x):\n"
        "        return nn.functional.pad(x.mean((2, 3)) * 0 + 1, (0, 7))\ndef load():\n    return M()\n"
    )
    code, out, _ = zoo("dull.py:load", "--data", "digits", "--n", 16, "--protocol", "quick")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("flag: constant"))
    assert line.endswith("(rnas-zoo verify --explain constant)")
    refused(zoo("dull.py:load", "--data", "digits", "--n", 64, "--protocol", "quick"), "constant: clean accuracy")


@pytest.mark.parametrize("code", flags.FLAGS)
def test_every_flag_is_explained(zoo, code):
    assert zoo("--explain", code) == (0, flags.explain(code) + "\n", "")


def test_wrong_use_is_refused_before_anything_runs(zoo, options):
    refused(zoo("--explain", "logits-scale"), "Did you mean logit-scale")
    refused(zoo(*options, "--save-adversarial", "a.npy"), ".npz file")
    refused(zoo(*options, "--claim", 0.5, "--against-card"), "give one of")
    refused(zoo(*options, "--protocol", "given"), "--adversarial")
    refused(zoo(*options, "--protocol", "quik"), "unknown protocol 'quik'", "quick")
    assert zoo(*options, "--claim", "62.8")[0] == 2
