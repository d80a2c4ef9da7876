"""Model cards: rendered from a release folder's evidence, never edited by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from .. import data, genotype
from ..engine.config import read_toml
from ..errors import CheckFailedError, DataError
from ..files import sha256_file, write_text
from ..models.size import count_macs, count_parameters
from ..reference import load
from ..training.objectives import SINGLE_STEP
from ..verification import evidence
from ..verification.protocols import UNROUNDED
from . import sections

NORM_NAMES = {"linf": "L∞", "l2": "L2"}
ATTACK_NAMES = {
    "noise": "random noise (control)",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "apgd-ce": "APGD-CE",
    "apgd-t": "then APGD-T",
    "fab-t": "then FAB-T",
    "square": "then Square",
    "halving-t": "then targeted APGD on the nearest classes",
    "pgd100": "then PGD-100 x 5",
    "margin-pgd-t": "then targeted margin PGD-100",
    "mi-fgsm": "MI-FGSM",
    "margin-pgd": "margin PGD",
    "given": "given images",
}
QUICK_WARNING = (
    "The protocol `quick` is random noise, FGSM and PGD-20. It is weaker than AutoAttack: the true robust accuracy "
    "is at most the figure shown, and usually a few points lower."
)

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def _columns(runs: list[dict[str, Any]]) -> list[str]:
    """The attacks that the table shows: each once, whichever way through a rounded network it took."""
    names = dict.fromkeys(name for run in runs for name in run["attacks"])
    return [name for name in names if not name.endswith(UNROUNDED)]


def _under(run: dict[str, Any], attack: str) -> str:
    """Accuracy under an attack, or a dash where the run did not use it."""
    if attack not in run["attacks"]:
        return "–"
    return sections.percent(evidence.accuracy_under(run, attack))


def describe_training(recipe: Mapping[str, Any], threat: str) -> str:
    """What the weights learned from."""
    objective, teacher = recipe["objective"], recipe.get("teacher")
    helped = f" and the teacher `{teacher}`" if teacher else ""
    if objective == "clean":
        return f"standard training{helped}"
    if objective == "rnas_cl":
        return f"distillation on clean images (RNAS-CL) from the teacher `{teacher}`"
    names = {"nfgsm": "N-FGSM", "fgsm_rs": "FGSM-RS", "trades": "TRADES", "rslad": "RSLAD"}
    called = f"PGD-{recipe['attack_steps']}" if objective == "pgd" else names.get(objective, f"`{objective}`")
    late = recipe.get("multi_step_from", 1.0)
    if late < 1 and (objective in SINGLE_STEP or recipe.get("attack") in SINGLE_STEP):
        called += f" ({recipe['attack_steps']} steps in the last {100 * (1 - late):.0f} % of training)"
    averaged = " and averaged weights" if recipe.get("average") else ""
    return f"adversarial training with {called}{helped}{averaged} at {threat}"


def _introduction(objective: str, dataset: str, run: dict[str, Any], threat: str) -> str:
    kinds = {
        "clean": "A non-robust (standard training) image classifier",
        "rnas_cl": "An image classifier distilled from a robust teacher, never trained on adversarial images,",
    }
    return (
        f"{kinds.get(objective, 'A robust image classifier')} for {dataset}: {sections.percent(run['clean_accuracy'])} "
        f"clean accuracy, {sections.percent(run['robust_accuracy'])} under {threat} perturbations "
        f"(protocol `{run['protocol']}`, {run['n']} test images)."
    )


def describe_architecture(found: genotype.Genotype) -> str:
    """One line on where an architecture comes from."""
    source = found.provenance
    if source.get("status") == "ours":
        cost = source.get("cost", {})
        return (
            f"`{found.name}`, found by our search with method `{source.get('method')}` on {source.get('dataset')} "
            f"({cost.get('architecture_steps')} architecture steps, {cost.get('seconds')} s on {cost.get('device')}); "
            f"hash `{found.hash[:12]}`, whole configuration in `genotype.json`."
        )
    status = source.get("status", "unknown origin")
    return f"`{found.name}` ({status}), {source.get('paper', '')}; hash `{found.hash[:12]}`."


def render(folder: str | Path) -> str:
    """The card of a release folder, front matter included.

    Raises:
        DataError: the folder has no evidence.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    runs, _ = evidence.read(folder)
    if not runs:
        raise DataError(f"{folder} has no evidence: run `rnas-zoo verify {folder} --data ... --save` first")
    shown = evidence.strongest(runs)
    recipe = read_toml(folder / "recipe.toml")
    network = load(folder)
    export = folder / "export.json"
    onnx = json.loads(export.read_text(encoding="utf-8")) if export.is_file() else None
    name = config["rnas_zoo"]["name"]
    first = shown[0]
    threat = f"{NORM_NAMES[first['norm']]} {first['eps']}"
    own = folder / "genotype.json"
    found = genotype.load(own) if own.is_file() else None
    dataset = config["rnas_zoo"]["dataset"]
    text = (
        Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            name=name,
            intro=_introduction(recipe["objective"], dataset, first, threat),
            size=config["pretrained_cfg"]["input_size"][1:],
            classes=config["label_names"],
            params=count_parameters(network),
            macs=count_macs(network, tuple(config["pretrained_cfg"]["input_size"])),
            runs=shown,
            attacks=_columns(shown),
            attack_names=ATTACK_NAMES,
            norm_names=NORM_NAMES,
            percent=sections.percent,
            under=_under,
            warning=QUICK_WARNING if any(run["protocol"] == "quick" for run in shown) else "",
            verify_command=verify_command(first),
            claim_command=claim_command(first),
            onnx=onnx,
            parity=max(onnx["parity"].values()) if onnx else 0.0,
            compared=onnx.get("images", onnx["same_class"]) if onnx else 0,
            int8=sections.int8_section(folder, onnx or {}),
            architecture=describe_architecture(found) if found else f"`{config['architecture']}`, designed by hand.",
            drawn=found is not None,
            objective=describe_training(recipe, threat),
            recipe=recipe,
            check=_count_check(folder),
            limits=sections.limits_section(folder),
            by_class=sections.classes_section(folder, shown),
            curve=sections.curve_section(folder),
            twin=sections.twin_sentence(folder),
            cost=sections.describe_cost(folder),
        )
    )
    return f"---\n{_front_matter(name, dataset, shown).to_yaml()}\n---\n\n{text}"


