"""Which images are taken, in which form, and which are refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rnas_zoo import data
from rnas_zoo.errors import DataError, UsageError
from rnas_zoo.verification.images import check_fit, gather

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])
PIXELS = np.ascontiguousarray(LEVELS.transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (LEVELS, LABELS),
        (torch.from_numpy(LEVELS), torch.from_numpy(LABELS)),
        (PIXELS, LABELS.astype(np.uint8)),
        (torch.from_numpy(PIXELS).requires_grad_(), torch.from_numpy(LABELS).int()),
        (PIXELS.astype(np.float64), LABELS.astype(np.int16)),
        (np.asfortranarray(PIXELS), LABELS),
    ],
    ids=["uint8", "uint8 tensor", "float32", "tensor with gradient", "float64", "other memory order"],
)
def test_all_forms_of_the_same_images_are_the_same(x, y):
    pixels, labels, positions, described = gather(x, y, None, None)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(labels, LABELS)
    assert (pixels.dtype, labels.dtype) == (np.float32, np.int64)
    assert pixels.flags.c_contiguous
    assert positions.tolist() == list(range(6))
    assert described == {"name": "arrays", "split": "given"}


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (4, 4), (6, 6), (100, 6), (None, 6)])
def test_n_takes_the_first_images(n, expected, small_data):
    assert gather(PIXELS, LABELS, None, n)[2].tolist() == list(range(expected))
    whole = gather(None, None, str(small_data), None)
    part = gather(None, None, str(small_data), n)
    count = min(n or 24, 24)
    assert len(whole[0]) == 24
    for i in range(3):
        np.testing.assert_array_equal(part[i], whole[i][:count])


@given(st.permutations(range(6)), st.integers(1, 6), st.none() | st.integers(1, 8))
def test_indices_choose_images_in_their_order(order, count, n):
    chosen = np.array(order[:count])
    pixels, labels, positions, _ = gather(LEVELS, LABELS, None, n, chosen)
    expected = chosen[:n]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(pixels, PIXELS[expected])
    np.testing.assert_array_equal(labels, LABELS[expected])
    assert positions.dtype == np.int64


def test_a_data_set_gives_its_test_images_in_order(small_data):
    test = data.load(small_data).test
    pixels, labels, positions, described = gather(None, None, str(small_data), None, np.array([5, 2], np.int32))
    np.testing.assert_array_equal(np.rint(pixels * 255).astype(np.uint8).transpose(0, 2, 3, 1), test.images[[5, 2]])
    np.testing.assert_array_equal(labels, test.labels[[5, 2]])
    assert positions.tolist() == [5, 2]
    assert described == {"name": "blobs", "split": "test", "kind": "npz"}
    assert pixels.dtype == np.float32


def test_images_of_another_size_are_called_so(small_data):
    for size, name, found in ((24, "blobs@24", [24, 24]), ((8, 12), "blobs@8x12", [8, 12])):
        pixels, _, _, described = gather(None, None, str(small_data), 3, None, size)
        expected = data.load(small_data, size).test.images[:3]
        np.testing.assert_array_equal(np.rint(pixels * 255).astype(np.uint8).transpose(0, 2, 3, 1), expected)
        assert described == {"name": name, "split": "test", "kind": "npz", "image_size": found}
    for size in (16, (16, 16), None):
        assert gather(None, None, str(small_data), 3, None, size)[3] == {
            "name": "blobs", "split": "test", "kind": "npz"
        }  # fmt: skip
    assert gather(None, None, "digits", 1, None, (16, 32))[3] == {
        "name": "digits@16x32", "split": "test", "image_size": [16, 32]
    }  # fmt: skip
    with pytest.raises(UsageError, match="image_size is for data sets given by name"):
        gather(PIXELS, LABELS, None, None, None, 8)


def test_folders_are_called_as_they_are_loaded(tmp_path):
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "pets.v2" / split / label
            folder.mkdir(parents=True)
            for i, side in enumerate((8, 10)):
                Image.fromarray(np.full((side, side, 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
    described = gather(None, None, f"{tmp_path}/pets.v2/", None, None, 8)[3]
    assert described == {"name": "pets.v2@8", "split": "test", "kind": "folder", "image_size": [8, 8]}


def test_images_given_as_bytes_are_those_of_the_data_set(small_data):
    test = data.load(small_data).test
    np.testing.assert_array_equal(
        gather(test.images, test.labels, None, 7)[0], gather(None, None, str(small_data), 7)[0]
    )


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([0, 6], "0 to 6, but there are 6 images"),
        ([-1, 2], "-1 to 2"),
        ([1, 3, 1], "twice"),
        ([], "list of integers"),
        ([0.0, 1.0], "float64"),
        ([[0, 1]], r"\(1, 2\)"),
        ([True, False], "bool"),
    ],
)
def test_positions_that_do_not_exist_or_fit_are_refused(indices, text):
    with pytest.raises(UsageError, match=text):
        gather(PIXELS, LABELS, None, None, np.array(indices))


@pytest.mark.parametrize("n", [0, -3])
def test_no_images_are_refused(n, small_data):
    with pytest.raises(UsageError, match=f"n={n}"):
        gather(PIXELS, LABELS, None, n)
    with pytest.raises(UsageError, match=f"n={n}"):
        gather(None, None, str(small_data), n)


@pytest.mark.parametrize(("x", "y"), [(None, None), (PIXELS, None), (None, LABELS)])
def test_half_of_the_arguments_is_refused(x, y):
    with pytest.raises(UsageError, match="give images x and labels y"):
        gather(x, y, None, None)


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (LEVELS.transpose(0, 3, 1, 2), LABELS, r"uint8 images must be \(N, H, W, 3\)"),
        (LEVELS[0], LABELS[:1], r"uint8 images must be \(N, H, W, 3\)"),
        (PIXELS.transpose(0, 2, 3, 1), LABELS, r"\(N, 3, H, W\)"),
        (PIXELS[0], LABELS[:1], r"\(N, 3, H, W\)"),
        (PIXELS, LABELS[:5], r"\(6, 3, 4, 5\) and \(5,\)"),
        (PIXELS, LABELS[:, None], r"\(6, 1\)"),
        (PIXELS[:0], LABELS[:0], r"\(0, 3, 4, 5\)"),
        (LEVELS[:0], LABELS[:0], r"\(0, 3, 4, 5\)"),
        (PIXELS, LABELS.astype(np.float32), "labels must be integers, got float32"),
        (PIXELS, LABELS > 0, "labels must be integers, got bool"),
        (LEVELS.transpose(0, 3, 1, 2).astype(np.int64), LABELS, "to 255; divide by 255"),
        (PIXELS * 2 - 1, LABELS, "from -1"),
        (PIXELS + np.float32("nan"), LABELS, "nan"),
        (PIXELS / np.float32(0.5), LABELS, "to 2"),
    ],
)
def test_images_or_labels_of_a_wrong_kind_are_refused(x, y, text):
    with np.errstate(all="ignore"), pytest.raises(DataError, match=text):
        gather(x, y, None, None)


def subject(kind: str = "torch", image_size: tuple[int, int] | None = None) -> SimpleNamespace:
    return SimpleNamespace(name="net", num_classes=3, kind=kind, image_size=image_size)


def test_labels_must_have_a_class():
    check_fit(subject(), PIXELS, LABELS, "blobs")
    for label, text in [(3, "0 to 3"), (-1, "-1 to 2")]:
        with pytest.raises(DataError, match=rf"net has 3 classes, but the labels of blobs go from {text}"):
            check_fit(subject(), PIXELS, np.array([0, 2, label]), "blobs")


def test_a_graph_of_another_size_is_refused_with_both_sizes():
    check_fit(subject("onnx", (4, 5)), PIXELS, LABELS, "blobs")
    check_fit(subject("onnx"), PIXELS, LABELS, "blobs")
    check_fit(subject("torch", (32, 32)), PIXELS, LABELS, "blobs")
    with pytest.raises(DataError, match=r"net takes images of 5x4, blobs has 4x5.*--input-size"):
        check_fit(subject("onnx", (5, 4)), PIXELS, LABELS, "blobs")
