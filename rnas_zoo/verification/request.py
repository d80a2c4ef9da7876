"""What `rnas-zoo verify` was asked: options, completed by the card or claim they are about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..arrays import read_array, read_arrays
from ..attacks import Threat
from ..attacks.threat import parse_eps
from ..engine.device import resolve_device
from ..errors import DataError, UsageError
from ..files import atomic_path
from ..reference import onnx_kind, subject
from . import claims, evidence
from .run import Report, verify
from .sweep import curve

N, SEED, PROTOCOL = 256, 0, "standard"
EPS = {"linf": "8/255", "l2": "0.5"}


@dataclass(frozen=True)
class Request:
    """One verification.

    Attributes:
        ref: the model; folder: the release folder it is or lies in, if any.
        image_size: height and width the images of `data` are brought to, None for their own.
        sizes: perturbation sizes as text; several ask for a curve.
        indices: positions of the images, None for the first `n`.
        claimed: the evidence record compared with, and its verdicts where there are some.
        declared: clean accuracy the folder's evidence states on this data set.
    """

    ref: str
    folder: Path | None
    data: str
    image_size: tuple[int, int] | None
    protocol: str
    norm: str
    sizes: tuple[str, ...]
    n: int
    indices: np.ndarray | None
    seed: int
    claimed: tuple[dict[str, Any], dict[str, np.ndarray] | None] | None = None
    number: float | None = None
    transfer_from: str | None = None
    adversarial: np.ndarray | None = None
    declared: float | None = None

    @property
    def threat(self) -> Threat:
        return Threat(self.norm, self.sizes[-1])

    @classmethod
    def make(
        cls,
        ref: str,
        *,
        data: str | None,
        image_size: tuple[int, int] | None,
        protocol: str | None,
        norm: str | None,
        eps: str | None,
        n: int | None,
        indices: Path | None,
        seed: int | None,
        against_card: bool,
        against: Path | None,
        claim: float | None,
        transfer_from: str | None,
        adversarial: Path | None,
        save: bool,
    ) -> Request:
        """Complete options that were not given.

        Raises:
            UsageError, DataError: options that contradict each other or the claim, or files that cannot be read.
        """
        if sum([against_card, against is not None, claim is not None]) > 1:
            raise UsageError("give one of --against-card, --against and --claim")
        path = Path(ref)
        folder = path if path.is_dir() else path.parent if path.suffix == ".onnx" else None
        if folder is not None and not (folder / "config.json").is_file():
            folder = None
        if (against_card or save) and folder is None:
            option = "--save" if save else "--against-card"
            raise UsageError(f"{option} needs a release folder or a file inside one, got {ref}")
        kind = onnx_kind(path) if path.suffix == ".onnx" else "torch"
        claimed = _claimed(folder if against_card else None, against, kind, norm, eps, data, image_size)
        stated: dict[str, Any] = claimed[0] if claimed else {}
        data_name = data or _data_of(stated)
        size = image_size or _size_of(stated)
        sizes = tuple((eps or stated.get("eps") or EPS[norm or stated.get("norm") or "linf"]).split(","))
        rows, images = _indices(indices), None
        if adversarial is not None:
            images, rows = _adversarial(adversarial, rows)
        if images is None and rows is None and claimed and claimed[1] is not None:
            rows = claimed[1]["position"]
        count = len(rows[:n]) if rows is not None else n or (N if images is None else len(images))
        if images is not None and len(images) < count:
            raise UsageError(f"{adversarial} holds {len(images)} images, {count} were asked for: give --n or --indices")
        request = cls(
            ref=ref,
            folder=folder,
            data=data_name,
            image_size=size,
            protocol=protocol or stated.get("protocol") or PROTOCOL,
            norm=norm or stated.get("norm") or "linf",
            sizes=sizes,
            n=count,
            indices=rows,
            seed=seed if seed is not None else int(stated.get("seed") or SEED),
            claimed=claimed,
            number=claim,
            transfer_from=transfer_from,
            adversarial=None if images is None else images[:count],
            declared=_declared(folder, kind, data_name, size),
        )
        if claimed:
            _same_data(stated, data_name, size, claimed[1] is not None)
            claims.same_threat(stated, {"norm": request.norm, "eps": request.threat.eps_text})
        if len(sizes) > 1 and (claimed or claim is not None or save or transfer_from or adversarial):
            raise UsageError("several sizes in --eps ask for a curve, which is compared with and saved to nothing")
        return request

    def verify(self, **options: Any) -> Report:
        """Run it; `options` are further arguments of `run.verify`."""
        return verify(
            self.ref,
            data_name=self.data,
            image_size=self.image_size,
            threat=self.threat,
            protocol=self.protocol,
            n=self.n,
            indices=self.indices,
            seed=self.seed,
            transfer_from=self.transfer_from,
            adversarial=self.adversarial,
            declared=self.declared,
            **options,
        )

    def curve(self, **options: Any) -> tuple[int, list[tuple[float, float]]]:
        """The number of images, and the accuracy on them at each of `sizes`; see `sweep.curve`."""
        for name in ("resume", "time_budget"):
            if options.pop(name, None):
                raise UsageError(f"a curve over several eps takes no --{name.replace('_', '-')}; ask for one eps")
        test = data.load(self.data, self.image_size).test
        rows = np.arange(min(self.n, len(test))) if self.indices is None else self.indices[: self.n]
        sizes = [Threat(self.norm, size).eps for size in self.sizes]
        chosen = subject(
            self.ref,
            checkpoint=options.pop("checkpoint", None),
            device=resolve_device(options.get("device", "auto")),
            image_size=test.images.shape[1:3],
            preprocessing=options.pop("preprocessing", None),
        )
        images = test.take(rows)
        return len(images), curve(
            chosen, images, self.norm, sizes, protocol=self.protocol, seed=self.seed, places=rows, **options
        )

    def outcome(self, report: Report) -> claims.Outcome | None:
        """The claim's fate, None if there is none."""
        if self.number is not None:
            return claims.compare_number(self.number, report.run)
        if self.claimed is None:
            return None
        run, verdicts = self.claimed
        if verdicts is None:
            return claims.compare_number(run["robust_accuracy"], report.run, run)
        return claims.compare(run, verdicts, report.run, report.verdicts)

    def routes(self, report: Report) -> dict[str, int]:
        """How many images each route broke."""
        return dict(sorted(Counter(str(route) for route in report.verdicts["route"] if route).items()))

    def save_adversarial(self, report: Report, path: Path) -> None:
        """Adversarial images as x_adv, float32 (N, 3, H, W), with their positions: what `--adversarial` reads."""
        if path.suffix != ".npz":
            raise UsageError(f"adversarial images are written to an .npz file, got {path}")
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, x_adv=report.x_adv, position=report.verdicts["position"])


