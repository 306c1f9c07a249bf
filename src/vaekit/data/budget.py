"""A budget of memory that threads share while they decode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

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
                self.limit = max(LEAST_BYTES, int(SHARE * psutil.virtual_memory().available))
            limit = self.limit
            self.changed.wait_for(lambda: self.used == 0 or self.used + num_bytes <= limit)
            self.used += num_bytes
        try:
            yield
        finally:
            with self.changed:
                self.used -= num_bytes
                self.changed.notify_all()
