"""What `fuzz.py` feeds: for each kind of file that we read and did not write, valid files and the reader of a command.

A reader may return, raise one of `rnas_zoo.errors`, or list problems in words; anything else is a fault of ours.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

RELEASE, SEARCHED = "rnas_wrn10_1.pgd_digits_linf16", "rnas_cl_s3.nfgsm_cifar10_linf8"
WHOLE = {
    "json": ("config.json", "export.json", "robustness.json", "limits.json", "twin.json", "training.json",
             "genotype.json", "figures/curve.json"),
    "npz": ("check.npz", "labels.npz"),
    "toml": ("recipe.toml",),
    "text": ("README.md",),
}  # fmt: skip
TEXT = """NONE = None
A = Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=range(2, 3),
             reduce=[('max_pool_3x3', 0), ('dil_conv_5x5', 1)], reduce_concat=[2])
B = A
"""
ROBUSTBENCH = {"external": "62.8", "autoattack_acc": "62.8", "clean_acc": "90.1", "eps": "8/255", "dataset": "digits"}


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        form: how it is mutated by structure: `json`, `toml`, `npz`, `tensors`, `onnx` or `text`.
        file: what a mutated file is called, in the working folder or below it.
        seeds: valid files.
        read: the reader, called with the path of the mutated file.
    """

    form: str
    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], Any]


