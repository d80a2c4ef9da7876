"""Run an exported model with NumPy and onnxruntime alone; this file can be copied and used by itself.

session = Session("model.onnx")
logits = session.logits(images)          # float32 (N, 3, H, W) in [0, 1]
top = session.predict(photos, k=3)       # uint8 (N, H, W, 3)
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

INPUTS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class SessionError(RuntimeError):
    """The file is no usable model, or the execution provider is not the one asked for."""


def _cuda_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class Session:
    """An ONNX model that takes one batch of images and returns logits.

    Args:
        path: the .onnx file, or its bytes.
        provider: `cpu`, `cuda`, `tensorrt`, or `auto` (CUDA where a driver is present, else the CPU). A provider
            asked for by name is used or refused, never silently replaced.
        threads: CPU threads; 0 leaves the choice to onnxruntime.

    Attributes:
        provider: the execution provider in use.
        input_shape: what the model takes, such as ["batch", 3, 32, 32]; a fixed batch size is filled up unseen.
        input_type: the type of its input, `numpy.uint8` for a model that takes 8-bit pixels.
        metadata: the model's metadata, text by text.
        labels: class names, or None.

    Raises:
        SessionError: unreadable model, several inputs or one that is no image, or a provider that cannot be used.
    """

    def __init__(self, path: str | Path | bytes, provider: str = "auto", threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise SessionError(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error
        if not hasattr(onnxruntime, "InferenceSession"):
            raise SessionError(
                "the installed onnxruntime is an empty shell, left over when one of onnxruntime and onnxruntime-gpu "
                "was removed: pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them"
            )
        if provider not in (*PROVIDERS, "auto"):
            raise SessionError(f"unknown provider {provider!r}, known are auto, {', '.join(PROVIDERS)}")
        wanted = provider
        if provider == "auto":
            has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers() and _cuda_driver()
            wanted = "cuda" if has_cuda else "cpu"
        if wanted != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        source = path if isinstance(path, bytes) else str(path)
        if not isinstance(path, bytes) and not Path(path).is_file():
            raise SessionError(f"{path}: no such file")
        providers = [PROVIDERS[wanted]] + ([PROVIDERS["cpu"]] if wanted != "cpu" else [])
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        except Exception as error:
            name = "the model" if isinstance(path, bytes) else path
            raise SessionError(f"{name} is not a usable ONNX model: {str(error).splitlines()[0]}") from error
        self.provider = self._session.get_providers()[0]
        if provider != "auto" and self.provider != PROVIDERS[provider]:
            raise SessionError(
                f"{PROVIDERS[provider]} was asked for, but onnxruntime took {self.provider}: the driver or its "
                "libraries are missing. Use provider='cpu', or install onnxruntime-gpu with matching CUDA and cuDNN."
            )
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise SessionError(f"expected a model with one input, found {len(inputs)}: {[i.name for i in inputs]}")
        if inputs[0].type not in INPUTS:
            raise SessionError(f"expected a model that takes images as float or uint8, found {inputs[0].type}")
        self.input_name, self.input_shape = inputs[0].name, inputs[0].shape
        self.input_type = INPUTS[inputs[0].type]
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.labels = json.loads(self.metadata["labels"]) if "labels" in self.metadata else None

    def logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Logits (N, classes) of float32 images (N, 3, H, W) in [0, 1].

        A model with another input gets what it declares: uint8 pixels (a float array is refused), or (N, H, W, 3).

        Raises:
            SessionError: images of another type or shape.
        """
        images = np.asarray(images)
        if self.input_type is np.uint8 and images.dtype != np.uint8:
            raise SessionError(f"the model takes uint8 pixels from 0 to 255, got {images.dtype}")
        images = np.ascontiguousarray(images, self.input_type)
        wanted = [size if isinstance(size, int) else None for size in self.input_shape]
        if images.ndim != len(wanted) or any(
            w not in (None, s) for w, s in zip(wanted[1:], images.shape[1:], strict=True)
        ):
            raise SessionError(f"the model takes images of shape {self.input_shape}, got {images.shape}")
        step = wanted[0] or batch_size
        parts = [self._run(images[i : i + step], wanted[0]) for i in range(0, len(images), step)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _run(self, images: np.ndarray, size: int | None) -> np.ndarray:
        """Logits of one batch; where the model's batch size is fixed, the last image fills it up."""
        count = len(images)
        if size and count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        return self._session.run(None, {self.input_name: images})[0][:count].astype(np.float32, copy=False)

    def predict(self, images: np.ndarray, k: int = 1) -> list[list[tuple[str, float]]]:
        """The k most likely classes of uint8 images (N, H, W, 3), each as (label, probability)."""
        pixels = np.asarray(images)
        if self.input_type is not np.uint8:
            pixels = pixels.astype(np.float32) / np.float32(255)
        channels_last = self.input_shape[3] == 3 and self.input_shape[1] != 3
        logits = self.logits(pixels if channels_last else pixels.transpose(0, 3, 1, 2))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        names = self.labels or [str(i) for i in range(logits.shape[1])]
        order = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        return [[(names[i], float(row[i])) for i in best] for best, row in zip(order, shares, strict=True)]
