"""Memory of a process that frees and asks for the same gigabytes step after step."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3) in glibc's malloc.h, and the environment variables that set the same.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
KEPT, LARGEST = 2**31 - 1, 2**30


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, for the rest of the process.

    Otherwise it maps tensors above 32 MB anew each time, and the kernel fills them with zeros page by page
    (`benchmarks/memory.py` measures what that costs). The process keeps what it once needed at most. Environment
    variables that set the same are left in force.

    Returns:
        Whether it was done; other C libraries than glibc have nothing to set.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT)) and bool(mallopt(MMAP_THRESHOLD, LARGEST))
