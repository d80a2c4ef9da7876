"""Images brought to one size: padded by little, else scaled and cropped as torchvision does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rnas_zoo import data
from rnas_zoo.data import sizes
from rnas_zoo.errors import UsageError

from .images import numbered


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(height=st.integers(8, 90), width=st.integers(8, 90), size=st.integers(8, 64))
def test_square_sizes_are_torchvisions_resize_and_centre_crop(height, width, size):
    from torchvision.transforms import CenterCrop, Resize

    image = picture(height, width)
    found = np.asarray(sizes.fit(image, (size, size), pad=False))
    np.testing.assert_array_equal(found, np.asarray(CenterCrop(size)(Resize(size)(image))))


@given(size=st.tuples(st.integers(8, 50), st.integers(8, 50)), wanted=st.tuples(st.integers(8, 50), st.integers(8, 50)))
def test_any_size_becomes_any_other_without_distortion(size, wanted):
    height, width = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 250, height)[:, None], np.linspace(0, 250, width)
    found = np.asarray(sizes.fit(Image.fromarray(ramp), wanted, pad=False)).astype(float)
    assert found.shape == (*wanted, 3)
    # A pixel of the result covers the same length of the scene down and across: ramps rise alike, up to rounding.
    scale = max(wanted[0] / height, wanted[1] / width)
    for axis, (rise, n) in enumerate([(found[..., 0], height), (found[..., 1], width)]):
        line = rise.mean(1 - axis)
        middle = line[len(line) // 4 : len(line) - len(line) // 4]
        expected = 250 / (n - 1) / scale
        assert abs((middle[-1] - middle[0]) / (len(middle) - 1) / expected - 1) < 0.3
    # ... and the centre stays the centre, up to half a pixel of the result.
    assert abs(found[..., 0].mean() - 125) < 250 / height / scale + 2
    assert abs(found[..., 1].mean() - 125) < 250 / width / scale + 2


@pytest.mark.parametrize(("size", "wanted"), [((28, 28), (32, 32)), ((27, 30), (32, 32)), ((9, 16), (17, 16))])
def test_padding_puts_zeros_evenly_around(size, wanted):
    image = np.asarray(picture(*size))
    down, across = (want - have for want, have in zip(wanted, size, strict=True))
    expected = np.pad(image, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))
    np.testing.assert_array_equal(np.asarray(sizes.fit(Image.fromarray(image), wanted, pad=True)), expected)


def test_only_images_of_one_slightly_smaller_size_are_padded():
    assert sizes.to_be_padded({(28, 28)}, (32, 32))
    assert sizes.to_be_padded({(24, 32)}, (32, 32))
    assert not sizes.to_be_padded({(23, 32)}, (32, 32))
    assert not sizes.to_be_padded({(32, 40)}, (32, 32))
    assert not sizes.to_be_padded({(28, 28), (29, 28)}, (32, 32)), "borders must not tell images apart"


def test_npz_of_28_pixels_becomes_32_by_padding(npz_file):
    path = npz_file(size=28)
    plain, found = data.load(path), data.load(path, image_size=32)
    assert (found.name, found.image_size, found.classes) == ("blobs@32", (32, 32), plain.classes)
    for part, source in ((found.train, plain.train), (found.test, plain.test)):
        assert (part.images.shape, part.images.dtype) == ((len(source), 32, 32, 3), np.uint8)
        np.testing.assert_array_equal(part.images[:, 2:30, 2:30], source.images)
        assert part.images.sum() == source.images.sum()
        np.testing.assert_array_equal(part.labels, source.labels)


def test_npz_of_another_size_is_scaled(npz_file):
    path = npz_file(size=16)
    found = data.load(path, image_size=(8, 12))
    assert (found.name, found.image_size) == ("blobs@8x12", (8, 12))
    expected = Image.fromarray(data.load(path).test.images[5]).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.test.images[5], np.asarray(expected)[2:10])


def test_the_size_images_have_already_changes_nothing(npz_file):
    path = npz_file(size=16)
    plain, found = data.load(path), data.load(path, image_size=(16, 16))
    assert found.name == plain.name == "blobs"
    np.testing.assert_array_equal(found.test.images, plain.test.images)


def test_named_data_sets_and_validation_images_are_resized_too():
    assert data.load("digits", image_size=16).name == "digits@16"
    dataset = data.Dataset("x", numbered(4, 16), numbered(3, 16), tuple("ab"), validation=numbered(2, 16))
    found = sizes.resized(dataset, 20)
    np.testing.assert_array_equal(found.validation.images[:, 2:18, 2:18], dataset.validation.images)


@pytest.mark.parametrize("size", [7, 0, -32, 32.0, "32", (32,), (32, 32, 32), (32, 7), (32, "x"), True])
def test_image_sizes_that_are_none_are_refused(size, npz_file):
    with pytest.raises(UsageError, match="image size must be"):
        data.load(npz_file(), image_size=size)


@pytest.mark.parametrize(("text", "size"), [("32", (32, 32)), ("8x12", (8, 12)), ("100X9", (100, 9))])
def test_sizes_are_read_from_text_and_spelled_alike(text, size):
    assert data.parse_size(text) == size
    assert data.parse_size(data.spelled(size)) == size


@pytest.mark.parametrize("text", ["", "x", "32x", "32x32x3", "32,32", "-32", "3e2", "²", "32.0", " 32", "big"])
def test_text_that_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="such as 32, or HEIGHTxWIDTH"):
        data.parse_size(text)


def test_sizes_too_small_are_refused():
    with pytest.raises(UsageError, match=r"at least 8, got \(8, 7\)"):
        data.parse_size("8x7")
