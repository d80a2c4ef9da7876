"""Images by their hash, and the part held out for selection."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import data
from rnas_zoo.data import Dataset, ImageSet

from .images import numbered

# --- identity of images -----------------------------------------------------------------------------------------------


def test_pixel_hash_is_sha256_of_the_bytes_in_reading_order():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    spelled = bytes(int(image[row, column, channel]) for row in range(4) for column in range(5) for channel in range(3))
    assert data.pixel_hash(image) == hashlib.sha256(spelled).hexdigest()
    assert data.pixel_hash(np.asfortranarray(image)) == data.pixel_hash(image)
    assert data.pixel_hash(image.astype(np.float64)) == data.pixel_hash(image)
    assert data.pixel_hash(image[::-1]) != data.pixel_hash(image)


def test_images_hash_is_sha256_of_the_hashes_in_order():
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    whole = hashlib.sha256()
    for text in hashes:
        whole.update(text.encode("ascii"))
    assert data.images_hash(hashes) == whole.hexdigest()
    assert data.images_hash(hashes[::-1]) != data.images_hash(hashes)


# --- held-out part ----------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 200), seed=st.integers(0, 2**32), holdout=st.floats(0.01, 0.5))
def test_split_is_a_partition_of_the_training_images(n, seed, holdout):
    train = numbered(n, size=1)
    dataset = Dataset("x", train, ImageSet(train.images[:1], np.array([-1])), tuple("ab"))
    kept, held = dataset.split(seed, holdout)
    assert sorted([*kept.labels, *held.labels]) == list(range(n)), "every training image once, no test image"
    assert len(held) == max(1, round(n * holdout))
    for part in (kept, held):
        assert (np.diff(part.labels) > 0).all(), "official order"
        np.testing.assert_array_equal(part.images, train.images[part.labels])


def test_split_depends_on_the_seed_alone():
    dataset = Dataset("x", numbered(100), numbered(5), tuple("ab"))
    first, again, other = (set(dataset.split(seed)[1].labels) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_validation_images_of_its_own_are_used_instead_of_held_out_ones():
    own = numbered(7, seed=1)
    dataset = Dataset("x", numbered(100), numbered(5), tuple("ab"), validation=own)
    kept, held = dataset.split(3, holdout=0.4)
    assert held is own
    assert kept is dataset.train
