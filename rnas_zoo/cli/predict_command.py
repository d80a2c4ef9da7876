"""`rnas-zoo predict`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import fetched, json_option, percent, print_json, table


@click.command("predict")
@click.argument("ref")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--file", "name", help="ONNX file of a folder, such as model.int8.onnx; model.onnx by default.")
@click.option("--top-k", type=click.IntRange(1), default=1, show_default=True, help="Classes per image.")
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where there is a driver, any other is used or refused.",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images asked at once.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; onnxruntime's choice by default.")
@json_option
def command(
    ref: str,
    images: tuple[str, ...],
    name: str | None,
    top_k: int,
    provider: str,
    batch_size: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Classify images with an ONNX file; torch is not needed.

    REF is an .onnx file, a folder that holds one, or hf-hub:owner/name. An IMAGE is a PNG, JPEG, ... file, which is
    brought to the model's size; an .npy or .npz file with uint8 images of that size; or a folder, searched at any
    depth.

    \b
    rnas-zoo predict model.onnx photo.jpg --top-k 3
    rnas-zoo predict RELEASE_FOLDER photos/ --json
    """
    from ..deploy.runtime import Session
    from ..deploy.session_errors import translated

    path = _onnx_file(ref, name)
    with translated():
        session = Session(path, provider, threads or 0)
        found = list(session.classify(images, top_k, batch_size))
    if as_json:
        answers = [
            {"image": image, "top": [{"label": label, "probability": share} for label, share in top]}
            for image, top in found
        ]
        print_json({"model": str(path), "provider": session.provider, "images": answers})
        return
    head = ["image", *(f"class {i}" for i in range(1, len(found[0][1]) + 1))]
    click.echo(
        table([head, *([image, *(f"{label} {percent(share)}" for label, share in top)] for image, top in found)])
    )
    click.echo(f"{path} on {session.provider}")


def _onnx_file(ref: str, name: str | None) -> Path:
    """The .onnx file that a reference stands for."""
    from ..errors import UsageError

    given, ref = ref, fetched(ref)
    path = Path(ref)
    if path.is_dir():
        path /= name or "model.onnx"
        made = path if given == ref else path.name
        if not path.is_file():
            there = ", ".join(sorted(file.name for file in Path(ref).glob("*.onnx")))
            hint = f"--file chooses {there}" if there else f"make one with `rnas-zoo export {given} -o {made}`"
            raise UsageError(f"{given} holds no {path.name}; {hint}")
    elif path.suffix != ".onnx":
        raise UsageError(
            f"predict runs an .onnx file or a folder that holds one, and {ref} is neither; make one with "
            f"`rnas-zoo export {ref} -o model.onnx`"
        )
    elif name is not None:
        raise UsageError(f"--file chooses a file of a folder, and {ref} is a file")
    return path
