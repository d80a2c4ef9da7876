"""Arrays from .npz and .npy files that others wrote: no pickles, and no more memory than the file accounts for."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

UNPACKED = 1 << 30  # bytes that a file may always unpack to
RATIO = 200  # times its own size that a larger one may; images and verdicts of ours stay below 60
LAST_CHARACTER = 0x10FFFF


def read_arrays(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Args:
        names: those wanted, as far as they are there; all by default.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: damaged, no .npz file, or an array that is a pickle, announces more than the file holds, or unpacks
            to more than 1 GiB and 200 times the size of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: info for name, info in members.items() if names is None or name in names}
            total = sum(info.file_size for info in wanted.values())
            if total > max(UNPACKED, RATIO * Path(path).stat().st_size):
                raise ValueError(f"it would unpack to {total / 2**30:,.1f} GiB, far more than arrays do")
            found = {}
            for name, info in wanted.items():
                with archive.open(info) as file:
                    found[name] = _checked(file, info.file_size, name)
            return found
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy have no common base of their errors
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def read_array(path: str | Path) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        OSError, ValueError: as `read_arrays`.
    """
    try:
        with open(path, "rb") as file:
            return _checked(file, Path(path).stat().st_size, "the array")
    except (OSError, ValueError):
        raise
    except Exception as error:  # as above
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def _checked(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array of an .npy file of `size` bytes, its header held against that before anything is allocated."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has version {version[0]}.{version[1]} of the format, known are 1.0 and 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers as Python 2 wrote them
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects (a pickle), which are not loaded")
        needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
        if min(shape, default=0) < 0 or needed > held or (not dtype.itemsize and math.prod(shape) > size):
            raise ValueError(f"{name} is announced as {dtype} {shape}, {needed:,} bytes, and there are {held:,}")
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        characters = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if characters.max() > LAST_CHARACTER:
            raise ValueError(f"{name} holds text that is no Unicode")
    return array
