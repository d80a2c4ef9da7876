"""`rnas-zoo export`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from .common import (
    DATA,
    compute_options,
    computing,
    fetched,
    image_size_option,
    json_option,
    percent,
    print_json,
    table,
    threat_options,
)


@click.command("export")
@click.argument("ref")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The .onnx file to write.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Also (or only) write a folder that runs without torch."
)
@click.option("--input", "form_input", type=click.Choice(["float32-nchw", "uint8-nhwc"]), default="float32-nchw",
              show_default=True, help="Images in [0, 1], or 8-bit pixels with the channels last.")  # fmt: skip
@click.option("--resize", is_flag=True, help="Take uint8 images of any size and scale them inside the graph.")
@click.option("--output", type=click.Choice(["logits", "probabilities"]), default="logits", show_default=True,
              help="What the file answers; probabilities are the softmax of the logits.")  # fmt: skip
@click.option("--fp16", is_flag=True, help="Weights and activations in half precision.")
@click.option("--opset", type=int, help="Version of the ONNX operators, 17 to 23; 20 by default.")
@click.option("--quantize", type=click.Choice(["int8"]), help="Round to 8 bits; needs --data, whose training images "
              "calibrate and choose the settings.")  # fmt: skip
@click.option("--save", is_flag=True, help="With --quantize: add model.int8.onnx, its evidence and its card to the "
              "release folder REF.")  # fmt: skip
@click.option("--max-clean-loss", type=click.FloatRange(0, 1), default=0.01, show_default=True,
              help="Clean accuracy that int8 may cost.")  # fmt: skip
@click.option("--data", "data_name", help=f"{DATA}: measure the file's clean and robust accuracy as well.")
@image_size_option
@click.option("--protocol", help="How robust accuracy is measured (see verify): quick, for int8 fast by default.")
@threat_options()
@click.option("-n", "--n", type=click.IntRange(1), default=256, show_default=True, help="First N test images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the attacks' draws.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for a timm name (.safetensors).")
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
@compute_options
def command(
    ref: str,
    out: Path | None,
    bundle: Path | None,
    form_input: str,
    resize: bool,
    output: str,
    fp16: bool,
    opset: int | None,
    quantize: str | None,
    save: bool,
    max_clean_loss: float,
    data_name: str | None,
    image_size: tuple[int, int] | None,
    protocol: str | None,
    norm: str,
    eps: str,
    n: int,
    seed: int,
    checkpoint: Path | None,
    force: bool,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Export a model to one ONNX file with a symbolic batch.

    The file appears only if it is the same model: outputs and classes are compared with torch's on real images, at
    batches 1, 2 and 7. With --data the report says what accuracy and robustness are left in the file itself.

    \b
    rnas-zoo export RELEASE_FOLDER -o model.onnx
    rnas-zoo export RELEASE_FOLDER -o camera.onnx --input uint8-nhwc --resize --output probabilities
    rnas-zoo export RELEASE_FOLDER -o model.int8.onnx --quantize int8 --data cifar10
    rnas-zoo export RELEASE_FOLDER --quantize int8 --data cifar10 --n 1000 --save
    rnas-zoo export RELEASE_FOLDER --bundle DIR
    rnas-zoo export model.int8.onnx --bundle DIR
    rnas-zoo export rnas_cl_s5 -o untrained.onnx
    """
    from ..attacks import Threat
    from ..deploy.bundle import write_bundle
    from ..deploy.form import OPSET, Form
    from ..deploy.metadata import release_of
    from ..deploy.onnx_export import checked_output
    from ..engine.progress import reporter
    from ..errors import OutputExistsError, UsageError
    from ..verification.protocols import stages

    protocol = protocol or ("fast" if quantize else "quick")
    stages(protocol)
    if device not in ("auto", "cpu"):
        raise UsageError(f"export works on the CPU, got --device {device}")
    changed = resize or fp16 or opset is not None or form_input != "float32-nchw" or output != "logits"
    if save:
        if not quantize or not data_name or out or bundle or checkpoint or changed:
            raise UsageError("--save goes with --quantize int8, --data and a release folder, and with no other form")
        _save(ref, data_name, image_size, Threat(norm, eps), protocol, n, seed, max_clean_loss, threads, as_json)
        return
    if out is None and bundle is None:
        raise click.UsageError("Missing option '-o': the .onnx file to write (or --bundle DIR).")
    if quantize and not data_name:
        raise UsageError("--quantize int8 needs --data: images that calibrate it and choose its settings")
    if quantize and fp16:
        raise UsageError("--quantize int8 and --fp16 exclude each other")
    form = Form(form_input, output, "float16" if fp16 else "float32", resize, OPSET if opset is None else opset)
    if out is not None:
        checked_output(out, force)
    if bundle is not None and bundle.exists() and not force:
        raise OutputExistsError(f"{bundle} exists already and was left as it is. Choose another --bundle, or --force.")
    ref = fetched(ref)
    if ref.endswith(".onnx") and bundle is not None and not (out or changed or quantize or data_name):
        beside = Path(ref).parent / "check.npz"
        found = write_bundle(ref, bundle, check=beside if beside.is_file() else None, overwrite=force)
        print_json({"bundle": found}) if as_json else _print_bundle(found, bundle)
        return
    asked: dict[str, Any] = {"threat": Threat(norm, eps), "seed": seed, "checkpoint": checkpoint}
    with computing(threads), reporter() as progress, tempfile.TemporaryDirectory() as folder:
        file = out or Path(folder) / "model.onnx"
        asked["reporter"] = progress
        report = _write(ref, file, form, quantize is not None, max_clean_loss, data_name, image_size, asked, force)
        if data_name:
            from ..deploy.shipped import kept_accuracy

            sized: dict[str, Any] = {"image_size": image_size, "protocol": protocol, "n": n}
            report["accuracy"] = kept_accuracy(ref, file, data_name, **sized, **asked)
        if bundle is not None:
            folder_of = None if checkpoint else release_of(ref)
            pack = folder_of / "check.npz" if folder_of else None
            check = pack if pack is not None and pack.is_file() else None
            report["bundle"] = write_bundle(file, bundle, check=check, overwrite=force)
    if as_json:
        print_json(report)
    else:
        _print(report, out, bundle)


