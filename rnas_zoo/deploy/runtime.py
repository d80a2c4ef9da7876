"""Run an exported model with NumPy and onnxruntime alone; this file can be copied and used by itself.

session = Session("model.onnx")
top = session.predict(photos, k=3)       # uint8 (N, H, W, 3), or files and folders
logits = session.logits(images)          # float32 (N, 3, H, W) in [0, 1]

python runtime.py model.onnx photo.jpg folder --top-k 3
python runtime.py model.onnx --check check.npz
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

INPUTS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
ARRAYS = (".npy", ".npz")
PHOTOS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
PADDED_BY = 8  # pixels per side by which photos of one size may fall short and still be framed instead of scaled
TOLERANCE = 1e-3  # of the largest logit, or of 1: smaller differences are rounding
LARGEST_BATCH = 4096  # of a model that takes no other
ALLOWED = 1  # images of a check pack whose class may differ


class SessionError(RuntimeError):
    """The file is no usable model, or the execution provider is not the one asked for."""


class ProviderUnavailableError(SessionError):
    """The execution provider asked for is not the one that onnxruntime would use."""


class ImageError(SessionError):
    """Images that cannot be read, or that the model does not take."""


class Session:
    """An ONNX model that takes one batch of images and returns logits, or probabilities.

    Args:
        path: the .onnx file, or its bytes.
        provider: `cpu`, `cuda`, `tensorrt`, or `auto` (CUDA where a driver is present, else the CPU). A provider
            asked for by name is used or refused, never silently replaced.
        threads: CPU threads; 0 takes $OMP_NUM_THREADS where it is a number, else the choice of onnxruntime.

    Attributes:
        provider: the execution provider in use.
        input_shape: what the model takes, such as ["batch", 3, 32, 32]; a fixed batch size is filled up unseen.
        input_type: the type of its input, `numpy.uint8` for a model that takes 8-bit pixels.
        channels_last: whether it takes (N, H, W, 3).
        image_size: height and width it takes, None if any.
        metadata: the model's metadata, text by text.
        gives_probabilities: whether the softmax is inside the model.
        labels: class names, or None.

    Raises:
        SessionError: unreadable model, several inputs or one that is no image, or a provider that cannot be used.
    """

    def __init__(self, path: str | Path | bytes, provider: str = "auto", threads: int = 0) -> None:
        self._session = _open(path, provider, threads)
        self.provider: str = self._session.get_providers()[0]
        try:
            inputs = self._session.get_inputs()
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError as error:
            raise SessionError(f"the model is damaged: a text of it is no UTF-8 ({error})") from error
        if len(inputs) != 1:
            raise SessionError(f"expected a model with one input, found {len(inputs)}: {[i.name for i in inputs]}")
        self.input_name, self.input_shape = inputs[0].name, inputs[0].shape
        if inputs[0].type not in INPUTS:
            raise SessionError(f"expected a model that takes images as float or uint8, found {inputs[0].type}")
        if len(self.input_shape) != 4:
            raise SessionError(f"expected images (N, 3, H, W), found a model that takes {self.input_shape}")
        if isinstance(count := self.input_shape[0], int) and count > LARGEST_BATCH:
            raise SessionError(f"the model takes {count:,} images at once; up to {LARGEST_BATCH:,} are filled up")
        self.input_type = INPUTS[inputs[0].type]
        self.channels_last = self.input_shape[3] == 3 and self.input_shape[1] != 3
        height, width = self.input_shape[1:3] if self.channels_last else self.input_shape[2:4]
        self.image_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self.gives_probabilities = self.metadata.get("output") == "probabilities"
        self.labels = _labels(self.metadata["labels"]) if "labels" in self.metadata else None

    def logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Logits (N, classes) of float32 images (N, 3, H, W) in [0, 1]; probabilities if the model gives those.

        A model with another input gets what it declares: uint8 pixels (a float array is refused), or (N, H, W, 3).

        Raises:
            ImageError: images of another type or shape.
        """
        images = np.asarray(images)
        if self.input_type is np.uint8 and images.dtype != np.uint8:
            raise ImageError(f"the model takes uint8 pixels from 0 to 255, got {images.dtype}")
        if self.input_type is not np.uint8 and images.dtype.kind != "f":
            raise ImageError(f"the model takes floats in [0, 1], got {images.dtype}; predict() takes uint8 pixels")
        images = np.ascontiguousarray(images, self.input_type)
        wanted = [size if isinstance(size, int) else None for size in self.input_shape]
        if images.ndim != len(wanted) or any(
            w not in (None, s) for w, s in zip(wanted[1:], images.shape[1:], strict=True)
        ):
            raise ImageError(f"the model takes images of shape {self.input_shape}, got {images.shape}")
        step = wanted[0] or batch_size
        parts = [self._run(images[i : i + step], wanted[0]) for i in range(0, len(images), step)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _run(self, images: np.ndarray, size: int | None) -> np.ndarray:
        """Logits of one batch; where the model's batch size is fixed, the last image fills it up."""
        count = len(images)
        if size and count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        try:
            found = self._session.run(None, {self.input_name: images})[0]
        except Exception as error:  # onnxruntime's errors have no common base
            raise SessionError(f"the model fails on images {images.shape}: {str(error).splitlines()[0]}") from error
        return found[:count].astype(np.float32, copy=False)

    def answers(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """As `logits`, of uint8 images (N, H, W, 3) whatever the model's input."""
        pixels = np.asarray(images)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ImageError(f"expected uint8 images (N, H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self.input_type is not np.uint8:
            pixels = pixels.astype(np.float32) / np.float32(255)
        return self.logits(pixels if self.channels_last else pixels.transpose(0, 3, 1, 2), batch_size)

    def predict(
        self, images: np.ndarray | str | Path | Sequence[str | Path], k: int = 1, batch_size: int = 256
    ) -> list[list[tuple[str, float]]]:
        """The k most likely classes of each image as (label, probability), the likeliest first.

        Args:
            images: uint8 (N, H, W, 3), or files and folders as in `classify`.

        Raises:
            ImageError: images that cannot be read, or of a type or shape that the model does not take.
        """
        if isinstance(images, str | Path):
            images = [images]
        if not isinstance(images, np.ndarray) and all(isinstance(path, str | Path) for path in images):
            return [top for _, top in self.classify(images, k, batch_size)]
        found = self.answers(np.asarray(images), batch_size)
        shares = found if self.gives_probabilities else softmax(found)
        if len(found) and (found.ndim != 2 or (self.labels and len(self.labels) != found.shape[1])):
            raise SessionError(f"the model answers {found.shape}, not one number for each of its classes")
        names = self.labels or [str(i) for i in range(found.shape[1])]
        order = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        return [[(names[i], float(row[i])) for i in best] for best, row in zip(order, shares, strict=True)]

    def classify(
        self, paths: Iterable[str | Path], k: int = 1, batch_size: int = 256
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Name and k most likely classes of every image in files and folders, in the order of `image_files`.

        Photos are brought to the model's size as training images are. An .npy file, or the array `images` of an .npz
        file, holds uint8 images of the model's size, (H, W, 3) or (N, H, W, 3); the latter are named `file[0]`, ...

        Raises:
            ImageError: as `predict`.
        """
        batch: list[tuple[str, np.ndarray]] = []
        for name, image in _read(image_files(paths), self.image_size):
            if batch and (len(batch) == batch_size or image.shape != batch[0][1].shape):
                yield from self._named(batch, k)
                batch = []
            batch.append((name, image))
        yield from self._named(batch, k)

    def _named(self, batch: list[tuple[str, np.ndarray]], k: int) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        if batch:
            yield from zip([name for name, _ in batch], self.predict(np.stack([i for _, i in batch]), k), strict=True)


def _labels(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SessionError(f"the labels in the model's metadata are no JSON ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SessionError("the labels in the model's metadata are no list of names")
    return names


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=1, keepdims=True)


def _open(path: str | Path | bytes, provider: str, threads: int) -> Any:
    """onnxruntime's session of a model, on the provider asked for."""
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
        raise ProviderUnavailableError(f"unknown provider {provider!r}, known are auto, {', '.join(sorted(PROVIDERS))}")
    if not isinstance(path, bytes) and not Path(path).is_file():
        raise SessionError(f"{path}: no such file")
    available = onnxruntime.get_available_providers()
    wanted = provider
    if provider == "auto":
        wanted = "cuda" if PROVIDERS["cuda"] in available and _cuda_driver() else "cpu"
    elif PROVIDERS[provider] not in available:
        raise ProviderUnavailableError(_refusal(provider, built=False))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    allowed = os.environ.get("OMP_NUM_THREADS", "")  # which onnxruntime itself does not read
    options.intra_op_num_threads = threads or (int(allowed) if allowed.isdecimal() else 0)
    others = list(PROVIDERS.values())  # each hands what it cannot run to those behind it
    others = [name for name in others[others.index(PROVIDERS[wanted]) :] if name in available]
    with contextlib.redirect_stdout(io.StringIO()) as said:  # where it prints which libraries it did not find
        if wanted != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        try:
            source = path if isinstance(path, bytes) else str(path)
            session = onnxruntime.InferenceSession(source, options, providers=others)
        except Exception as error:
            name = "the model" if isinstance(path, bytes) else path
            raise SessionError(f"{name} is not a usable ONNX model: {str(error).splitlines()[0]}") from error
    if provider != "auto" and session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderUnavailableError(_refusal(provider, said=said.getvalue()))
    session.disable_fallback()  # else a run that fails on the GPU is repeated on the CPU
    return session


def _cuda_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _refusal(provider: str, *, built: bool = True, said: str = "") -> str:
    """Why a provider that was asked for cannot be had, and what mends it."""
    if not built:
        found = sorted(set(metadata.packages_distributions().get("onnxruntime", ()))) or ["onnxruntime"]
        why = "are both installed and overwrite each other's files" if len(found) > 1 else "was built without it"
        cause = f"{' and '.join(found)} {why}: pip uninstall -y {' '.join(found)}, then pip install onnxruntime-gpu"
    elif not _cuda_driver():
        cause = "onnxruntime took CPUExecutionProvider, since there is no NVIDIA driver"
    else:
        missing = ", ".join(dict.fromkeys(Path(name).name for name in re.findall(r"Failed to load (\S+):", said)))
        cause = f"onnxruntime took CPUExecutionProvider: libraries of CUDA{f' ({missing})' * bool(missing)}"
        cause += f"{' or TensorRT' * (provider == 'tensorrt')} are missing or do not match: "
        cause += 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    return f"{PROVIDERS[provider]} was asked for, but {cause}; or ask for cpu"


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given; of folders the images and arrays at any depth, sorted by path, without hidden ones.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    found = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(path.rglob("*"), key=lambda file: file.relative_to(path).as_posix())
            inside = [file for file in inside if file.suffix.lower() in PHOTOS + ARRAYS]
            inside = [file for file in inside if "/." not in f"/{file.relative_to(path).as_posix()}"]
        if not inside or not path.exists():
            problem = f"no images in it ({', '.join(PHOTOS + ARRAYS)})" if path.is_dir() else "no such file"
            raise ImageError(f"{path}: {problem}")
        found += inside
    return found


def _read(files: Sequence[Path], size: tuple[int, int] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels, uint8 (H, W, 3), of each image; photos brought to `size` as `rnas_zoo.data` does."""
    photos = [file for file in files if file.suffix.lower() not in ARRAYS]
    sizes = {_photo(file, decode=False).size[::-1] for file in photos} if size else set()
    pad = (
        size is not None and len(sizes) == 1 and all(0 <= w - h <= PADDED_BY for w, h in zip(size, *sizes, strict=True))
    )
    for file in files:
        if file.suffix.lower() not in ARRAYS:
            yield str(file), np.asarray(_fit(_photo(file), size, pad) if size else _photo(file))
            continue
        images = _array(file)
        if size and images.shape[-3:-1] != size:
            (h, w), (height, width) = images.shape[-3:-1], size
            raise ImageError(f"{file}: has {h}x{w} pixels, the model takes {height}x{width}; arrays are not resized")
        if images.ndim == 3:
            yield str(file), images
        else:
            yield from ((f"{file}[{index}]", image) for index, image in enumerate(images))


def _array(file: Path) -> np.ndarray:
    try:
        images = np.load(file, allow_pickle=False)
        if not isinstance(images, np.ndarray):
            with images:
                images = np.asarray(images["images"])
    except Exception as error:  # NumPy's errors on damaged files have no common base
        raise ImageError(f"{file}: not a readable array of images ({error})") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise ImageError(f"{file}: expected uint8 (H, W, 3) or (N, H, W, 3), got {images.dtype} {images.shape}")
    return images


def _photo(file: Path, decode: bool = True) -> Any:
    """The pixels of an image file as stored: first frame, no EXIF rotation, transparency dropped; or only its size."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError(f"{file}: needs Pillow to be read (pip install pillow); .npy and .npz files do not") from error
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits per channel, mode {image.mode}; convert it to 8")
            if not decode:
                return image
            return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except Exception as error:  # what Pillow raises on damaged files differs from format to format
        raise ImageError(f"{file}: not a readable image ({error})") from error


def _fit(image: Any, size: tuple[int, int], pad: bool) -> Any:
    """An RGB image at `size`: amid zeros, or scaled until it just covers `size` and cut out of its centre."""
    height, width = size
    if pad:
        left, top = -((width - image.width) // 2), -((height - image.height) // 2)
    else:
        wide = height * image.width >= width * image.height
        scaled = (
            (height * image.width // image.height, height) if wide else (width, width * image.height // image.width)
        )
        image = image.resize(scaled, 2)  # bilinear, antialiased
        left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def check(session: Session, pack: str | Path) -> tuple[int, int, float, bool]:
    """Compare a session's answers with those in a check.npz, of the clean images and, if stored, of their twins.

    Returns:
        How many images there are; for how many the session names another class; the largest difference of two logits
        (of two probabilities, if the model gives those); whether that is rounding.

    Raises:
        ImageError: no such pack, or images that the model does not take.
    """
    try:
        with np.load(pack, allow_pickle=False) as file:
            pairs = [(np.asarray(file["images"]), np.asarray(file["logits"]))]
            if "adversarial_logits" in file:
                pairs.append((np.asarray(file["adversarial"]), np.asarray(file["adversarial_logits"])))
    except Exception as error:  # NumPy's errors on damaged files have no common base
        raise ImageError(f"{pack}: not a readable check pack ({error})") from error
    found = np.concatenate([session.answers(images) for images, _ in pairs])
    wanted = np.concatenate([logits for _, logits in pairs])
    if wanted.dtype.kind not in "fiu":
        raise ImageError(f"{pack}: not a readable check pack (logits are {wanted.dtype})")
    if found.shape != wanted.shape:
        raise ImageError(f"{pack}: holds answers {wanted.shape}, the model gives {found.shape}")
    wanted = softmax(wanted) if session.gives_probabilities else wanted
    largest = float(np.abs(found - wanted).max())
    rounding = largest <= TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    differ = (found.argmax(1) != wanted.argmax(1)).reshape(len(pairs), -1).any(0)
    return len(differ), int(differ.sum()), largest, rounding


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 success, 1 the check failed, 2 wrong use or bad input."""
    parser = argparse.ArgumentParser(description="Classify images with a model, or check what it answers here.")
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("images", nargs="*", help="image files, .npy or .npz files, folders of them")
    parser.add_argument("--check", metavar="PACK", help="compare with the answers stored in a check.npz")
    parser.add_argument("--top-k", type=int, default=1, help="classes per image (default: 1)")
    parser.add_argument("--provider", default="auto", help="auto (default), cpu, cuda, tensorrt")
    given = parser.parse_args(arguments)
    if bool(given.images) == bool(given.check):
        parser.error("give either images or --check PACK")
    lines, differ = [], 0
    try:
        session = Session(given.model, given.provider)
        if given.check:
            count, differ, largest, rounding = check(session, given.check)
            lines.append(f"another class than expected on {differ} of {count} images, allowed is {ALLOWED}")
            lines.append(f"largest difference of an output: {largest:.1e}, {'' if rounding else 'more than '}rounding")
        else:
            for name, top in session.classify(given.images, given.top_k):
                lines.append(f"{name}: {', '.join(f'{label} {100 * share:.1f} %' for label, share in top)}")
    except SessionError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write("\n".join([*lines, f"{given.model} on {session.provider}", ""]))
    return 1 if differ > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
