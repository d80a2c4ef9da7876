"""What a card's reader copies and runs: one block per job.

A card is the same file before and after it is published, so it does not know its owner: it writes OWNER for the account
and FOLDER for the path of the release folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from .. import data
from ..verification import evidence

FOLDER = "FOLDER"


def published(name: str) -> str:
    """The reference of a published release: its repository is called what the release is called."""
    return f"hf-hub:OWNER/{name}"


def claim_command(run: dict[str, Any], folder: str = FOLDER) -> str:
    """The command that compares a model with its card, image by image."""
    source = evidence.data_source(run["dataset"]) or ""
    given = "" if source in data.DATASETS else f" --data {quote(source)}"
    return f"rnas-zoo verify {_target(run, folder)} --against-card{given}"


def verify_command(run: dict[str, Any], folder: str = FOLDER) -> str:
    """The command that repeats an evidence run."""
    source, size = evidence.data_source(run["dataset"]) or "", run["dataset"].get("image_size")
    resize = f" --image-size {data.spelled(tuple(size))}" if size else ""
    return (
        f"rnas-zoo verify {_target(run, folder)} --data {quote(source)}{resize} --protocol {run['protocol']} "
        f"--norm {run['norm']} --eps {run['eps']} --n {run['n']} --seed {run['seed']}"
    )


def _target(run: dict[str, Any], folder: str) -> str:
    return folder if run["subject"]["kind"] == "torch" else f"{folder}/{run['subject']['file']}"


def create_block(name: str, size: Sequence[int]) -> str:
    """Python: the network by timm, and its answer. Height and width are `size`."""
    return f'''import rnas_zoo, timm, torch

where = "{published(name)}"  # or "local-dir:{FOLDER}"
model = timm.create_model(where, pretrained=True).eval()
images = torch.rand(2, 3, {size[0]}, {size[1]})  # yours: RGB in [0, 1]
labels = [model.pretrained_cfg["label_names"][i] for i in model(images).argmax(1)]'''


def predict_block(file: str) -> str:
    """Python without torch: the labels that the ONNX file gives the images of check.npz."""
    return f'''import json, numpy, onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
pixels = numpy.load("check.npz")["images"]  # yours: uint8 (N, height, width, 3)
images = pixels.transpose(0, 3, 1, 2).astype("float32") / 255
labels = [names[i] for i in session.run(None, {{"image": images}})[0].argmax(1)]'''


def verify_block(name: str, run: dict[str, Any]) -> str:
    """Shell: the card's first run compared with the card, published and on disk, and repeated."""
    commands = [claim_command(run), verify_command(run)]
    if run["subject"]["kind"] == "torch":
        commands.insert(0, claim_command(run, published(name)))
    return "\n".join(commands)