def _save(
    ref: str,
    data_name: str,
    image_size: tuple[int, int] | None,
    threat: Any,
    protocol: str,
    n: int,
    seed: int,
    max_clean_loss: float,
    threads: int | None,
    as_json: bool,
) -> None:
    from ..engine.progress import reporter
    from ..hub.int8 import ship_int8

    with computing(threads), reporter() as progress:
        asked: dict[str, Any] = {"image_size": image_size, "threat": threat, "n": n, "seed": seed}
        asked["max_clean_loss"] = max_clean_loss
        report = ship_int8(ref, data_name, protocol=protocol, reporter=progress, **asked)
    if as_json:
        print_json(report)
        return
    _print_rounded(report)
    found = report["accuracy"]
    click.echo(f"first {found['n']} test images, {found['threat']}, protocol {found['protocol']}: "
               f"clean {percent(found['model']['clean'])} -> {percent(found['int8']['clean'])}, "
               f"robust {percent(found['model']['robust'])} -> {percent(found['int8']['robust'])}")  # fmt: skip
    click.echo(f"{ref}/{report['file']}: added" if report["kept"] else "not added: it loses too much (export.json)")


def _write(
    ref: str,
    file: Path,
    form: Any,
    rounded: bool,
    max_clean_loss: float,
    data_name: str | None,
    image_size: tuple[int, int] | None,
    asked: dict[str, Any],
    force: bool,
) -> dict[str, Any]:
    from .. import data
    from ..deploy.metadata import is_untrained
    from ..deploy.onnx_export import export
    from ..deploy.quantize import quantize

    checkpoint = asked["checkpoint"]
    if checkpoint is None and is_untrained(ref):
        click.echo(f"warning: {ref} has no weights; exporting it untrained (seed 0)", err=True)
    dataset = data.load(data_name, image_size) if data_name else None
    if rounded and dataset is not None:
        return quantize(ref, file, dataset.train, form=form, max_clean_loss=max_clean_loss, overwrite=force, **asked)
    images = dataset.test.images if dataset is not None else None
    return export(ref, file, form=form, checkpoint=checkpoint, images=images, overwrite=force)


def _print(report: dict[str, Any], out: Path | None, bundle: Path | None) -> None:
    if out is not None:
        click.echo(f"{out}: {report['bytes'] / 1e6:.2f} MB, opset {report['opset']}, sha256 {report['sha256'][:12]}")
    if "parity" in report:
        worst = max(report["parity"].values())
        click.echo(f"{report['output']} differ from torch's by at most {worst:.1e}; same class on "
                   f"{report['same_class']} of {report['images']} images")  # fmt: skip
        for failure in report.get("failures", []):
            click.echo(f"first tried: {failure}")
    else:
        _print_rounded(report)
    if "accuracy" in report:
        _print_accuracy(report["accuracy"])
    if bundle is not None:
        _print_bundle(report["bundle"], bundle)


def _print_bundle(found: dict[str, Any], bundle: Path) -> None:
    checked = found["check"]
    text = f", checked on {checked['images']} images" if checked else ""
    click.echo(f"{bundle}: {', '.join(found['files'])}{text}")


def _print_rounded(report: dict[str, Any]) -> None:
    setting, chosen = report["setting"], report["selection"]
    scale = "one scale per channel" if setting["per_channel"] else "one scale per tensor"
    if setting["in_float"] == "activations":
        rounded = "weights alone"
    else:
        left = "" if setting["in_float"] == "nothing" else f", {setting['in_float']} left in float"
        rounded = f"weights and activations, {setting['calibration']} calibration{left}"
    click.echo(f"rounded: {rounded}, {scale} (best of {len(report['trials'])})")
    rows = [["", "size", "clean", "robust", "batch 1", "batch 32"]]
    for name, size, prefix in (("float32", report["float_bytes"], "float_"), ("int8", report["bytes"], "")):
        times = [f"{1e3 * report['latency'][name][batch]['p50']:.2f} ms" for batch in ("1", "32")]
        accuracies = [percent(chosen[prefix + what]) for what in ("clean", "robust")]
        rows.append([name, f"{size / 1e6:.2f} MB", *accuracies, *times])
    click.echo(table(rows))
    click.echo(f"accuracies on {chosen['images']} and {chosen['attacked']} training images that chose the setting; "
               f"same class as float32 on {report['same_class']} of {report['images']} images")  # fmt: skip
    click.echo(f"the better file: {report['better']}")


def _print_accuracy(found: dict[str, Any]) -> None:
    click.echo(f"first {found['n']} test images of {found['dataset']}, {found['threat']}, protocol {found['protocol']}")
    rows = [["", "clean", "robust", "95 % interval"]]
    for name in ("model", "file"):
        low, high = found[name]["interval"]
        rows.append([name, percent(found[name]["clean"]), percent(found[name]["robust"]),
                     f"{percent(low)} to {percent(high)}"])  # fmt: skip
    click.echo(table(rows))
