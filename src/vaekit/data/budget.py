"""What a picture may take while it is decoded: a limit for each, and a budget of memory that threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vaekit.system.processors import free_memory

MOST_PIXELS = 2 * 89_478_485  # twice a quarter of a gigabyte of RGB: what Pillow's own limit is by default
MOST_SAMPLES = 16 * MOST_PIXELS  # of a picture of many bands
BYTES_A_SAMPLE = 20  # that a TIFF takes here: measured for float64
SHARE = 0.5  # of the memory that is free when the first picture is decoded
LEAST_BYTES = 2**28


class Budget:
    """At most so many bytes are held at once; what alone is more than that waits until nothing else is held."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.used = limit, 0
        self.changed = threading.Condition()

    @contextmanager
    def holding(self, num_bytes: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and hold them."""
        with self.changed:
            if self.limit is None:
                self.limit = max(LEAST_BYTES, int(SHARE * free_memory()))
            limit = self.limit
            self.changed.wait_for(lambda: self.used == 0 or self.used + num_bytes <= limit)
            self.used += num_bytes
        try:
            yield
        finally:
            with self.changed:
                self.used -= num_bytes
                self.changed.notify_all()


BUDGET = Budget()


def check_size(width: int, height: int, samples: int = 1) -> None:
    """Raise `ValueError` for what is larger than Pillow takes for an attack, before it is decoded."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MOST_PIXELS:,} that are read; make it smaller")
    if width * height * samples > MOST_SAMPLES:
        raise ValueError(f"{width} x {height} pixels of {samples:,} bands or pages, more than are read")
