"""What was measured, for a card: the table of results, and threat models, attacks, images and versions in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..attacks.threat import parse_eps
from ..verification import evidence
from ..verification.protocols import UNROUNDED
from .sections import NORM_NAMES, images, percent, threat_name

ATTACK_NAMES = {
    "noise": "random noise (control)",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    "halving-t": "APGD-T in rungs",
    "pgd100": "PGD-100",
    "margin-pgd-t": "targeted margin PGD",
    "mi-fgsm": "MI-FGSM",
    "margin-pgd": "margin PGD",
    "given": "given images",
}
COUNTED = {"draws": "draw", "steps": "step", "restarts": "restart", "targets": "target class", "queries": "query"}
PLURALS = {"target class": "target classes", "query": "queries"}
KINDS = {
    "quick": "a control and few steps, each attack on every image: weaker than AutoAttack",
    "fast": "adaptive attacks for about a tenth of AutoAttack's passes",
    "standard": "AutoAttack's attacks with their published parameters",
    "full": "AutoAttack's attacks and further ones",
    "transfer": "images found on another model",
    "given": "images that somebody else found",
}
REACH = {
    "linf": "no colour value of a pixel changes by more than ε",
    "l2": "the Euclidean norm of the change is at most ε",
}

Run = dict[str, Any]


def results(shown: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    """Header and rows of the table: the runs shown, PGD-20 from whichever run has it for the same file and threat."""
    several = len({_data(run) for run in shown}) > 1
    with_pgd = any("pgd20" in run["attacks"] for run in runs)
    header = ["file", "threat", "protocol", "images", "clean", *["PGD-20"] * with_pgd, "robust", "95 % interval"]
    rows = []
    for run in shown:
        low, high = run["interval"]
        rows.append(
            [
                f"`{run['subject']['file']}`",
                threat_name(run),
                f"`{run['protocol']}`",
                f"{run['n']:,}{f' of {_data(run)}' if several else ''}",
                percent(run["clean_accuracy"]),
                *[_pgd20(run, runs)] * with_pgd,
                f"**{percent(run['robust_accuracy'])}**",
                f"{percent(low)} to {percent(high)}",
            ]
        )
    return {"header": header, "rows": rows, "data": None if several else _data(shown[0])}


def _data(run: Run) -> str:
    return f"{run['dataset']['name']} {run['dataset']['split']}"


def _pgd20(run: Run, runs: Iterable[Run]) -> str:
    same = [each for each in runs if "pgd20" in each["attacks"] and _about(each) == _about(run)]
    if not same:
        return "–"
    found = min(same, key=lambda each: (each["n"] != run["n"], -each["n"]))
    note = "" if found["n"] == run["n"] else f" (of {found['n']:,})"
    return percent(evidence.accuracy_under(found, "pgd20")) + note


def _about(run: Run) -> tuple[str, ...]:
    return run["subject"]["file"], run["dataset"]["name"], run["norm"], run["eps"]


def flags(runs: Iterable[Run]) -> list[str]:
    """What the sanity checks found, each with its file."""
    found = dict.fromkeys(f"`{run['subject']['file']}`: {text}" for run in runs for text in run["flags"])
    return list(found)


def threats(runs: Iterable[Run]) -> list[str]:
    """One sentence for each norm: what the adversary may do."""
    sizes: dict[str, dict[str, float]] = {}
    for run in runs:
        sizes.setdefault(run["norm"], {})[run["eps"]] = parse_eps(run["eps"])
    sentences = []
    for norm, found in sizes.items():
        listed = ", ".join(_size(eps, value) for eps, value in sorted(found.items(), key=lambda item: item[1]))
        sentences.append(f"{NORM_NAMES[norm]}: {REACH[norm]}, with ε = {listed} in pixels of [0, 1].")
    return sentences


def _size(eps: str, value: float) -> str:
    return f"{eps} ({value:.4f})" if "/" in eps else eps


def protocols(runs: Sequence[Run], verdicts: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Every protocol that was used, the strongest first: what it is, its attacks, and a table of its runs."""
    found = []
    for name in sorted({run["protocol"] for run in runs}, key=lambda each: -evidence.STRENGTH.get(each, -1)):
        mine = [(run, table) for run, table in zip(runs, verdicts, strict=True) if run["protocol"] == name]
        attacks = list(dict.fromkeys(plain(attack) for run, _ in mine for attack in run["attacks"]))
        each_alone = name in evidence.EVERY_IMAGE
        called = [ATTACK_NAMES.get(attack, attack) for attack in attacks]
        columns = [label if each_alone or not i else f"then {label}" for i, label in enumerate(called)]
        header = ["file", "threat", "images", "seed", *columns, "passes per image", "time"]
        found.append(
            {
                "name": name,
                "kind": KINDS.get(name, ""),
                "attacks": [describe_attack(attack, [run for run, _ in mine]) for attack in attacks],
                "header": header,
                "rows": [_row(run, table, attacks) for run, table in mine],
            }
        )
    return found


