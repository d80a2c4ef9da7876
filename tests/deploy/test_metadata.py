"""What a file says of itself: from the names and folders that its weights come from, and from the network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import nn

import rnas_zoo
from rnas_zoo.deploy.form import Form
from rnas_zoo.deploy.metadata import describe, is_untrained, known_facts, release_of
from rnas_zoo.models.pixels import behind
from rnas_zoo.models.weights import bundled_releases
from rnas_zoo.preprocessing import Preprocessing

from ..graphs import net
from ..untrained import name_without_weights

UNTRAINED = name_without_weights()
RECIPE = 'architecture = "rnas_cells"\ndata = "digits"\nobjective = "{objective}"\nnorm = "l2"\neps = "0.5"\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    """A release folder as far as its own description goes."""
    made = tmp_path / "release"
    made.mkdir()
    own = {"name": "mine.trades_digits_l2p5", "dataset": "digits", "seconds": 7}
    config = {"architecture": "rnas_cells", "label_names": ["no", "yes", "ünsure"], "rnas_zoo": own}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (made / "recipe.toml").write_text(RECIPE.format(objective="trades"))
    return made


@pytest.fixture(scope="module")
def bundled() -> tuple[str, Path]:
    """Name and folder of a bundled release against whose architecture there are weights at 8/255 as well."""
    found = {name: path for name, path in bundled_releases().items() if name.startswith("rnas_cl_s3.")}
    if "rnas_cl_s3.nfgsm_cifar10_linf4" not in found:
        pytest.fail("this release belongs to the zoo and is not bundled")
    return "rnas_cl_s3.nfgsm_cifar10_linf4", found["rnas_cl_s3.nfgsm_cifar10_linf4"]


def test_a_module_says_nothing_of_where_it_comes_from():
    assert known_facts(net()) == {}
    assert known_facts(net(), labels=["a", "b"], given={"site": "roof"}) == {"labels": '["a", "b"]', "site": "roof"}


def test_a_name_without_weights_is_untrained():
    assert known_facts(UNTRAINED) == {"weights": "untrained"}
    assert known_facts(UNTRAINED, labels=["a"]) == {"weights": "untrained", "labels": '["a"]'}
    assert known_facts(UNTRAINED, given={"weights": "mine"}) == {"weights": "mine"}
    assert known_facts(UNTRAINED, checkpoint="mine.safetensors") == {}


def test_a_bundled_name_knows_its_release(bundled):
    name, path = bundled
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    wanted = {"model": name, "dataset": "cifar10", "labels": json.dumps(classes), "threat_model": "L∞ 4/255"}
    assert known_facts(name) == wanted
    assert known_facts(path) == known_facts(str(path)) == wanted
    assert known_facts(name, checkpoint="other.safetensors") == {}
    assert known_facts("rnas_cl_s3.clean_cifar10").keys() == wanted.keys() - {"threat_model"}


def test_a_bundled_name_without_a_tag_is_the_recommended_one(bundled):
    bare = bundled[0].partition(".")[0]
    tag = timm.models.get_pretrained_cfg(bare).tag
    facts = known_facts(bare)
    assert facts["model"] == f"{bare}.{tag}"
    assert facts == known_facts(f"{bare}.{tag}")
    assert facts["threat_model"] == "L∞ 8/255"


def test_a_release_folder_is_described_by_what_is_in_it(folder):
    wanted = {
        "model": "mine.trades_digits_l2p5",
        "dataset": "digits",
        "labels": json.dumps(["no", "yes", "ünsure"]),
        "threat_model": "L2 0.5",
    }
    assert known_facts(folder) == wanted
    assert known_facts(str(folder), checkpoint="other.safetensors") == {}
    (folder / "recipe.toml").write_text(RECIPE.format(objective="clean"))
    assert known_facts(folder) == {key: text for key, text in wanted.items() if key != "threat_model"}
    (folder / "recipe.toml").unlink()
    (folder / "config.json").write_text('{"architecture": "rnas_cells"}')
    assert known_facts(folder) == {}


def test_what_is_given_wins(folder):
    given = {"model": "ours", "threat_model": "L∞ 1/255", "note": "indoors"}
    found = known_facts(folder, labels=["a", "b", "c"], given=given)
    assert found == {**given, "dataset": "digits", "labels": '["a", "b", "c"]'}
    assert given == {"model": "ours", "threat_model": "L∞ 1/255", "note": "indoors"}


def test_folders_and_files_that_are_called_like_a_model_are_none(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (UNTRAINED, f"{UNTRAINED}.pgd_mine_linf8"):
        folder = folder.rename(tmp_path / name)
        assert release_of(name) == Path(name)
        assert not is_untrained(name)
        assert known_facts(name)["model"] == "mine.trades_digits_l2p5"
    for text in (f"{UNTRAINED}.onnx", f"{UNTRAINED}.py:build", "rnas_cl_s3.onnx", "rnas_cl_s3.py:build"):
        assert release_of(text) is None
        assert not is_untrained(text)
        assert known_facts(text) == {}


def test_names_of_bundled_releases_are_their_folders(bundled, tmp_path):
    name, path = bundled
    assert release_of(name) == path
    assert release_of(str(path)) == path
    bare = name.partition(".")[0]
    tag = timm.models.get_pretrained_cfg(bare).tag
    assert release_of(bare) == bundled_releases()[f"{bare}.{tag}"]
    for other in ("resnet18", "hf-hub:someone/model", UNTRAINED, f"{bare}.no_such_tag", str(tmp_path), "nowhere"):
        assert release_of(other) is None, other


def texts_of(
    network: nn.Module, form: Form | None = None, facts: dict[str, str] | None = None, **more
) -> dict[str, str]:
    proto = onnx.ModelProto()
    onnx.helper.set_model_props(proto, {"left over": "from before"})
    describe(proto, network, (8, 12), form or Form(), facts or {}, **more)
    found = [(entry.key, entry.value) for entry in proto.metadata_props]
    assert len(dict(found)) == len(found), "a key twice"
    return dict(found)


def test_a_plain_module_is_described_by_its_class_and_weights():
    network = net()
    found = texts_of(network)
    assert set(found) == {"architecture", "model_args", "weights_sha256", "input", "input_size", "output", "precision",
                          "versions"}  # fmt: skip
    assert (found["architecture"], found["model_args"], found["input_size"]) == ("Sequential", "{}", "[3, 8, 12]")
    assert (found["output"], found["precision"]) == ("logits", "float32")
    assert found["input"] == "float32 RGB in [0, 1], NCHW; normalisation, if any, is inside the graph"
    assert json.loads(found["versions"]) == {
        "rnas_zoo": rnas_zoo.__version__,
        "torch": torch.__version__.partition("+")[0],
    }
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}|torch.float32|{tuple(value.shape)}|".encode() + value.numpy().tobytes())
    assert found["weights_sha256"] == digest.hexdigest()


def test_form_precision_and_facts_are_told():
    form = Form("uint8-nhwc", "probabilities", "float16", resize=True)
    found = texts_of(net(), form, {"labels": '["a"]', "architecture": "mine"})
    assert (found["output"], found["precision"], found["labels"]) == ("probabilities", "float16", '["a"]')
    assert found["architecture"] == "mine"
    assert found["input"].startswith("uint8 RGB from 0 to 255, NHWC of any size, scaled to 8x12;")
    assert texts_of(net(), Form("uint8-nhwc"))["input"].startswith("uint8 RGB from 0 to 255, NHWC;")
    assert texts_of(net(), precision="int8")["precision"] == "int8"


def test_a_network_of_ours_can_be_rebuilt_from_its_description():
    network = timm.create_model("rnas_cells", genotype="vuln_h", channels=4, layers=3, num_classes=5)
    found = texts_of(network)
    arguments = json.loads(found["model_args"])
    assert arguments["genotype"] == json.loads(found["genotype"])
    assert found["genotype_sha256"] == network.genotype.hash
    again = timm.create_model(found["architecture"], **arguments)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (network, again)]
    assert shapes[0] == shapes[1]


def test_a_network_behind_its_normalisation_keeps_its_name_and_digest():
    network = net()
    network.pretrained_cfg = {"architecture": "foreign", "input_size": (3, 8, 8)}
    wrapped = behind(network, Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5)))
    assert type(wrapped) is not type(network)
    assert texts_of(wrapped) == texts_of(network)
    assert texts_of(wrapped)["architecture"] == "foreign"
