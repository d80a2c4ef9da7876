"""Bundles: a folder with all that runs and checks a model where there is neither torch nor this package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckFailedError, DataError
from ..files import atomic_folder, make_readable, sha256_file
from . import runtime
from .session_errors import translated

README = """\
# {name}

{about}
Input `{input}`: {takes}.
Output: {gives}{labels}.

    python runtime.py model.onnx photo.jpg --top-k 3

classifies images with Python, `numpy` and `onnxruntime` (and `pillow`, unless they are .npy or .npz files). In Python:
`from runtime import Session; Session("model.onnx").predict("photo.jpg")`.
{check}"""
CHECK = """
    python runtime.py model.onnx --check check.npz

compares the classes of {n} images with those we got{whose}; exit code 1 if more than one image differs. What any other
program answers on them is judged by `rnas-zoo verify --predictions answers.csv --pack check.npz`.
"""


def write_bundle(
    onnx_path: str | Path, out: str | Path, *, check: Path | None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a folder with model.onnx, runtime.py, README.md, labels.txt if the model has labels, and check.npz.

    The folder appears only when it is complete and passes its own check. An int8 model is another function than the
    network its check pack was made with, so the pack gets the answers of the int8 model instead.

    Args:
        onnx_path: a model that `runtime.Session` takes.
        out: the folder.
        check: the check.npz of the model's release folder, if there is one.
        overwrite: replace a folder that exists.

    Returns:
        `folder`; `files`, the sha256 of each by name; `bytes`, all together; and `check`: None, or `images`, on how
        many the model names another class than the pack (`differ`), and the largest difference of a number it returns
        (`largest`), both before an int8 model's answers take the pack's place.

    Raises:
        OnnxFileError: no usable model. DataError: no check pack, or one of another size.
        CheckFailedError: the model's classes differ from the pack's on more than one image; nothing is written.
        OutputExistsError: `out` exists and `overwrite` is false.
    """
    onnx_path = Path(onnx_path)
    with translated():
        session = runtime.Session(onnx_path, "cpu")
    quantized = session.metadata.get("precision") == "int8"
    checked = None if check is None else _checked(session, onnx_path, check, quantized)
    with atomic_folder(out, overwrite=overwrite) as folder:
        shutil.copyfile(onnx_path, folder / "model.onnx")
        shutil.copyfile(runtime.__file__, folder / "runtime.py")
        if session.labels:
            lines = [" ".join(str(label).split()) for label in session.labels]
            (folder / "labels.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
        if check is not None and quantized:
            _write_own_answers(session, check, folder / "check.npz")
        elif check is not None:
            shutil.copyfile(check, folder / "check.npz")
        (folder / "README.md").write_text(_readme(session, onnx_path, checked, quantized), encoding="utf-8")
        make_readable(folder)
        files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        size = sum(path.stat().st_size for path in folder.iterdir())
    return {"folder": Path(out).name, "files": files, "bytes": size, "check": checked}


def _checked(session: runtime.Session, onnx_path: Path, check: Path, quantized: bool) -> dict[str, Any]:
    try:
        images, differ, largest, _ = runtime.check(session, check)
    except runtime.SessionError as error:
        raise DataError(str(error)) from error
    if differ > runtime.ALLOWED and not quantized:
        raise CheckFailedError(
            f"{onnx_path} is not the model of {check}: it names another class on {differ} of {images} images; "
            "nothing was written"
        )
    return {"images": images, "differ": differ, "largest": largest}


def _write_own_answers(session: runtime.Session, check: Path, path: Path) -> None:
    with np.load(check, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, images in (("logits", "images"), ("adversarial_logits", "adversarial")):
        found = session.answers(arrays[images])
        arrays[name] = np.log(np.maximum(found, 1e-30)) if session.gives_probabilities else found
    np.savez_compressed(path, **arrays)


def _readme(session: runtime.Session, onnx_path: Path, checked: dict[str, Any] | None, quantized: bool) -> str:
    texts = session.metadata
    words = [texts[name] for name in ("architecture", "dataset", "precision") if name in texts]
    about = f"An image classifier ({', '.join(words)})." if words else "An image classifier."
    if "threat_model" in texts:
        about += f" Its model card says how robust it is under {texts['threat_model']}."
    whose = " from this very int8 file" if quantized else ""
    return README.format(
        name=texts.get("model") or texts.get("architecture") or onnx_path.stem,
        about=f"{about} sha256 of model.onnx: {sha256_file(onnx_path)}",
        input=session.input_name,
        takes=texts.get("input") or f"{np.dtype(session.input_type)} {session.input_shape}",
        gives="probabilities" if session.gives_probabilities else "logits",
        labels=f" of the {len(session.labels)} classes in `labels.txt`, in that order" if session.labels else "",
        check=CHECK.format(n=checked["images"], whose=whose) if checked else "",
    )