def plain(attack: str) -> str:
    """An attack's name without the ending that says which way through a rounded network it took."""
    return attack.removesuffix(UNROUNDED)


def _row(run: Run, table: Mapping[str, np.ndarray], attacks: Sequence[str]) -> list[str]:
    accuracies = [_under(run, attack) for attack in attacks]
    each, took = f"{run['passes'] / run['n']:,.0f}", duration(run["seconds"])
    label = f"`{run['subject']['file']}`"
    return [label, threat_name(run), images(run, table), str(run["seed"]), *accuracies, each, took]


def _under(run: Run, attack: str) -> str:
    """Accuracy under an attack, whichever ways it took, or a dash where the run did not use it."""
    ways = [name for name in run["attacks"] if plain(name) == attack]
    if not ways:
        return "–"
    if run["protocol"] not in evidence.EVERY_IMAGE:
        return percent(evidence.accuracy_under(run, ways[-1]))
    return percent(evidence.accuracy_under(run, attack))


def duration(seconds: float) -> str:
    """`17 s` or `15.6 min`."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def describe_attack(attack: str, runs: Sequence[Run]) -> str:
    """An attack's name and the parameters that its runs recorded."""
    texts = dict.fromkeys(spelled(run["params"][attack]) for run in runs if attack in run.get("params", {}))
    name = ATTACK_NAMES.get(attack, attack)
    said = " or ".join(text for text in texts if text)
    also = any(attack + UNROUNDED in run["attacks"] for run in runs)
    return name + (", also through the network without its rounding" if also else "") + (f": {said}" if said else "")


def spelled(params: Mapping[str, Any]) -> str:
    """An attack's parameters in words: `9 target classes, 100 steps, rho 0.75`."""
    return ", ".join(_parameter(name, value) for name, value in params.items())


def _parameter(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if name == "rungs":
        return ", then ".join(f"{_parameter('targets', classes)} x {steps} steps" for classes, steps in value)
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if name in COUNTED:
        one = COUNTED[name]
        return f"{value:,} {one if value == 1 else PLURALS.get(one, one + 's')}"
    return f"{words} {value}"


def files(runs: Iterable[Run]) -> list[str]:
    """The files and their checksums."""
    return list(dict.fromkeys(f"`{run['subject']['file']}` ({run['subject']['sha256'][:12]})" for run in runs))


def image_sets(runs: Sequence[Run], verdicts: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """The images and the checksums of their pixels."""
    pairs = zip(runs, verdicts, strict=True)
    texts = (f"{images(run, table)} of {_data(run)} ({run['dataset']['images_sha256'][:12]})" for run, table in pairs)
    return list(dict.fromkeys(texts))


def versions(runs: Iterable[Run]) -> list[str]:
    """The library versions, once for each combination."""
    found = (run.get("versions", {}) for run in runs)
    return list(dict.fromkeys(", ".join(f"{name} {version}" for name, version in each.items()) for each in found))
