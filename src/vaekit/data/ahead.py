"""To have pictures of a large file read from the disk before they are asked for."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


class ReadAhead:
    """Tells the system which of the images (N, C, H, W) of a memory-mapped file are needed soon.

    It then reads them beside other work, all at once. Without that, an image that is not in memory is read page by page
    when it is touched, and the step waits for each. Images that are in memory, or mapped from no file, cost nothing.
    """

    def __init__(self, images: np.ndarray):
        self.file = file_of(images)
        self.size = images[:1].nbytes
        self.start = 0 if self.file is None else address(images) - address(np.frombuffer(self.file, np.uint8))

    def will_need(self, places: np.ndarray) -> None:
        """Begin to read the images at `places`; returns at once."""
        if self.file is None:
            return
        for place in places:
            first = self.start + int(place) * self.size
            page = first - first % mmap.PAGESIZE
            self.file.madvise(mmap.MADV_WILLNEED, page, first + self.size - page)


def file_of(images: np.ndarray) -> mmap.mmap | None:
    """The map that whole images lie in one after the other; None where there is none, or no way to advise it."""
    owner: Any = images
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    advised = hasattr(mmap, "MADV_WILLNEED") and images.flags.c_contiguous and len(images) > 0
    return owner if advised and isinstance(owner, mmap.mmap) else None


def address(array: np.ndarray) -> int:
    """Where the first byte of an array lies in memory."""
    return array.__array_interface__["data"][0]