def write(folder: str | Path) -> None:
    """Write a release folder's card, and the picture of accuracy by class, from what is measured in it.

    Raises:
        DataError: the folder has no evidence.
    """
    folder = Path(folder)
    text = render(folder)
    sections.draw_classes(folder, evidence.strongest(evidence.read(folder)[0]))
    write_text(folder / "README.md", text)


def claim_command(run: dict[str, Any], folder: str = "FOLDER") -> str:
    """The command that compares a model with its card, image by image."""
    target = folder if run["subject"]["kind"] == "torch" else f"{folder}/{run['subject']['file']}"
    source = evidence.data_source(run["dataset"]) or ""
    return f"rnas-zoo verify {target} --against-card" + ("" if source in data.DATASETS else f" --data {quote(source)}")


def verify_command(run: dict[str, Any], folder: str = "FOLDER") -> str:
    """The command that repeats an evidence run."""
    target = folder if run["subject"]["kind"] == "torch" else f"{folder}/{run['subject']['file']}"
    source, size = evidence.data_source(run["dataset"]) or "", run["dataset"].get("image_size")
    resize = f" --image-size {data.spelled(tuple(size))}" if size else ""
    return (
        f"rnas-zoo verify {target} --data {quote(source)}{resize} --protocol {run['protocol']} --norm {run['norm']} "
        f"--eps {run['eps']} --n {run['n']} --seed {run['seed']}"
    )


def _count_check(folder: Path) -> int:
    import numpy as np

    if not (folder / "check.npz").is_file():
        return 0
    with np.load(folder / "check.npz", allow_pickle=False) as file:
        return len(file["labels"])


def _front_matter(name: str, dataset: str, runs: list[dict[str, Any]]) -> ModelCardData:
    results = []
    for run in runs:
        if run["subject"]["kind"] != "torch":
            continue
        threat = {
            "norm": run["norm"],
            "eps": run["eps"],
            "protocol": run["protocol"],
            "n": run["n"],
            "seed": run["seed"],
        }
        figures = (
            ("Accuracy", run["clean_accuracy"], {"n": run["n"]}),
            (
                f"Robust accuracy ({run['protocol']}, {NORM_NAMES[run['norm']]} {run['eps']})",
                run["robust_accuracy"],
                threat,
            ),
        )
        for label, value, arguments in figures:
            results.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=dataset,
                    dataset_name=dataset,
                    dataset_split=run["dataset"]["split"],
                    metric_type="accuracy",
                    metric_name=label,
                    metric_value=round(value, 4),
                    metric_args=arguments,
                )
            )
    return ModelCardData(
        library_name="timm",
        license="mit",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "adversarial-robustness", "neural-architecture-search", "onnx"],
        model_name=name,
        eval_results=results,
    )


def check(folder: str | Path) -> None:
    """A card must be what its folder's evidence renders to, parse as a Hub card, and its records must add up.

    Raises:
        CheckFailedError: naming what differs.
    """
    folder = Path(folder)
    runs, verdicts = evidence.read(folder)
    for run, table in zip(runs, verdicts, strict=True):
        evidence.check(run, table)
    measured = sections.read(folder, sections.LIMITS)
    if measured and measured["subject"]["sha256"] != sha256_file(folder / measured["subject"]["file"]):
        raise CheckFailedError(f"{folder / sections.LIMITS} was measured on other weights; package the model again")
    path = folder / "README.md"
    if not path.is_file():
        raise CheckFailedError(f"{folder} has no card: write it with `rnas-zoo card {folder}`")
    found, wanted = path.read_text(encoding="utf-8"), render(folder)
    if found != wanted:
        pairs = zip(found.splitlines(), wanted.splitlines(), strict=False)
        line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), min(found.count("\n"), wanted.count("\n")) + 1)
        raise CheckFailedError(
            f"{path}: line {line} is not what the evidence says; write the card anew with `rnas-zoo card {folder}`"
        )
    if not ModelCard(found).data.to_dict().get("model-index"):
        raise CheckFailedError(f"{path}: its front matter has no model-index")
