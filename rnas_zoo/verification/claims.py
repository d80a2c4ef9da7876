"""The re-verification rule: what a new run says about a claim that somebody else made.

Robust accuracy is an upper bound, so an attack can only refute downward: a run that breaks fewer images than the claim
admits refutes nothing. Nothing is attacked in here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data
from ..attacks.threat import parse_eps
from ..errors import CheckFailedError, DataError, UsageError
from ..intervals import clopper_pearson
from . import evidence, robustbench

_SAME_EPS = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What a new run says about a claim.

    Attributes:
        verdict: `reproduced`, `not refuted` or `refuted`.
        reasons: what refutes it, or what keeps it from being reproduced.
        positions: images, by position, that were claimed robust and are broken now, whose clean verdict disagrees, or
            whose pixels are not the claim's.
        text: one paragraph for a person.
    """

    verdict: str
    reasons: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    text: str = ""

    @property
    def exit_code(self) -> int:
        """1 where the claim is refuted, else 0."""
        return 1 if self.verdict == "refuted" else 0


class Claim(NamedTuple):
    """What a file states.

    Attributes:
        kind: `verdicts` (runs with one verdict per image), `numbers` (runs without), or `robustbench`.
        runs: evidence records; for RobustBench one with `clean_accuracy`, `robust_accuracy`, `dataset`, `norm`, `eps`
            and `protocol` alone, None where the file does not say.
        verdicts: per-image arrays of each run; empty unless kind is `verdicts`.
    """

    kind: str
    runs: list[dict[str, Any]]
    verdicts: list[dict[str, np.ndarray]]


def compare(
    claimed_run: dict[str, Any],
    claimed_verdicts: dict[str, np.ndarray],
    run: dict[str, Any],
    verdicts: dict[str, np.ndarray],
    *,
    problems: Sequence[str] = (),
) -> Outcome:
    """Compare a claim with a new run, image by image, matched by position and pixel hash.

    *Refuted*: `problems`; another file of the same kind; a clean verdict that disagrees although a clean margin
    exceeds 1e-4; records that do not add up to the stated numbers; or more images broken that were claimed robust than
    `evidence.limit` allows. *Reproduced*: the same protocol and parameters, threat model and images, and none of that.
    *Not refuted*: the rest; the reasons name what was weaker or fewer. Images without a verdict refute nothing.

    Args:
        claimed_run, claimed_verdicts: the claim's evidence record and its arrays.
        run, verdicts: the new ones. Their eps may be smaller than the claim's: what breaks there breaks at the claim's.
        problems: what was found wrong elsewhere (see `folder_check`).

    Raises:
        UsageError: another norm, a larger eps, other preprocessing, or kinds of file that cannot be compared.
        DataError: no image in common.
    """
    weaker = same_threat(claimed_run, run) + _same_kind(claimed_run, run)
    refuting = [*problems, *_other_file(claimed_run["subject"], run["subject"])]
    try:
        evidence.check(claimed_run, claimed_verdicts)
        if len(np.unique(claimed_verdicts["position"])) < claimed_run["n"]:
            raise CheckFailedError("evidence does not add up: it lists images twice")
    except CheckFailedError as error:
        return _outcome([*refuting, f"the claim's {error}"], [], [], claimed_run, run)
    rows, new_rows, foreign = _match(claimed_verdicts, verdicts)
    if len(rows) < claimed_run["n"]:
        others = f" ({len(foreign)} have other pixels here)" if len(foreign) else ""
        weaker.append(f"{claimed_run['n'] - len(rows)} of the claim's {claimed_run['n']} images are left out{others}")
    weaker += _same_protocol(claimed_run, run)

    old = {key: claimed_verdicts[key][rows] for key in evidence.PER_IMAGE}
    new = {key: verdicts[key][new_rows] for key in evidence.PER_IMAGE}
    judged = ~old["refused"].astype(bool) & ~new["refused"].astype(bool)
    near = (np.abs(old["clean_margin"]) <= evidence.CLEAN_MARGIN) & (
        np.abs(new["clean_margin"]) <= evidence.CLEAN_MARGIN
    )
    disagree = judged & ~near & (old["clean_correct"].astype(bool) != new["clean_correct"].astype(bool))
    broken = judged & old["clean_correct"].astype(bool) & (old["broken_by"] == "") & (new["broken_by"] != "")
    count, allowed = int(broken.sum()), evidence.limit(len(rows))
    if disagree.any():
        refuting.append(f"{int(disagree.sum())} clean verdicts disagree by more than rounding can explain")
    if count > allowed:
        refuting.append(f"{count} images claimed robust are broken, at most {allowed} of {len(rows)} may be")
    if missing := int((new["refused"].astype(bool) & ~old["refused"].astype(bool)).sum()):
        weaker.append(f"{missing} images got no verdict (non-finite logits)")
    positions = [*old["position"][disagree | broken].tolist(), *foreign.tolist()]
    compared = f"{len(rows)} images were compared; {count} of those claimed robust are broken now."
    return _outcome(refuting, weaker, sorted(positions), claimed_run, run, compared)


