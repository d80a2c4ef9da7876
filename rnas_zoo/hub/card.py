"""Model cards: rendered from a release folder's evidence, never edited by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined, TemplateError

from .. import genotype
from ..attacks import Threat
from ..engine.config import read_toml
from ..errors import CheckFailedError, DataError, RnasZooError
from ..files import sha256_file, write_text
from ..models.size import count_macs, count_parameters
from ..reference import load
from ..training.objectives import SINGLE_STEP
from ..verification import evidence
from ..verification.pack import read_pack
from . import citation, measured, sections, usage
from .card_data import front_matter
from .sections import markdown_table

QUICK_WARNING = (
    "The protocol `quick` is random noise, FGSM and PGD-20. It is weaker than AutoAttack: the true robust accuracy "
    "is at most the figure shown, and usually a few points lower."
)
TEMPLATE = Path(__file__).with_name("card.md.jinja")


def describe_training(recipe: Mapping[str, Any], threat: Threat | str) -> str:
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


def _introduction(folder: Path, config: Mapping[str, Any], run: dict[str, Any], training: str, size: str) -> str:
    """What the model is, and what was measured: a sentence each."""
    kinds = {"clean": "A non-robust image classifier", "rnas_cl": "An image classifier"}
    objective = read_toml(folder / "recipe.toml")["objective"]
    height, width = config["pretrained_cfg"]["input_size"][1:]
    kind = kinds.get(objective, "A robust image classifier")
    what = (
        f"{kind} for {config['rnas_zoo']['dataset']} ({height}x{width} RGB in [0, 1], {len(config['label_names'])} "
        f"classes): `{config['architecture']}` with {size}, from {training}."
    )
    low, high = run["interval"]
    called = "AutoAttack (protocol `standard`)" if run["protocol"] == "standard" else f"protocol `{run['protocol']}`"
    result = (
        f"Of {run['n']:,} test images it classifies {sections.percent(run['clean_accuracy'])} correctly (95 % interval "
        f"{sections.interval(run['clean_accuracy'], run['n'])}), and **{sections.percent(run['robust_accuracy'])}** "
        f"({sections.percent(low)} to {sections.percent(high)}) under every attack of {called} "
        f"with {sections.threat_name(run)}{sections.twin_clause(folder, run)}."
    )
    return f"{what} {result}"


def describe_architecture(found: genotype.Genotype) -> str:
    """Where an architecture comes from: name and status, paper or search with its cost, source, and what to know."""
    source = found.provenance
    status, note = source.get("status", "unknown origin"), source.get("note")
    if "cost" in source:
        cost, on = source["cost"], source.get("dataset")
        kind = ", a reconstruction of the paper's," if status == "reconstructed" else ""
        origin = (
            f"`{found.name}`, found by our search with method `{source.get('method')}`{kind} on {on} "
            f"({cost.get('architecture_steps')} architecture steps, {cost.get('seconds')} s on {cost.get('device')}); "
            f"hash `{found.hash[:12]}`, whole configuration in `genotype.json`."
        )
    else:
        paper = f", {source['paper']}" if source.get("paper") else ""
        origin = f"`{found.name}` ({status}){paper}; hash `{found.hash[:12]}`."
        if source.get("source"):
            origin += f" Source: {source['source']}."
    return f"{origin} {note}" if note else origin


def render(folder: str | Path) -> str:
    """The card of a release folder, front matter included.

    Raises:
        DataError: the folder has no evidence, its config.json no licence, or a file does not hold what the card needs.
    """
    try:
        return _rendered(Path(folder))
    except RnasZooError:
        raise
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError, TemplateError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"{folder}: a file of it does not hold what the card needs ({cause}); package the model again"
        ) from error


def _rendered(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    runs, verdicts = evidence.read(folder)
    if not runs:
        raise DataError(f"{folder} has no evidence: run `rnas-zoo verify {folder} --data ... --save` first")
    if not config["pretrained_cfg"].get("license"):
        raise DataError(f"{folder / 'config.json'} names no licence: add pretrained_cfg.license, such as mit")
    recipe = read_toml(folder / "recipe.toml")
    trained = Threat(recipe["norm"], recipe["eps"])
    shown = _in_order(evidence.strongest(runs), trained)
    first = shown[0]
    network = load(folder)
    onnx = sections.read(folder, "export.json")
    name, input_size = config["rnas_zoo"]["name"], tuple(config["pretrained_cfg"]["input_size"])
    own = folder / "genotype.json"
    found = genotype.load(own) if own.is_file() else None
    paper = citation.reference(config["architecture"], found)
    training = describe_training(recipe, trained)
    macs = count_macs(network, input_size)
    size = f"{count_parameters(network):,} parameters and {macs / 1e6:.2f} million multiply-accumulates per image"
    matter = front_matter(config, recipe, shown, searched=found is not None, onnx=onnx is not None)
    text = (
        Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            name=name,
            intro=_introduction(folder, config, first, training, size),
            results=measured.results(shown, runs),
            flags=measured.flags(runs),
            warning=QUICK_WARNING if any(run["protocol"] == "quick" for run in shown) else "",
            create=usage.create_block(name, input_size[1:]),
            predict=usage.predict_block(onnx["file"]) if onnx else "",
            verify=usage.verify_block(name, first),
            took=measured.duration(first["seconds"]),
            onnx=onnx,
            parity=max(onnx["parity"].values()) if onnx else 0.0,
            compared=onnx.get("images", onnx["same_class"]) if onnx else 0,
            int8=sections.int8_section(folder, onnx or {}),
            threats=measured.threats(runs),
            protocols=measured.protocols(runs, verdicts),
            images=measured.image_sets(runs, verdicts),
            files=measured.files(runs),
            versions=measured.versions(runs),
            architecture=describe_architecture(found) if found else f"`{config['architecture']}`, designed by hand.",
            drawn=found is not None,
            objective=training,
            recipe=recipe,
            check=_count_check(folder),
            limits=sections.limits_section(folder),
            by_class=sections.classes_section(folder, shown),
            curve=sections.curve_section(folder),
            twin=sections.twin_sentence(folder),
            cost=sections.describe_cost(folder),
            percent=sections.percent,
            table=markdown_table,
            license=config["pretrained_cfg"]["license"].upper(),
            paper=citation.bibtex(paper) if paper else "",
            cited=citation.sentence(found),
        )
    )
    return f"---\n{matter.to_yaml()}\n---\n\n{text}"


def _in_order(runs: list[dict[str, Any]], trained: Threat) -> list[dict[str, Any]]:
    """The first run of every file, then all further ones; those under the threat trained against come first."""
    own = (trained.norm, trained.eps_text)
    runs = sorted(runs, key=lambda run: (run["norm"], run["eps"]) != own)
    first: dict[str, dict[str, Any]] = {}
    for run in runs:
        first.setdefault(run["subject"]["file"], run)
    return sorted(runs, key=lambda run: (run is not first[run["subject"]["file"]], run["subject"]["kind"] != "torch"))


def write(folder: str | Path) -> None:
    """Write a release folder's card, and the picture of accuracy by class, from what is measured in it.

    Raises:
        DataError: the folder has no evidence.
    """
    folder = Path(folder)
    text = render(folder)
    sections.draw_classes(folder, evidence.strongest(evidence.read(folder)[0]))
    write_text(folder / "README.md", text)


def _count_check(folder: Path) -> int:
    return len(read_pack(folder / "check.npz").labels) if (folder / "check.npz").is_file() else 0


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
    if not read_front_matter(found, path).to_dict().get("model-index"):
        raise CheckFailedError(f"{path}: its front matter has no model-index")


def read_front_matter(text: str, where: str | Path) -> ModelCardData:
    """The front matter of a card, as the Hub's client reads it.

    Raises:
        DataError: it is damaged; `where` is what the message calls the card.
    """
    try:
        data: Any = ModelCard(text).data
        return data
    except Exception as error:  # whatever YAML and the client may raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{where}: its front matter cannot be read ({cause}); write the card anew") from error
