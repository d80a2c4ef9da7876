"""Batches that depend on (seed, step) alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import data, random
from rnas_zoo.data import Batches, ImageSet
from rnas_zoo.errors import UsageError

from .images import numbered


def test_to_pixels_is_channels_first_and_divided_by_255():
    images = numbered(3, size=4).images
    pixels = data.to_pixels(images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 3, 4, 4)
    for n, channel, row, column in [(0, 0, 0, 0), (2, 1, 3, 2), (1, 2, 0, 3)]:
        assert pixels[n, channel, row, column].item() == np.float32(images[n, row, column, channel]) / np.float32(255)
    np.testing.assert_array_equal(data.to_pixels(images[:, :, ::-1]), pixels.flip(3))


def make(images: ImageSet, size: int, **kwargs) -> Batches:
    return Batches(images, size, **{"seed": 4, "stream": "test", **kwargs})


@pytest.mark.parametrize("augmentation", data.AUGMENTATIONS)
def test_a_batch_depends_on_seed_and_step_only(augmentation):
    images = numbered(20)
    in_turn = make(images, 6, augmentation=augmentation)
    expected = [in_turn(step) for step in range(9)]
    jumping = make(images, 6, augmentation=augmentation)
    for step in (8, 0, 5, 5, 2, 7):
        x, y = jumping(step)
        assert torch.equal(x, expected[step][0])
        assert torch.equal(y, expected[step][1])


@given(n=st.integers(1, 40), size=st.integers(1, 40), epoch=st.integers(0, 50))
def test_an_epoch_has_no_image_twice(n, size, epoch):
    if size > n:
        with pytest.raises(UsageError, match="lower --batch-size"):
            make(numbered(n, size=1), size)
        return
    batches = make(numbered(n, size=1), size)
    steps = n // size
    assert batches.steps_per_epoch == steps
    seen = [int(label) for step in range(steps) for label in batches(epoch * steps + step)[1]]
    assert len(seen) == steps * size == len(set(seen))
    assert set(seen) <= set(range(n))


def test_epochs_and_seeds_and_streams_shuffle_differently():
    images = numbered(32, size=1)
    orders = [
        tuple(make(images, 32, seed=seed, stream=stream)(epoch)[1].tolist())
        for seed, stream, epoch in [(0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0)]
    ]
    assert len(set(orders)) == 4
    assert tuple(make(images, 32, seed=0, stream="a")(0)[1].tolist()) == orders[0]


def test_without_augmentation_images_are_as_given():
    images = numbered(12)
    x, y = make(images, 5, augmentation="none")(1)
    expected = images.images[y.numpy()].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(x.numpy(), expected)
    assert y.dtype == torch.int64


def shifted(image: np.ndarray, dy: int, dx: int, flip: bool) -> np.ndarray:
    """The image moved by (dy, dx) with its edge pixels repeated, then mirrored."""
    height, width, _ = image.shape
    moved = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            moved[row, column] = image[min(max(row + dy, 0), height - 1), min(max(column + dx, 0), width - 1)]
    return moved[:, ::-1] if flip else moved


@pytest.mark.parametrize(("augmentation", "flips"), [("crop", {False}), ("crop_flip", {False, True})])
def test_augmented_images_are_shifts_by_up_to_an_eighth(augmentation, flips):
    images = numbered(5, size=16)
    table = {
        (label, shifted(images.images[label], dy, dx, flip).tobytes()): (dy, dx, flip)
        for label in range(5)
        for dy in range(-2, 3)
        for dx in range(-2, 3)
        for flip in (False, True)
    }
    batches = make(images, 5, augmentation=augmentation)
    seen = []
    for step in range(40):
        x, y = batches(step)
        for image, label in zip(x, y, strict=True):
            pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            seen.append(table[int(label), pixels.tobytes()])
    for axis in (0, 1):
        assert {move[axis] for move in seen} == {-2, -1, 0, 1, 2}
    assert {flip for _, _, flip in seen} == flips
    assert len({(dy, dx) for dy, dx, _ in seen}) > 20, "rows and columns move independently"


def test_unknown_augmentation_is_refused():
    with pytest.raises(UsageError, match="crop_flip"):
        make(numbered(4), 2, augmentation="cutmix")


# SHA-256 over six steps, from before there were other augmentations and processes than these.
RECORDED = {
    ("none", 16, 16): "c7a362820e266742bd17046e55e79427fabec72289c87f022b3368fd318cafa9",
    ("crop", 16, 16): "41dc2df928cf2743a3c2c57c12a8d3f034f0f33c35b2ffdc2b951489e2bd679f",
    ("crop_flip", 16, 16): "71d1ca9013b840d3ddbba78e1216129acb89fa37d2c929e6f05d998398a8cc3c",
    ("none", 9, 12): "fcc0d7a0e78d03ad07e14e773ccf67d717fad150c39cea476cdae7f831e6fb97",
    ("crop", 9, 12): "4ceb7c91d1a1b6ffa292cd662c496baa03d7f215cd9cbbe09b6995e6cbb1d117",
    ("crop_flip", 9, 12): "36ce777cf8716a8f5775a2883ea253764e154556c0d56608c996d62b86b36ae6",
}


@pytest.mark.parametrize(("augmentation", "height", "width"), RECORDED)
def test_batches_are_those_of_earlier_versions(augmentation, height, width):
    images = (np.arange(13 * height * width * 3) * 37 % 251).astype(np.uint8).reshape(13, height, width, 3)
    batches = Batches(ImageSet(images, np.arange(13)), 5, seed=11, stream="recorded", augmentation=augmentation)
    digest = hashlib.sha256()
    for step in range(6):
        x, y = batches(step)
        digest.update(x.contiguous().numpy().tobytes() + y.numpy().tobytes())
    assert digest.hexdigest() == RECORDED[augmentation, height, width]


def one_by_one(images: np.ndarray, step: int, cutout: bool) -> np.ndarray:
    """Padded with zeros, cropped, mirrored and cut out, image by image: uint8 NHWC like the images."""
    n, height, width, _ = images.shape
    pad = height // 8

    def draw(name: str, count: int, low: int, high: int) -> np.ndarray:
        return random.integers(count, low, high, seed=4, stream=f"test-{name}", draw=step)

    dy, dx = draw("crop", 2 * n, -pad, pad + 1).reshape(2, n)
    flips = draw("flip", n, 0, 2)
    centres = zip(draw("cutout-y", n, 0, height), draw("cutout-x", n, 0, width), strict=True)
    results = []
    for i, (y, x) in enumerate(centres):
        padded = np.pad(images[i], ((pad, pad), (pad, pad), (0, 0)))
        image = padded[pad + dy[i] : pad + dy[i] + height, pad + dx[i] : pad + dx[i] + width].copy()
        if flips[i]:
            image = image[:, ::-1].copy()
        if cutout:
            half = height // 4
            image[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        results.append(image)
    return np.stack(results)


@pytest.mark.parametrize("augmentation", ["pad_crop_flip", "pad_crop_flip_cutout"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (16, 24), (25, 17), (8, 8)])
def test_padding_and_cutout_are_what_a_loop_over_images_does(augmentation, height, width):
    images = np.random.default_rng(0).integers(1, 256, (11, height, width, 3), dtype=np.uint8)
    batches = make(ImageSet(images, np.arange(11)), 11, augmentation=augmentation)
    for step in range(12):
        x, y = batches(step)
        expected = one_by_one(images[y.numpy()], step, augmentation.endswith("cutout"))
        np.testing.assert_array_equal(np.rint(x.numpy() * 255).transpose(0, 2, 3, 1), expected)


def test_cutout_centres_are_uniform_and_its_squares_16_pixels_at_32():
    images = ImageSet(np.full((256, 32, 32, 3), 255, np.uint8), np.arange(256))
    batches = make(images, 256, augmentation="pad_crop_flip_cutout")
    zeros = torch.cat([batches(step)[0][:, 0, 4:28, 4:28] for step in range(20)]) == 0  # free of padding
    assert all((batches(step)[0].flatten(1).amin(1) == 0).all() for step in range(3)), "every image loses something"
    # A pixel more than 8 from every border is cut out if the centre is one of 16 of 32 rows and 16 of 32 columns.
    inner = zeros[:, 8:16, 8:16].double().mean(0)
    assert (inner - 0.25).abs().max() < 5 * (0.25 * 0.75 / len(zeros)) ** 0.5
    heights = zeros.any(2).sum(1)
    assert set(heights[(zeros[:, 3] == 0).all(1) & (zeros[:, 20] == 0).all(1) & (heights > 0)].tolist()) == {16}


def test_images_are_not_copied_on_the_cpu():
    images = numbered(20)
    for batches in (make(images, 6), make(images, 6)):
        assert batches.images.dtype == torch.uint8
        assert np.shares_memory(batches.images.numpy(), images.images)
    before = images.images.copy()
    for augmentation in data.AUGMENTATIONS:
        make(images, 6, augmentation=augmentation)(1)
    np.testing.assert_array_equal(images.images, before)


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", data.AUGMENTATIONS)
@given(world=st.integers(1, 4), share=st.integers(1, 4), step=st.integers(0, 9))
def test_batches_of_all_processes_are_that_of_one(augmentation, world, share, step):
    size, images = world * share, numbered(19)
    x, y = make(images, size, augmentation=augmentation)(step)
    whole = make(images, size, augmentation=augmentation).positions(step)
    assert whole.tolist() == [step * size + row for row in range(size)]
    for rank in range(world):
        part = make(images, size, augmentation=augmentation, rank=rank, world=world)
        own_x, own_y = part(step)
        assert torch.equal(own_x, x[rank::world])
        assert torch.equal(own_y, y[rank::world])
        assert torch.equal(part.positions(step), whole[rank::world])
        assert (part.batch_size, part.steps_per_epoch) == (size, 19 // size)


@pytest.mark.parametrize(
    ("rank", "world", "words"),
    [(0, 4, "does not divide among 4"), (2, 2, r"outside 0\.\.1"), (-1, 2, r"outside 0\.\.1"), (0, 0, "outside")],
)
def test_processes_that_do_not_fit_are_refused(rank, world, words):
    with pytest.raises(UsageError, match=words):
        make(numbered(20), 6, rank=rank, world=world)