def refuted(problems: Sequence[str]) -> Outcome:
    """The fate of a claim whose files refute it by themselves."""
    return Outcome("refuted", list(problems), [], f"Refuted without a verification: {'; '.join(problems)}.")


def compare_number(claim: float, run: dict[str, Any], claimed_run: dict[str, Any] | None = None) -> Outcome:
    """Compare a claimed robust accuracy, without verdicts per image, with a new run.

    *Refuted* only where the claim lies above our whole 95 % interval, in which images without a verdict count as
    robust; otherwise *not refuted*. The interval holds for images drawn from where the claim's were.

    Args:
        claim: fraction in [0, 1].
        claimed_run: where the claim comes from (see `read_claim`), to compare the threat model and data set with.

    Raises:
        UsageError: no fraction, another norm, another data set, or a larger eps.
    """
    if not 0 <= claim <= 1:
        raise UsageError(f"a claimed accuracy is a fraction in [0, 1], got {claim:g}; write 62.8 % as 0.628")
    weaker = []
    if claimed_run is not None:
        weaker = same_threat(claimed_run, run)
        claimed, found = claimed_run["dataset"]["name"], run["dataset"]["name"]
        if claimed not in (None, found):
            if evidence.data_source(run["dataset"]) in data.DATASETS:
                raise UsageError(f"the claim is about {claimed}, this run about {found}: verify on {claimed}")
            weaker.append(f"the claim is about {claimed}, the images of this run are called {found}")
    robust = round(run["robust_accuracy"] * run["n"])
    high = clopper_pearson(min(run["n"], robust + run["refused"]), run["n"])[1]
    measured = f"{run['robust_accuracy']:.4f} on {run['n']} images (95 % interval up to {high:.4f})"
    refuting = [f"the claim of {claim:.4f} lies above what was measured: {measured}"] if high < claim else []
    weaker.append("the claim has no verdicts per image")
    stated = {"protocol": None, "norm": run["norm"], "eps": run["eps"], **(claimed_run or {}), "robust_accuracy": claim}
    return _outcome(refuting, weaker, [], stated, run)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome for a JSON object."""
    return {key: getattr(outcome, key) for key in ("verdict", "reasons", "positions", "text")}


def choose_run(
    runs: list[dict[str, Any]], verdicts: list[dict[str, np.ndarray]], kind: str, protocol: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The claim to verify: of the runs on one kind of file, the strongest protocol, then the most images.

    Args:
        kind: `torch`, `onnx` or `int8`.
        protocol: this protocol only.

    Raises:
        DataError: there is no such run.
    """
    rows = [i for i, run in enumerate(runs) if run["subject"]["kind"] == kind and protocol in (None, run["protocol"])]
    if not rows:
        have = "; ".join(f"{r['subject']['kind']} {r['protocol']} {r['norm']} {r['eps']} n={r['n']}" for r in runs)
        what = f"{kind} with protocol {protocol}" if protocol else kind
        raise DataError(f"there is no evidence about {what}. There is: {have or 'none; verify --save makes some'}")
    best = max(rows, key=lambda i: evidence.rank(runs[i]))
    return runs[best], verdicts[best]


def read_claim(path: str | Path) -> Claim:
    """Read a claim from a robustness.json, with or without verdicts.npz beside it, or a RobustBench model_info file.

    Raises:
        DataError: neither, or damaged.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a robustness.json or a RobustBench model_info file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no readable JSON ({error}); download it again") from error
    if isinstance(value, dict) and "runs" in value:
        if path.with_name("verdicts.npz").exists():
            return Claim("verdicts", *evidence.read_file(path))
        runs = evidence.read_runs(path)
        return Claim("numbers", [{key: run[key] for key in run if key != "verdicts"} for run in runs], [])
    return Claim("robustbench", [robustbench.read_info(value, path)], [])


def same_threat(claimed_run: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """What made this run weaker than the claim's threat model; what the claim does not say is not compared."""
    norm, eps = claimed_run["norm"], claimed_run["eps"]
    if norm not in (None, run["norm"]):
        raise UsageError(f"the claim holds under {norm}, this run attacked under {run['norm']}: use --norm {norm}")
    difference = 0.0 if eps is None else parse_eps(run["eps"]) - parse_eps(eps)
    if difference > _SAME_EPS:
        raise UsageError(f"the claim holds up to eps {eps}, this run attacked with {run['eps']}: use --eps {eps}")
    return [f"eps was {run['eps']}, smaller than the claim's {eps}"] if difference < -_SAME_EPS else []


