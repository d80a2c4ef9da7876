"""Build the web page into a folder that any file server can serve: python export/web/build.py [-o FOLDER]

Copies the page, onnxruntime-web from the npm registry, two ONNX files and the photos of their check packs. Standard
library and numpy only; exit code 1 and one line on standard error when something is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CARDS = HERE.parents[1] / "model_cards"
ORDINARY, ROBUST = "rnas_cl_s3.clean_cifar10", "rnas_cl_s3.nfgsm_cifar10_linf8"  # one architecture, trained twice
PAGE = ("index.html", "app.js", "fit.js", "style.css")
PACKAGE = HERE / "node_modules" / "onnxruntime-web"
RUNTIME = "ort-wasm-simd-threaded.wasm"
SCRIPT = "ort.wasm.bundle.min.mjs"  # copied as .js: not every server knows that .mjs is JavaScript
STRENGTH = ("quick", "fast", "standard", "full")
ATTACKS = {
    "quick": "PGD-20",
    "fast": "a short AutoAttack",
    "standard": "AutoAttack",
    "full": "AutoAttack and more",
}
OFFLINE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "E403", "E407", "E503")


class BuildError(Exception):
    """The page cannot be built; the message names cause and fix."""


class OfflineError(BuildError):
    """npm is missing, or it does not reach its registry."""


def install() -> None:
    """Fetch onnxruntime-web at the version of package.json into node_modules, unless it is there.

    Raises:
        OfflineError: there is no npm, or no registry.
        BuildError: npm failed for another reason.
    """
    wanted = _json(HERE / "package.json")["dependencies"]["onnxruntime-web"]
    if (PACKAGE / "package.json").is_file() and _json(PACKAGE / "package.json")["version"] == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise OfflineError("npm is missing; it comes with Node.js. It fetches onnxruntime-web, then run this again.")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        said = "; ".join(line for line in done.stderr.splitlines() if line.startswith("npm error"))[:200]
        if any(code in done.stderr for code in OFFLINE):
            raise OfflineError(f"npm does not reach its registry for onnxruntime-web {wanted}: {said}")
        raise BuildError(f"`npm ci` failed in {HERE}: {said or done.stderr.strip()[-400:]}")


def photos(ordinary: Path, robust: Path) -> dict[str, np.ndarray]:
    """Photos, what they show, and the copies attacked against each of the two networks, from their check packs.

    Returns:
        `original`, `ordinary`, `robust`, each uint8 (n, 32, 32, 3), `labels` (n,), and `clear` (n,): whether both
        networks give the right name of the unattacked photo more than half of the probability.

    Raises:
        BuildError: a pack is missing, or the two are not of the same photos.
    """
    packs = []
    for folder in (ordinary, robust):
        try:
            with np.load(folder / "check.npz", allow_pickle=False) as file:
                packs.append({key: file[key] for key in ("images", "adversarial", "labels", "logits")})
        except (OSError, KeyError, ValueError) as error:
            raise BuildError(f"{folder / 'check.npz'} is no check pack ({error}); package the model again") from error
    if not all(np.array_equal(packs[0][key], packs[1][key]) for key in ("images", "labels")):
        raise BuildError(f"the check packs of {ordinary.name} and {robust.name} hold different photos")
    if packs[0]["images"].shape[1:] != (32, 32, 3):
        raise BuildError(f"the page shows photos of 32x32 pixels, {ordinary.name} has {packs[0]['images'].shape[1:]}")
    return {
        "original": packs[0]["images"],
        "ordinary": packs[0]["adversarial"],
        "robust": packs[1]["adversarial"],
        "labels": packs[0]["labels"],
        "clear": np.logical_and(*(_share(pack["logits"], pack["labels"]) > 0.5 for pack in packs)),
    }


def _share(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers[np.arange(len(labels)), labels] / powers.sum(axis=1)


def measured(folder: Path, eps: str) -> dict[str, Any] | None:
    """Accuracies by the strongest attack on record at this ε (L∞), then the most images; None if there is none."""
    runs = [
        run
        for run in _json(folder / "robustness.json")["runs"]
        if (run["norm"], run["eps"]) == ("linf", eps) and run["protocol"] in STRENGTH
    ]
    if not runs:
        return None
    run = max(runs, key=lambda run: (STRENGTH.index(run["protocol"]), run["n"]))
    return {
        "clean": run["clean_accuracy"],
        "robust": run["robust_accuracy"],
        "n": run["n"],
        "attack": ATTACKS[run["protocol"]],
    }


def build(out: Path, ordinary: Path = CARDS / ORDINARY, robust: Path = CARDS / ROBUST) -> None:
    """Write the page into `out`; files there with other names stay.

    Raises:
        BuildError: a file is missing, see `install` and `photos`.
    """
    install()
    sets = photos(ordinary, robust)
    steps = max(int(np.abs(sets[key].astype(int) - sets["original"]).max()) for key in ("ordinary", "robust"))
    config = _json(ordinary / "config.json")
    if config["architecture"] != _json(robust / "config.json")["architecture"]:
        raise BuildError(f"the page compares two trainings of one design, not {ordinary.name} with {robust.name}")
    about: dict[str, Any] = {
        "labels": config["label_names"],
        "truth": sets["labels"].tolist(),
        "first": int(np.argmax(sets["clear"])),  # the photo shown at the start
        "sets": ["original", "ordinary", "robust"],
        "steps": steps,
        "runtime": {"bytes": (PACKAGE / "dist" / RUNTIME).stat().st_size},
        "models": {},
    }
    for folder in ("ort", "models"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for key, folder in (("ordinary", ordinary), ("robust", robust)):
        shutil.copyfile(folder / "model.onnx", out / "models" / f"{key}.onnx")
        about["models"][key] = {
            "name": folder.name,
            "bytes": (folder / "model.onnx").stat().st_size,
            "measured": measured(folder, f"{steps}/255"),
        }
    for name in PAGE:
        shutil.copyfile(HERE / name, out / name)
    shutil.copyfile(PACKAGE / "dist" / RUNTIME, out / "ort" / RUNTIME)
    shutil.copyfile(PACKAGE / "dist" / SCRIPT, out / "ort" / "ort.js")
    (out / "photos.bin").write_bytes(b"".join(np.ascontiguousarray(sets[key]).tobytes() for key in about["sets"]))
    (out / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: not readable ({error})") from error


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the web page.")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "dist", help="folder (export/web/dist)")
    out = parser.parse_args().output
    try:
        build(out)
    except (BuildError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{out}: serve it with `python3 -m http.server -d {out}`\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
