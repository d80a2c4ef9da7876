"""Spoilt files in front of every reader: a fixed part of what `benchmarks/fuzz.py` tries, and what it once found."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnas_zoo
from rnas_zoo.engine import checkpoint
from rnas_zoo.errors import UsageError
from rnas_zoo.training.config import TrainConfig, read_recipe, recipe_text

from .strategies import reproducible

BENCHMARKS = Path(rnas_zoo.__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="waits for a checkout: run the tests from a clone")

INPUTS, SLOW = 30, {"evidence": 3, "verdicts": 3, "card": 2, "check pack": 6, "configuration": 10, "model": 8}


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import fuzz

        yield fuzz
    for name in ("fuzz", "fuzz_targets", "fuzz_mutations"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def known(fuzz, work):
    return fuzz.targets(work)


@pytest.fixture(scope="module")
def outcome(fuzz, known, work):
    """What becomes of bytes in front of a reader: `accepted`, `refused` or `crash`, and the text of it."""

    def feed(name, content):
        return fuzz.attempt(known[name], work, content)

    return feed


READERS = [
    "genotype", "genotype text", "genotype argument", "recipe", "evidence", "verdicts", "claim", "configuration",
    "weights", "card", "check pack", "predictions", "data set", "adversarial images", "images", "checkpoint", "run",
    "published", "model",
]  # fmt: skip


def test_every_reader_is_tried(known):
    assert [name for name in known if not name.startswith("release: ")] == READERS


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_accepted_and_spoilt_ones_accepted_or_refused(fuzz, known, outcome, name):
    for content in known[name].seeds:
        assert outcome(name, content)[0] == "accepted" or name == "genotype argument"
    count = SLOW.get(name, INPUTS)
    found = {number: outcome(name, fuzz.spoilt(known[name], name, 0, number)) for number in range(count)}
    assert {number: text for number, (what, text) in found.items() if what == "crash"} == {}
    assert any(what == "refused" for what, _ in found.values()), "nothing was spoilt"


@pytest.mark.parametrize("part", [0, 1])
def test_whole_releases_with_a_spoilt_file_are_judged_in_words(fuzz, known, outcome, part):
    names = [name for name in known if name.startswith("release: ")][part::2]
    found = {name: outcome(name, fuzz.spoilt(known[name], name, 0, 1)) for name in names}
    assert {name: text for name, (what, text) in found.items() if what == "crash"} == {}


def test_a_crash_a_hang_and_a_blow_up_would_be_noticed(fuzz, known, work):
    def fails(path):
        raise KeyError("nobody caught this")

    broken = fuzz.Target("text", "x.txt", (b"x",), fails)
    what, text = fuzz.attempt(broken, work, b"x")
    assert what == "crash"
    assert "KeyError at test_fuzz.py" in text


# What it found


def npz(**members) -> bytes:
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(shape, descr="|u1"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


ABSURD = dict.fromkeys(("x_train", "y_train", "x_test", "y_test", "x_adv", "images", "labels"), header("(10**12,)"))
HUGE = {name: header("(1000000000000,)") for name in ABSURD}


@pytest.mark.parametrize("name", ["data set", "adversarial images", "images", "check pack", "verdicts"])
@pytest.mark.parametrize("content", [npz(**HUGE), npz(**ABSURD), npz(**dict.fromkeys(ABSURD, b"no array"))])
def test_arrays_that_cannot_be_there_are_refused(outcome, name, content):
    assert outcome(name, content)[0] == "refused"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\neps_ramp = 1' + "0" * 400),
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\nseed = 1' + "0" * 5000),
        ("recipe", "a = " + "[" * 5000),
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\nimage_size = [1, 2, 3]'),
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\nmilestones = ["a"]'),
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\nlearning_rate = nan'),
        ("recipe", 'architecture = "rnas_cells"\ndata = "digits"\neps = "8/0"'),
        ("claim", json.dumps({"external": 10**400})),
        ("run", "[" * 100_000),
        ("run", json.dumps({"schema": 1, "config": []})),
    ],
)
def test_texts_that_once_ended_in_a_traceback_are_refused(outcome, name, text):
    what, said = outcome(name, text.encode())
    assert what == "refused", said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", None), ("num_classes", "ten"), ("model_args", {"num_classes": 0.5}),
        ("model_args", {"num_classes": 10**8}), ("model_args", {"num_classes": 2**40}),
        ("architecture", 3), ("architecture", "nothing"), ("model_args", [1]), ("model_args", {"img_size": 3}),
        ("model_args", {"in_chans": 0}),
        ("pretrained_cfg", "text"), ("pretrained_cfg", {"schema": 1}), ("pretrained_cfg", {"mean": 0}),
        ("pretrained_cfg", {"notes": [3]}), ("pretrained_cfg", {"notes": 3}),
    ],
)  # fmt: skip
def test_configurations_that_timm_chokes_on_are_refused_by_name(known, outcome, field, value):
    config = json.loads(known["configuration"].seeds[0])
    own = {**config[field], **value} if field == "pretrained_cfg" and isinstance(value, dict) else value
    what, said = outcome("configuration", json.dumps({**config, field: own}).encode())
    assert what == "refused", said


def test_evidence_and_packs_of_other_types_are_refused(known, outcome, tmp_path):
    for changes in (
        {"interval": ["a", "b"]}, {"interval": [0, -(10**400)]}, {"attacks": {"fgsm": {"broken": float("inf")}}},
        {"subject": {"kind": "int8", "file": ["a"], "sha256": ""}}, {"seed": 10**30},
    ):  # fmt: skip
        record = json.loads(known["evidence"].seeds[0])
        record["runs"][0].update(changes)
        what, said = outcome("evidence", json.dumps(record).encode())
        assert (what, "damaged evidence" in said) == ("refused", True), said
    (tmp_path / "valid.npz").write_bytes(known["check pack"].seeds[0])
    with np.load(tmp_path / "valid.npz") as pack:
        arrays = dict(pack)
    for name, value in (
        ("logits", arrays["logits"].astype("S4")), ("logits", arrays["logits"].astype("O").astype("U4")),
        ("adversarial", np.uint8(3)), ("adversarial_logits", np.float32(3)), ("logits", np.float32(3)),
    ):  # fmt: skip
        np.savez(tmp_path / "check.npz", **{**arrays, name: value})
        what, said = outcome("check pack", (tmp_path / "check.npz").read_bytes())
        assert (what, "not a check pack" in said) == ("refused", True), said


def test_adversarial_images_that_are_none_are_refused(outcome):
    what, said = outcome("adversarial images", npz(x_adv=header("()", "<f4")))
    assert (what, "not (N, 3, H, W)" in said) == ("refused", True), said


def test_checkpoints_that_are_no_state_are_refused(outcome, tmp_path):
    for tree in ([], {"tuple": []}, {"dict": [[{"list": []}, {"value": 1}]]}, {"tensor": "none"}, {"value": 3}, "x"):
        checkpoint.save_file({}, tmp_path / "x.safetensors", metadata={"rnas_zoo_checkpoint": json.dumps(tree)})
        assert outcome("checkpoint", (tmp_path / "x.safetensors").read_bytes())[0] == "refused"
    deep = '{"list": [' * 3000 + "]}" * 3000
    checkpoint.save_file({}, tmp_path / "x.safetensors", metadata={"rnas_zoo_checkpoint": deep})
    assert outcome("checkpoint", (tmp_path / "x.safetensors").read_bytes())[0] == "refused"


def model(known, change) -> bytes:
    proto = onnx.load_from_string(known["model"].seeds[0])
    change(proto)
    return proto.SerializeToString()


def test_models_that_ask_for_absurd_images_are_refused(known, outcome):
    def widen(proto):
        for place, size in ((2, 2**31), (3, 2**20)):
            proto.graph.input[0].type.tensor_type.shape.dim[place].dim_value = size

    assert outcome("model", model(known, widen))[0] == "refused"


def test_models_that_ask_for_absurd_batches_are_refused(known, outcome):
    def fill(proto):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 100_000

    what, said = outcome("model", model(known, fill))
    assert (what, "100,000 images at once" in said) == ("refused", True), said


def test_models_whose_texts_are_none_are_refused(known, outcome):
    content = known["model"].seeds[0]
    assert b"weights_sha256" in content
    what, said = outcome("model", content.replace(b"weights_sha256", b"weights\x8csha256"))
    assert (what, "no UTF-8" in said) == ("refused", True), said


@pytest.mark.parametrize("location", ["../secret.bin", "/dev/zero", "missing.bin"])
def test_models_with_weights_elsewhere_are_refused(known, outcome, work, location):
    (work.parent / "secret.bin").write_bytes(bytes(1 << 20))

    def move(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    assert outcome("model", model(known, move))[0] == "refused"


@pytest.mark.parametrize("labels", ["[", "[" * 100_000, "{}", "[1]", '["a"]'])
def test_labels_that_are_no_names_of_the_classes_are_refused(known, work, labels):
    from rnas_zoo.deploy.runtime import Session, SessionError

    def name(proto):
        for entry in proto.metadata_props:
            entry.value = labels if entry.key == "labels" else entry.value

    content = model(known, name)
    with pytest.raises(SessionError, match=r"labels|answers"):
        Session(content, "cpu").predict(np.zeros((1, 32, 32, 3), np.uint8))


# Any table is a recipe, or the refusal says which field is none

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["pgd", "8/255", "l2", "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = list(TrainConfig.__dataclass_fields__)


@reproducible(150)
@given(changes=st.dictionaries(st.sampled_from([*FIELDS, "nonsense"]), values, min_size=1, max_size=3))
def test_any_table_is_a_recipe_or_refused_by_file_and_field(tmp_path_factory, changes):
    from rnas_zoo.engine.config import to_toml

    path = tmp_path_factory.getbasetemp() / "any.toml"
    table = {"architecture": "rnas_cells", "data": "digits", **changes}
    try:
        path.write_text(to_toml(table), encoding="utf-8", errors="surrogatepass")
    except UsageError:  # TOML cannot say it
        return
    try:
        config, said = read_recipe(path), ""
    except UsageError as error:
        config, said = None, str(error)
    if config is None:
        assert said.startswith(f"{path}: ")
        assert any(name in said for name in changes), said
        assert "\n" not in said
        return
    path.write_text(recipe_text(config), encoding="utf-8", errors="surrogatepass")
    assert read_recipe(path) == config
