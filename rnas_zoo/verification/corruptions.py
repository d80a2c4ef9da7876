"""Image corruptions without an adversary: Gaussian noise, Gaussian blur and JPEG compression, as in CIFAR-10-C.

Values and formulas are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations" (ICLR 2019), `make_cifar_c.py`: pixels in [0, 1] are changed, clamped, and cut (not rounded)
to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from .. import random
from ..errors import UsageError

SOURCE = "CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019)"
PARAMETERS = {"gaussian_noise": "sigma", "gaussian_blur": "sigma", "jpeg": "quality"}
BLUR_TRUNCATE = 4.0


@dataclass(frozen=True)
class Corruption:
    """One corruption at one strength.

    Attributes:
        kind: `gaussian_noise` (value: its standard deviation in pixels of [0, 1]), `gaussian_blur` (value: the standard
            deviation of its kernel in pixels) or `jpeg` (value: Pillow's quality, 1 to 95).
        severity: 1 to 5, the place of the value in CIFAR-10-C; None for a value of our own.

    Raises:
        UsageError: an unknown kind, or a value outside its range.
    """

    kind: str
    value: float
    severity: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in PARAMETERS:
            raise UsageError(f"unknown corruption {self.kind!r}, known are {', '.join(PARAMETERS)}")
        low, high = (1, 95) if self.kind == "jpeg" else (0, float("inf"))
        if not low <= self.value <= high or (self.kind == "jpeg" and int(self.value) != self.value):
            raise UsageError(f"{self.kind} needs a {PARAMETERS[self.kind]} from {low} to {high}, got {self.value}")

    def to_json(self) -> dict[str, Any]:
        """Every parameter, for the record; that of `jpeg` names Pillow's version, which encodes."""
        parameters: dict[str, Any] = {PARAMETERS[self.kind]: self.value}
        if self.kind == "gaussian_blur":
            parameters |= {"truncate": BLUR_TRUNCATE, "edge": "nearest"}
        if self.kind == "jpeg":
            import PIL

            parameters["pillow"] = PIL.__version__
        return {
            "corruption": self.kind,
            "parameters": parameters,
            "severity": self.severity,
            "source": f"{SOURCE}, severity {self.severity}" if self.severity else "our choice",
        }


CORRUPTIONS = (
    Corruption("gaussian_noise", 0.08, 3),
    Corruption("gaussian_noise", 0.1, 5),
    Corruption("gaussian_blur", 0.7, 3),
    Corruption("gaussian_blur", 1.0, 5),
    Corruption("jpeg", 58, 3),
    Corruption("jpeg", 40, 5),
    Corruption("jpeg", 30),
)


def corrupt(images: np.ndarray, corruption: Corruption, *, seed: int, positions: np.ndarray) -> np.ndarray:
    """Corrupted images; each depends on its own pixels and position alone, never on the batch.

    Args:
        images: uint8 (N, H, W, 3).
        seed, positions: key the noise, one position per image (N,); the other corruptions draw nothing.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        UsageError: images of another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UsageError(f"corruptions need uint8 images (N, H, W, 3), got {images.dtype} {images.shape}")
    if corruption.kind == "jpeg":
        encoded = [_jpeg(image, int(corruption.value)) for image in images]
        return np.stack(encoded) if encoded else images.copy()
    pixels = images / 255.0
    if corruption.kind == "gaussian_noise":
        import torch

        places = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        drawn = random.normal(images.shape[1:], seed=seed, stream="gaussian-noise", draw=0, positions=places)
        pixels = pixels + corruption.value * drawn.double().numpy()
    else:
        from scipy.ndimage import gaussian_filter

        deviations = (0, corruption.value, corruption.value, 0)
        pixels = gaussian_filter(pixels, deviations, mode="nearest", truncate=BLUR_TRUNCATE)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"))
