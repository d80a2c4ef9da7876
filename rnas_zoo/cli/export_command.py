"""`rnas-zoo export`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import json_option, print_json


@click.command("export")
@click.argument("ref")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The .onnx file to write.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for a timm name (.safetensors).")
@json_option
def command(ref: str, out: Path, checkpoint: Path | None, as_json: bool) -> None:
    """Export a model to one ONNX file with a symbolic batch.

    The file appears only if its logits and classes equal torch's on real images at batches 1, 2 and 7.

    \b
    rnas-zoo export RELEASE_FOLDER -o model.onnx
    rnas-zoo export rnas_cl_s7 -o untrained.onnx
    """
    import timm

    from ..deploy.onnx_export import export

    untrained = checkpoint is None and timm.is_model(ref) and not timm.is_model_pretrained(ref)
    if untrained:
        click.echo(f"warning: {ref} has no weights; exporting it untrained (seed 0)", err=True)
    report = export(ref, out, checkpoint=checkpoint, metadata={"weights": "untrained"} if untrained else None)
    if as_json:
        print_json(report)
        return
    worst = max(report["parity"].values())
    click.echo(f"{out}: {report['bytes'] / 1e6:.2f} MB, opset {report['opset']}, sha256 {report['sha256'][:12]}")
    click.echo(f"logits differ from torch by at most {worst:.1e}; same class on {report['same_class']} images")
