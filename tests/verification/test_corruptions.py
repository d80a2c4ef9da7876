"""Corruptions: CIFAR-10-C's values and formulas, and images that do not depend on their batch."""

import io

import numpy as np
import pytest
from PIL import Image

from rnas_zoo.errors import UsageError
from rnas_zoo.verification.corruptions import CORRUPTIONS, Corruption, corrupt

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3)).astype(np.uint8)
PLACES = np.array([3, 0, 77, 12, 5])

# c of make_cifar_c.py at severities 1 to 5
CIFAR_C = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "jpeg": (80, 65, 58, 50, 40),
}


def test_severities_are_those_of_cifar_10_c():
    stated = [corruption for corruption in CORRUPTIONS if corruption.severity]
    assert {(c.kind, c.severity) for c in stated} == {(kind, severity) for kind in CIFAR_C for severity in (3, 5)}
    assert all(c.value == CIFAR_C[c.kind][c.severity - 1] for c in stated)
    assert [c.to_json()["source"] for c in CORRUPTIONS if not c.severity] == ["our choice"]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: f"{c.kind}-{c.value:g}")
def test_an_image_depends_on_itself_and_its_position_alone(corruption):
    together = corrupt(IMAGES, corruption, seed=4, positions=PLACES)
    assert together.dtype == np.uint8
    assert together.shape == IMAGES.shape
    assert not np.array_equal(together, IMAGES)
    for index in (4, 1):
        alone = corrupt(IMAGES[index : index + 1], corruption, seed=4, positions=PLACES[index : index + 1])
        assert np.array_equal(alone[0], together[index])


def test_noise_has_the_stated_deviation_and_follows_seed_and_position():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    noisy = corrupt(grey, Corruption("gaussian_noise", 0.1), seed=0, positions=np.arange(4))
    difference = noisy.astype(float) - 128 + 0.5  # cutting to 8 bits takes half a level on average
    assert abs(difference.mean()) < 3 * 25.5 / np.sqrt(grey.size)
    assert difference.std() == pytest.approx(25.5, rel=0.03)
    assert not np.array_equal(noisy[0], noisy[1])
    other = corrupt(grey, Corruption("gaussian_noise", 0.1), seed=1, positions=np.arange(4))
    assert not np.array_equal(noisy[0], other[0])


@pytest.mark.parametrize("deviation", [0.7, 1.0])
def test_blur_is_the_convolution_with_a_truncated_gaussian_and_repeated_edges(deviation):
    radius = int(4 * deviation + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    taps /= taps.sum()
    wanted = np.zeros(IMAGES.shape)
    padded = np.pad(IMAGES / 255.0, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    for i, down in enumerate(taps):
        for j, across in enumerate(taps):
            wanted += down * across * padded[:, i : i + IMAGES.shape[1], j : j + IMAGES.shape[2]]
    found = corrupt(IMAGES, Corruption("gaussian_blur", deviation), seed=0, positions=PLACES)
    assert np.abs(found - wanted * 255).max() <= 1
    assert (found <= wanted * 255 + 1e-6).all()


def test_jpeg_is_pillow_s():
    found = corrupt(IMAGES, Corruption("jpeg", 40), seed=0, positions=PLACES)
    for image, changed in zip(IMAGES, found, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=40)
        assert np.array_equal(changed, np.asarray(Image.open(file)))
    best = corrupt(IMAGES, Corruption("jpeg", 95), seed=0, positions=PLACES)
    assert np.abs(best - IMAGES.astype(float)).mean() < np.abs(found - IMAGES.astype(float)).mean()


def test_wrong_corruptions_and_images_are_refused():
    for kind, value, words in (("fog", 1, "gaussian_noise, "), ("jpeg", 96, "quality"), ("gaussian_blur", -1, "sigma")):
        with pytest.raises(UsageError, match=words):
            Corruption(kind, value)
    with pytest.raises(UsageError, match="uint8"):
        corrupt(IMAGES / 255, Corruption("jpeg", 40), seed=0, positions=PLACES)
