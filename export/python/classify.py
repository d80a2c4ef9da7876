"""Name what pictures show: python classify.py model.onnx picture.png [picture.npy ...]

A file to copy: it needs numpy and onnxruntime, and pillow for anything but .npy (uint8, height x width x 3).
"""
# ruff: noqa: T201

import json
import sys

import numpy as np
import onnxruntime


def read(path, height, width):
    """One uint8 picture (height, width, 3); all but .npy files are scaled to just cover that size, then cropped."""
    if path.endswith(".npy"):
        return np.load(path)
    from PIL import Image

    image = Image.open(path).convert("RGB")
    wide, high = image.size
    size = (height * wide // high, height) if height * wide >= width * high else (width, width * high // wide)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def main(model, *paths, top=3):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    labels, shape = json.loads(metadata["labels"]), session.get_inputs()[0].shape
    height, width = json.loads(metadata["input_size"])[1:] if "input_size" in metadata else shape[2:]
    for path in paths:
        image = read(path, height, width)[None]
        if session.get_inputs()[0].type != "tensor(uint8)":
            image = image.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        answer = session.run(None, {"image": image})[0][0].astype(np.float32)
        if metadata.get("output", "logits") == "logits":
            answer = np.exp(answer - answer.max()) / np.exp(answer - answer.max()).sum()
        best = np.argsort(-answer, kind="stable")[:top]
        print(path, *(f"{labels[i]} {answer[i]:.4f}" for i in best), sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
