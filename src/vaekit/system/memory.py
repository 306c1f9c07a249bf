"""What the C library does with memory that this process frees."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees for later allocations, where the C library is glibc.

    A step on a CPU frees and takes the same hundreds of MiB again, and so does a network that looks at one batch after
    the other. By default glibc returns large blocks to the system each time, and the system maps them again page by
    page, zeroed. That takes a seventh of a step of `fast`, and nearly half of the time of EfficientNet
    (docs/performance.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # which never shrinks
