"""Check packs, and the answers of other programs beside ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import rnas_zoo
from rnas_zoo import cli, resources
from rnas_zoo.data import ImageSet
from rnas_zoo.deploy.runtime import Session
from rnas_zoo.errors import DataError
from rnas_zoo.hub import release as releases
from rnas_zoo.reference import torch_subject
from rnas_zoo.verification.pack import Comparison, compare, read_pack, read_predictions

from ..cli.test_cli import refused
from ..graphs import net, pixels

DOCS = Path(rnas_zoo.__file__).parents[1] / "docs" / "any_runtime.md"
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
CLEAN = np.array([0, 1, 2, 0, 1, 2, 1, 2])  # ours: six right
TWINS = np.array([0, 1, 2, 1, 2, 0, 1, 2])  # ours: three of those survive


def one_hot(classes):
    return np.eye(3, dtype=np.float32)[classes]


def write_pack(folder, *, older=False, names=("ant", "bee", "cat"), **changes):
    images = np.zeros((len(LABELS), 4, 4, 3), np.uint8)
    arrays = {"images": images, "adversarial": images, "labels": LABELS, "logits": one_hot(CLEAN)}
    arrays = {**arrays, **({} if older else {"adversarial_logits": one_hot(TWINS)}), **changes}
    np.savez(folder / "check.npz", **{name: value for name, value in arrays.items() if value is not None})
    if names:
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    return folder / "check.npz"


def write_csv(folder, clean, twins=None, order=None):
    rows = [f"{i},{c}" if twins is None else f"{i},{c},{twins[i]}" for i, c in enumerate(clean)]
    head = "index,clean" if twins is None else "index,clean,adversarial"
    (folder / "answers.csv").write_text("\n".join([head, *(rows if order is None else [rows[i] for i in order])]))
    return folder / "answers.csv"


def compared(pack, path) -> Comparison:
    pack = read_pack(pack)
    return compare(pack, read_predictions(path, pack))


def counts(found):
    shares = ("agreement", "adversarial_agreement", "clean_accuracy", "our_clean_accuracy", "transfer_accuracy",
              "our_transfer_accuracy")  # fmt: skip
    return [share.count if (share := getattr(found, name)) else None for name in shares]


def test_our_own_answers_agree_everywhere(tmp_path):
    found = compared(write_pack(tmp_path), write_csv(tmp_path, CLEAN, TWINS))
    assert counts(found) == [8, 8, 6, 6, 3, 3]
    assert found.differing == ()
    assert found.passed


def test_shares_and_exact_intervals_of_other_answers(tmp_path):
    clean, twins = CLEAN.copy(), TWINS.copy()
    clean[[0, 6]] = 1, 0  # one right answer lost, one won
    twins[[0, 5, 6]] = 1, 2, 0  # 0 is lost already; 5 and 6 now survive
    found = compared(write_pack(tmp_path), write_csv(tmp_path, clean, twins))
    assert counts(found) == [6, 5, 6, 6, 4, 3]
    assert found.differing == (0, 5, 6)
    assert not found.passed
    for share in (found.agreement, found.transfer_accuracy):
        exact = stats.binomtest(share.count, 8).proportion_ci(0.95, method="exact")
        assert share.interval == pytest.approx((exact.low, exact.high))
        assert share.value == share.count / 8
    as_json = json.loads(json.dumps(found.to_json()))
    assert as_json["agreement"]["count"] == 6
    assert as_json["differing"] == [0, 5, 6]
    assert as_json["passed"] is False


@pytest.mark.parametrize(("changed", "passed"), [([], True), ([3], True), ([3, 4], False)])
@pytest.mark.parametrize("where", ["clean", "twins"])
def test_one_image_may_differ(tmp_path, changed, passed, where):
    answers = {"clean": CLEAN.copy(), "twins": TWINS.copy()}
    answers[where][changed] = (answers[where][changed] + 1) % 3
    found = compared(write_pack(tmp_path), write_csv(tmp_path, **answers))
    assert found.differing == tuple(changed)
    assert found.passed is passed


def test_an_image_that_differs_clean_and_adversarial_counts_once(tmp_path):
    clean, twins = CLEAN.copy(), TWINS.copy()
    clean[2] = twins[2] = 0
    assert compared(write_pack(tmp_path), write_csv(tmp_path, clean, twins)).passed


def test_older_packs_and_answers_to_clean_images_only(tmp_path):
    twins = (TWINS + 1) % 3
    survivors = int(((CLEAN == LABELS) & (twins == LABELS)).sum())
    older = write_pack(tmp_path, older=True)
    assert counts(compared(older, write_csv(tmp_path, CLEAN, twins))) == [8, None, 6, 6, survivors, None]
    assert compared(older, write_csv(tmp_path, CLEAN, twins)).passed, "nothing is known of our answers to the twins"
    assert counts(compared(older, write_csv(tmp_path, CLEAN))) == [8, None, 6, 6, None, None]
    assert counts(compared(write_pack(tmp_path), write_csv(tmp_path, CLEAN))) == [8, None, 6, 6, None, 3]


@pytest.mark.parametrize(
    "text",
    [
        "index,clean,adversarial\n{rows}",
        "\ufeffIndex, Clean, Adversarial\r\n\r\n{crlf}\r\n\r\n",
        "adversarial,seconds,index,clean\n{turned}\n\n",
        "index,clean,adversarial\n{quoted}\n,,\n",
    ],
    ids=["plain", "windows", "other columns", "quoted"],
)
def test_files_as_programs_write_them(tmp_path, text):
    names = ["ant", "bee", "cat"]
    order = np.random.default_rng(0).permutation(8)
    rows = [f"{i},{CLEAN[i]},{TWINS[i]}" for i in order]
    turned = [f"{names[TWINS[i]]},0.1,{i}, {names[CLEAN[i]]} " for i in order]
    quoted = [f'"{i}","{names[CLEAN[i]]}",{TWINS[i]}' for i in order]
    filled = text.format(
        rows="\n".join(rows), crlf="\r\n".join(rows), turned="\n".join(turned), quoted="\n".join(quoted)
    )
    (tmp_path / "answers.csv").write_bytes(filled.encode())
    pack = read_pack(write_pack(tmp_path))
    found = read_predictions(tmp_path / "answers.csv", pack)
    np.testing.assert_array_equal(found.clean, CLEAN)
    np.testing.assert_array_equal(found.adversarial, TWINS)


GOOD = [f"{i},0,0" for i in range(8)]
HEAD = "index,clean,adversarial"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], r"the first line must be index,clean,adversarial, found ''"),
        (GOOD, r"the first line must be index,clean,adversarial, found '0,0,0'"),
        (["index;clean", *GOOD], r"found 'index;clean'"),
        ([HEAD + ",clean", *GOOD], r"the first line must be"),
        ([HEAD, *GOOD[:5], *GOOD[6:]], r"answers\.csv: 1 of 8 images are missing: 5$"),
        ([HEAD, GOOD[0]], r"7 of 8 images are missing: 1, 2, 3, 4, 5, \.\.\."),
        ([HEAD, *GOOD[:3], "", "1,0,0", *GOOD[3:]], r"line 6: image 1 was answered in line 3 already"),
        ([HEAD, *GOOD, "8,0,0"], r"line 10: index '8' is none of the pack's images, 0 to 7"),
        ([HEAD, "-1,0,0"], r"line 2: index '-1' is none"),
        ([HEAD, "9" * 5000 + ",0,0"], r"line 2: index '9{40}' is none"),
        ([HEAD, "0,3,0"], r"line 2, column clean: unknown class 3, classes are 0 to 2"),
        ([HEAD, "0,0,catt"], r"line 2, column adversarial: unknown class 'catt'\. Did you mean cat"),
        ([HEAD, "0,0,"], r"line 2, column adversarial: unknown class ''"),
        ([HEAD, "0,0"], r"line 2: 2 columns, the first line has 3"),
    ],
)
def test_faults_are_named_by_line_and_cause(tmp_path, lines, words):
    (tmp_path / "answers.csv").write_text("\n".join(lines))
    pack = read_pack(write_pack(tmp_path))
    with pytest.raises(DataError, match=words):
        read_predictions(tmp_path / "answers.csv", pack)


def test_class_names_come_from_the_files_beside_the_pack(tmp_path):
    path = write_csv(tmp_path, ["ant", "bee", "cat", "ant", "bee", "cat", "bee", "cat"])
    pack = write_pack(tmp_path, names=())
    with pytest.raises(DataError, match=r"line 2, column clean: 'ant' is no class number, and there is no labels\.txt"):
        compared(pack, path)
    (tmp_path / "config.json").write_text('{"label_names": ["ant", "bee", "cat"]}')
    assert compared(pack, path).agreement.count == 8
    (tmp_path / "labels.txt").write_text("ant\nant\ncat\n")
    with pytest.raises(DataError, match="'ant' is the name of several classes"):
        compared(pack, path)
    (tmp_path / "labels.txt").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match="line 3, column clean: 1 is the number of one class and the name of another"):
        compared(pack, write_csv(tmp_path, CLEAN))
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    assert read_pack(pack).names == (), "names of other classes than the pack's are none"


def test_files_that_are_no_pack_or_no_text_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"check\.npz: no such file"):
        read_pack(tmp_path / "check.npz")
    for change in ({"logits": None}, {"labels": LABELS[:3]}, {"labels": LABELS / 2}, {"logits": np.zeros(8)},
                   {"adversarial_logits": np.zeros((7, 3))}):  # fmt: skip
        with pytest.raises(DataError, match=r"check\.npz: not a (readable )?check pack"):
            read_pack(write_pack(tmp_path, **change))
    pack = read_pack(write_pack(tmp_path))
    with pytest.raises(DataError, match=r"answers\.csv: no such file"):
        read_predictions(tmp_path / "answers.csv", pack)
    (tmp_path / "answers.csv").write_bytes("index,clean\n".encode("utf-16"))
    with pytest.raises(DataError, match="not a readable CSV file in UTF-8"):
        read_predictions(tmp_path / "answers.csv", pack)


def test_a_release_s_pack_holds_our_answers_to_clean_images_and_twins(tmp_path):
    """What `package` writes: every array, and logits of the 8-bit images that are stored."""
    clean, network = pixels(6), net()
    images = (clean.numpy().transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    twins = (clean + 0.3 / 255 + 3 / 255 * torch.randn(clean.shape).sign()).clamp(0, 1)
    shipped = torch_subject(network, "net", image_size=(8, 8))
    test = ImageSet(images, np.arange(6) % 4)
    releases._write_check(tmp_path, shipped, test, SimpleNamespace(x_adv=twins.numpy()))
    with np.load(tmp_path / "check.npz") as file:
        assert set(file.files) == {"images", "adversarial", "labels", "logits", "adversarial_logits"}
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["adversarial"], np.rint(twins.numpy() * 255).transpose(0, 2, 3, 1))
        assert file["adversarial"].dtype == np.uint8
        for name, stored in (("logits", "images"), ("adversarial_logits", "adversarial")):
            x = torch.from_numpy(file[stored].transpose(0, 3, 1, 2).astype(np.float32) / 255)
            np.testing.assert_allclose(file[name], network(x).numpy(), atol=1e-5)
    pack = read_pack(tmp_path / "check.npz")
    np.testing.assert_array_equal(pack.clean, network(clean).argmax(1).numpy())
    assert pack.adversarial is not None


# The command


@pytest.fixture
def zoo(capfd, tmp_path, monkeypatch):
    """Runs `rnas-zoo verify` in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        code = cli.run(["verify", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_the_command_prints_shares_and_says_what_they_bound(zoo, tmp_path):
    write_csv(tmp_path, CLEAN, TWINS)
    write_pack(tmp_path)
    code, out, err = zoo("--predictions", "answers.csv", "--pack", "check.npz")
    assert (code, err) == (0, "")
    low, high = (f"{100 * bound:.1f}" for bound in stats.binomtest(3, 8).proportion_ci(0.95, method="exact"))
    assert re.search(rf"transfer-robust accuracy +37\.5 % +{low} to {high} % +37\.5 %", out)
    assert "upper bound" in out
    assert "images with another class than ours: none (passed)" in out
    clean = CLEAN.copy()
    clean[[1, 4]] = 0
    write_csv(tmp_path, clean, TWINS)
    code, out, err = zoo(".", "--predictions", "answers.csv")
    assert (code, err) == (1, "")
    assert "images with another class than ours: 1, 4 (FAILED, at most one may be)" in out
    code, out, _ = zoo("--predictions", "answers.csv", "--pack", "check.npz", "--json")
    assert code == 1
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["differing"], found["passed"], found["clean_accuracy"]["count"]) == ([1, 4], False, 4)
    assert (found["pack"], found["predictions"]) == ("check.npz", "answers.csv")


def test_without_our_answers_to_the_twins_or_any_the_command_says_so(zoo, tmp_path):
    write_csv(tmp_path, CLEAN, TWINS)
    write_pack(tmp_path, older=True)
    _, out, _ = zoo(".", "--predictions", "answers.csv")
    assert "This pack holds no answers of ours to the twins" in out
    assert "our class, adversarial twins" not in out
    write_csv(tmp_path, CLEAN)
    _, out, _ = zoo(".", "--predictions", "answers.csv")
    assert "nothing is said about robustness" in out
    assert "transfer-robust" not in out


def test_wrong_use_is_one_line(zoo, tmp_path):
    write_csv(tmp_path, CLEAN, TWINS)
    write_pack(tmp_path)
    both = ("--predictions", "answers.csv", "--pack", "check.npz")
    refused(zoo("--pack", "check.npz"), "--pack goes with --predictions")
    refused(zoo("--predictions", "answers.csv"), "which images were predicted?")
    refused(zoo(".", *both), "which images were predicted?")
    refused(zoo(*both, "--data", "digits"), "leave out --data")
    refused(zoo(*both, "--protocol", "quick"), "leave out --protocol")
    refused(zoo("missing", "--predictions", "answers.csv"), "check.npz: no such file")
    refused(zoo("--predictions", "none.csv", "--pack", "check.npz"), "none.csv: no such file")


def test_predictions_are_judged_without_torch(tmp_path):
    write_csv(tmp_path, CLEAN, TWINS)
    write_pack(tmp_path)
    code = (
        "import sys\nfrom rnas_zoo.cli import run\n"
        "assert run(['verify', '--predictions', 'answers.csv', '--pack', 'check.npz', '--json']) == 0\n"
        "assert not {'torch', 'timm', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The examples of docs/any_runtime.md


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A program of the page by its language, beside a bundled model and its pack."""
    monkeypatch.chdir(tmp_path)
    source = resources.folder("model_cards") / "rnas_wrn10_1.pgd_digits_linf16"
    for name in ("model.onnx", "check.npz", "config.json"):
        shutil.copy(source / name, tmp_path)
    page = DOCS.read_text(encoding="utf-8")
    return lambda language: re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0]


def test_the_python_example_answers_as_we_do(example, tmp_path):
    exec(compile(example("python"), str(DOCS), "exec"), {})
    found = compared(tmp_path / "check.npz", tmp_path / "answers.csv")
    assert found.agreement.count == found.agreement.n == 64
    with np.load(tmp_path / "check.npz") as pack:
        twins = Session(tmp_path / "model.onnx", "cpu").answers(pack["adversarial"]).argmax(1)
        right = (pack["logits"].argmax(1) == pack["labels"]) & (twins == pack["labels"])
    assert found.transfer_accuracy.count == right.sum()


def test_the_cpp_example_reads_the_images_and_writes_the_file(example, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("waits for a C++ compiler: g++, c++ or clang++ on the PATH")
    stub = "\nint classify(const unsigned char* rgb) { return (rgb[0] + 3 * rgb[32 * 32 * 3 - 1]) % 10; }\n"
    (tmp_path / "main.cpp").write_text(example("cpp") + stub)
    subprocess.run([compiler, "-std=c++17", "-O0", "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
    page = DOCS.read_text(encoding="utf-8")
    (dump,) = re.findall(r'python -c "(.*)"\n', page)
    exec(dump, {})
    subprocess.run([tmp_path / "main"], cwd=tmp_path, check=True)
    pack = read_pack(tmp_path / "check.npz")
    found = read_predictions(tmp_path / "answers.csv", pack)
    with np.load(tmp_path / "check.npz") as file:
        for name, given in (("images", found.clean), ("adversarial", found.adversarial)):
            flat = file[name].reshape(64, -1).astype(int)
            np.testing.assert_array_equal(given, (flat[:, 0] + 3 * flat[:, -1]) % 10)