def targets(folder: Path) -> Mapping[str, Target]:
    """Every kind of file, by name; what lies beside a mutated file is written into `folder` here.

    All readers are imported, so that only reading is left to be timed.
    """
    from rnas_zoo import data, genotype, reference, resources
    from rnas_zoo.deploy import runtime, twin
    from rnas_zoo.deploy.session_errors import translated
    from rnas_zoo.engine import checkpoint, record
    from rnas_zoo.genotype.text import parse_file
    from rnas_zoo.hub import registry, reverify, validation
    from rnas_zoo.models import weights
    from rnas_zoo.training.config import model_for, read_recipe
    from rnas_zoo.verification import claims, pack
    from rnas_zoo.verification.request import Request

    release, searched = folder / RELEASE, folder / SEARCHED
    for each in (release, searched):
        shutil.copytree(resources.folder("model_cards") / each.name, each, dirs_exist_ok=True)
    # `examine` parses the front matter of those cards only that other releases of the package wrote.
    older = folder / "older"
    shutil.copytree(release, older, dirs_exist_ok=True)
    stated = json.loads((older / "robustness.json").read_text(encoding="utf-8"))
    stated["runs"][-1]["versions"]["rnas_zoo"] = "0.0.1"
    (older / "robustness.json").write_text(json.dumps(stated), encoding="utf-8")
    beside = folder / "pack"
    beside.mkdir(exist_ok=True)
    shutil.copy(release / "check.npz", beside / "check.npz")
    known, images = pack.read_pack(beside / "check.npz"), data.load("digits").test.images[:4]
    answers = "index,clean,adversarial\n" + "".join(f"{i},{c},{c}\n" for i, c in enumerate(known.clean))

    def request(ref: Path = release, **options: Any) -> Request:
        names = "data image_size protocol norm eps n indices seed against claim transfer_from adversarial"
        asked = {**dict.fromkeys(names.split()), "against_card": False, "save": False, **options}
        return Request.make(str(ref), **asked)

    def read_genotype(path: Path) -> None:
        found = genotype.load(path)
        if genotype.from_json(json.loads(found.dumps())) != found or not found.hash:
            raise AssertionError("what a genotype prints is not what it was read from")
        model_for(str(path))

    def read_text(path: Path) -> None:
        found = parse_file(path, "B")
        genotype.from_json(json.loads(found.dumps()))

    def read_any_text(path: Path) -> None:
        genotype.resolve("Genotype(" + path.read_text(encoding="utf-8", errors="replace"))

    def read_recipe_file(path: Path) -> None:
        config = read_recipe(path)
        if len(str(config.threat)) < 3:
            raise AssertionError("a recipe without a threat model")

    def read_evidence(path: Path) -> list[str]:
        request(path.parent, against_card=True)
        return reverify.examine(path.parent).problems

    def read_claim(path: Path) -> None:
        claim = claims.read_claim(path)
        found = request(against=path, data="digits")
        if claim.kind == "robustbench":
            claims.compare_number(claim.runs[0]["robust_accuracy"], {**run, "eps": "0"}, found.claimed[0])

    def read_adversarial(path: Path) -> None:
        request(adversarial=path, data="digits")

    def read_release(path: Path) -> None:
        reference.load(path.parent)

    def read_published(path: Path) -> None:
        with mock.patch.object(resources, "folder", return_value=path.parent), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights.published_releases()
            registry.references()

    def read_model(path: Path) -> None:
        found = reference.subject(path)
        if found.network is None:
            twin.keeps_integers(path)

    def read_photos(path: Path) -> None:
        with translated():
            network.predict(path)

    def read_checked(path: Path) -> None:
        pack.read_pack(path)
        with translated():
            runtime.check(network, path)

    def read_card(path: Path) -> list[str]:
        return reverify.examine(path.parent).problems

    def read_answers(path: Path) -> None:
        pack.compare(known, pack.read_predictions(path, known))

    def read_whole(path: Path) -> list[str]:
        return validation.problems(searched)

    def stored(**arrays: Any) -> bytes:
        with (folder / "stored.npz").open("wb") as file:
            np.savez_compressed(file, **arrays)
        return (folder / "stored.npz").read_bytes()

    def of(name: str, where: Path = release) -> tuple[bytes, ...]:
        return ((where / name).read_bytes(),)

    run = stated["runs"][-1]
    network = runtime.Session(release / "model.onnx", "cpu", threads=1)
    labels = np.arange(4)
    checkpoint.save(
        folder / "seed.safetensors", {"step": 3, "task": {"model": own_tensors(), "list": [1, None, (2.0,)]}}
    )
    started = json.dumps({"schema": 1, "kind": "train", "status": "new", "config": {"data": "digits"}}).encode()
    info = json.dumps(ROBUSTBENCH).encode()
    published = {
        "repo": "owner/name",
        "commit": "0" * 40,
        "digest": "0" * 64,
        "pretrained_cfg": {"input_size": [3, 8, 8]},
    }
    user = stored(x_train=images, y_train=labels, x_test=images, y_test=labels, classes=np.array(list("abcd")))
    x_adv = stored(x_adv=np.zeros((4, 3, 8, 8), np.float32), position=labels)
    genotypes = tuple(
        (resources.folder("genotypes") / f"{name}.json").read_bytes()
        for name in ("vuln_h", "arnas", "robnet_free", "cl_s3")
    )
    recipes = tuple(path.read_bytes() for path in sorted(resources.folder("recipes").glob("*.toml"))[:6])
    listed = json.dumps({"schema": 1, "models": {"rnas_x.y": published}}).encode()
    state = (folder / "seed.safetensors").read_bytes()
    return {
        "genotype": Target("json", "genotype.json", genotypes, read_genotype),
        "genotype text": Target("text", "genotypes.py", (TEXT.encode(),), read_text),
        "genotype argument": Target("text", "argument.txt", (TEXT.split("(", 1)[1].encode()[:170],), read_any_text),
        "recipe": Target("toml", "recipe.toml", recipes, read_recipe_file),
        "evidence": Target("json", f"{RELEASE}/robustness.json", of("robustness.json"), read_evidence),
        "verdicts": Target("npz", f"{RELEASE}/verdicts.npz", of("verdicts.npz"), read_evidence),
        "claim": Target("json", "claim/info.json", (info, *of("robustness.json")), read_claim),
        "configuration": Target("json", f"{RELEASE}/config.json", of("config.json"), read_release),
        "weights": Target("tensors", f"{RELEASE}/model.safetensors", of("model.safetensors"), read_release),
        "card": Target("text", "older/README.md", of("README.md"), read_card),
        "check pack": Target("npz", "pack/check.npz", of("check.npz"), read_checked),
        "predictions": Target("text", "pack/answers.csv", (answers.encode(),), read_answers),
        "data set": Target("npz", "user.npz", (user,), data.load),
        "adversarial images": Target("npz", "adversarial.npz", (x_adv,), read_adversarial),
        "images": Target("npz", "photos.npz", (stored(images=images),), read_photos),
        "checkpoint": Target("tensors", "checkpoint.safetensors", (state,), checkpoint.load),
        "run": Target("json", "run/run.json", (started,), lambda path: record.read_run(path.parent)),
        "published": Target("json", "published/published.json", (listed,), read_published),
        "model": Target("onnx", "model.onnx", (*of("model.onnx"), *of("model.int8.onnx")), read_model),
        **{
            f"release: {name}": Target(form, f"{SEARCHED}/{name}", of(name, searched), read_whole)
            for form, files in WHOLE.items()
            for name in files
        },
    }


def own_tensors() -> dict[str, Any]:
    """A few small tensors."""
    import torch

    return {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3), "half": torch.ones(2).half()}