def _claimed(
    card: Path | None,
    against: Path | None,
    kind: str,
    norm: str | None,
    eps: str | None,
    data_name: str | None,
    image_size: tuple[int, int] | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray] | None] | None:
    """The record to compare with, and its verdicts: of several the one about the norm, data and eps asked for."""
    if card is None and against is None:
        return None
    claim = claims.Claim("verdicts", *evidence.read(card)) if card is not None else claims.read_claim(against or "")
    if claim.kind == "robustbench":
        return claim.runs[0], None
    rows = list(range(len(claim.runs)))
    for asked in (
        lambda run: norm in (None, run["norm"]),
        lambda run: data_name is None or _same_name(run, data_name),
        lambda run: data_name is image_size is None or _size_of(run) == image_size,
        lambda run: eps is None or "," in eps or abs(parse_eps(run["eps"]) - parse_eps(eps)) < 1e-9,
    ):
        rows = [row for row in rows if asked(claim.runs[row])] or rows
    runs = [claim.runs[row] for row in rows]
    if claim.kind == "verdicts":
        return claims.choose_run(runs, [claim.verdicts[row] for row in rows], kind)
    if not runs:
        raise DataError(f"{against} holds no runs")
    return max(runs, key=evidence.rank), None


def _data_of(stated: dict[str, Any]) -> str:
    source = evidence.data_source(stated.get("dataset") or {})
    if source in data.DATASETS:
        return source
    hint = f" (the claim is about {source})" if source else ""
    raise UsageError(f"which images? give --data {', '.join(sorted(data.DATASETS))}, FILE.npz or FOLDER{hint}")


def _size_of(stated: dict[str, Any]) -> tuple[int, int] | None:
    size = (stated.get("dataset") or {}).get("image_size")
    return (size[0], size[1]) if size else None


def _same_name(stated: dict[str, Any], data_name: str) -> bool:
    return evidence.base_name(stated["dataset"]) == data.base_name(data_name)


def _same_data(stated: dict[str, Any], data_name: str, size: tuple[int, int] | None, by_image: bool) -> None:
    """Refuse what could not be compared after a long run; verdicts per image can be checked on any copy of the data."""
    about, found = evidence.base_name(stated.get("dataset") or {}), data.base_name(data_name)
    if about not in (None, found) and data_name in data.DATASETS and (about in data.DATASETS or not by_image):
        raise UsageError(f"the claim is about {about}, not {found}: verify on {about}")
    stated_size = _size_of(stated)
    if stated_size is not None and size != stated_size:
        own = data.spelled(stated_size)
        raise UsageError(f"the claim is about images brought to {own}: leave --image-size out, or give {own}")
    if stated_size is None and size is not None and about in data.DATASETS and data_name in data.DATASETS:
        raise UsageError(f"the claim is about {about} as it is: leave --image-size out")


def _declared(folder: Path | None, kind: str, data_name: str, image_size: tuple[int, int] | None) -> float | None:
    runs = [run for run in (evidence.read(folder)[0] if folder else []) if run["subject"]["kind"] == kind]
    same = [run for run in runs if _same_name(run, data_name) and _size_of(run) == image_size]
    return max(same, key=evidence.rank)["clean_accuracy"] if same else None


def _indices(path: Path | None) -> np.ndarray | None:
    """Positions from a text file (white space or commas between them) or an .npy file."""
    if path is None:
        return None
    try:
        if path.suffix != ".npy":
            words = path.read_text(encoding="utf-8").replace(",", " ").split()
            return np.array([int(word) for word in words], np.int64)
        rows = read_array(path)
        if rows.ndim != 1:
            raise ValueError("not one row of numbers")
        return rows
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: no readable list of positions ({error})") from error


def _adversarial(path: Path, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of an .npz file for the positions asked for, or else those it names itself."""
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    if "x_adv" not in arrays:
        raise DataError(f"{path} has no array x_adv; it holds {', '.join(arrays) or 'nothing'}")
    images, own = arrays["x_adv"], arrays.get("position")
    if images.ndim != 4:
        raise DataError(f"{path}: not a readable .npz file (x_adv is {images.shape}, not (N, 3, H, W))")
    if own is not None and own.shape != images.shape[:1]:
        raise DataError(f"{path}: not a readable .npz file (x_adv is {images.shape} and position {own.shape})")
    if rows is None:
        return images, own
    if own is None and len(images) == len(rows):
        return images, rows
    held = np.arange(len(images)) if own is None else own
    missing = np.setdiff1d(rows, held)
    if len(missing):
        raise UsageError(f"{path} has no image for position {missing[0]}")
    return images[[np.flatnonzero(held == row)[0] for row in rows]], rows
