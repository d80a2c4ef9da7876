"""Image data sets as uint8 arrays in their official order, and batches of them on the device.

An image is its position in the official order plus the SHA-256 of its pixels, so that evidence can be re-verified on
anybody's copy of the data.
"""

from .batches import AUGMENTATIONS, Batches, to_pixels
from .official import data_root
from .readers import DATASETS, DIGITS_TEST, base_name, load
from .sets import HOLDOUT, Dataset, ImageSet, images_hash, pixel_hash
from .sizes import parse_size, spelled

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "DIGITS_TEST",
    "HOLDOUT",
    "Batches",
    "Dataset",
    "ImageSet",
    "base_name",
    "data_root",
    "images_hash",
    "load",
    "parse_size",
    "pixel_hash",
    "spelled",
    "to_pixels",
]