def _same_kind(claimed_run: dict[str, Any], run: dict[str, Any]) -> list[str]:
    claimed, found = claimed_run["subject"]["kind"], run["subject"]["kind"]
    if claimed != found and "int8" in (claimed, found):
        raise UsageError(f"the claim is about {claimed}, this run about {found}: verify the same kind of file")
    if claimed != found:
        return [f"the claim is about {claimed}, this run about {found}"]
    wanted, given = (_plain(each.get("preprocessing")) for each in (claimed_run, run))
    if wanted != given:
        raise UsageError(
            f"the claim's images are preprocessed by {wanted or 'nothing'}, those of this run by {given or 'nothing'}: "
            "verify with the claim's"
        )
    return []


def _same_protocol(claimed_run: dict[str, Any], run: dict[str, Any]) -> list[str]:
    claimed, found = claimed_run["protocol"], run["protocol"]
    if claimed != found:
        is_weaker = evidence.STRENGTH.get(found, -1) < evidence.STRENGTH.get(claimed, -1)
        return [f"the protocol was {found}{' (weaker)' if is_weaker else ''}, the claim's is {claimed}"]
    old, new = _plain(claimed_run.get("params") or {}), _plain(run.get("params") or {})
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    weaker = [f"{', '.join(changed)} ran with other parameters than the claim's"] if changed else []
    sources = [(each.get("source") or {}).get("sha256") for each in (claimed_run, run)]
    return weaker + (["the attacks ran on another source model than the claim's"] if sources[0] != sources[1] else [])


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples of a run just made become lists."""
    return json.loads(json.dumps(value))


def _other_file(claimed: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Whether two subjects of one kind have other checksums; those of files and of modules in memory are no pair."""
    comparable = claimed["kind"] == found["kind"] and (claimed.get("file") is None) == (found.get("file") is None)
    if not comparable or claimed["sha256"] == found["sha256"]:
        return []
    return [f"the {found['kind']} file is not the claim's: sha256 {found['sha256'][:12]}, not {claimed['sha256'][:12]}"]


def _match(claimed: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both tables that hold the same image, and the positions both hold with other pixels."""
    if len(np.unique(found["position"])) < len(found["position"]):
        raise DataError("this run judged a position twice: give every image once")
    shared, rows, new_rows = np.intersect1d(claimed["position"], found["position"], return_indices=True)
    same = claimed["pixels_sha256"][rows] == found["pixels_sha256"][new_rows]
    if not len(shared):
        raise DataError("this run and the claim have no image in common: verify the claim's own positions")
    if not same.any():
        raise DataError(
            f"all {len(shared)} images have other pixels than the claim's: this is another data set, another copy of "
            "it, or it was resized or encoded again; use the data the claim names"
        )
    return rows[same], new_rows[same], shared[~same]


def _outcome(
    refuting: list[str],
    weaker: list[str],
    positions: list[int],
    claimed_run: dict[str, Any],
    run: dict[str, Any],
    compared: str = "",
) -> Outcome:
    verdict = "refuted" if refuting else "not refuted" if weaker else "reproduced"
    reasons = refuting or weaker
    protocol = f"{claimed_run['protocol']}, " if claimed_run["protocol"] else ""
    why = "Why" if refuting else "What keeps it from being reproduced"
    measured = f"{run['robust_accuracy']:.4f} ({run['protocol']}, {run['norm']} {run['eps']}, n={run['n']})"
    parts = [
        f"{verdict.capitalize()}: the claim is a robust accuracy of {claimed_run['robust_accuracy']:.4f} "
        f"({protocol}{claimed_run['norm'] or run['norm']} {claimed_run['eps'] or run['eps']}).",
        compared,
        f"This run measured {measured}.",
        f"{why}: {'; '.join(reasons)}." if reasons else "",
    ]
    return Outcome(verdict, reasons, positions, " ".join(part for part in parts if part))
