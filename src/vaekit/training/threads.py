"""Fewer threads while other programs keep processors busy.

A step is hundreds of short loops over all threads, and each loop waits for its slowest thread. Where another program
keeps one of two processors busy, two threads are slower than one (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW_SEC = 2.0  # that the load is measured over


class ThreadWatch:
    """Sets the threads of this process to the processors that other programs leave free, one at least.

    `most` is how many threads there are, on so many `processors`; `use` sets how many are used, and `load` gives the
    processor seconds that all programs and this one have taken so far (`processors.load`). Sums over other numbers of
    threads differ in their last bits, so `use` is for runs that depend on the clock in any case.
    """

    def __init__(
        self,
        most: int,
        processors: int,
        use: Callable[[int], object],
        load: Callable[[], tuple[float, float]],
        now: float,
    ) -> None:
        self.most, self.processors, self.use, self.load = most, processors, use, load
        self.count = self.wanted = most
        self.looked_at, self.taken = now, load()

    def look(self, now: float) -> None:
        """Look at the load, where it is time; what two looks in a row agree on is done."""
        sec = now - self.looked_at
        if sec < WINDOW_SEC:
            return
        before, self.taken, self.looked_at = self.taken, self.load(), now
        by_all, by_us = (after - earlier for after, earlier in zip(self.taken, before, strict=True))
        previous, self.wanted = self.wanted, self.free(max(0.0, by_all - by_us) / sec)
        if self.wanted == previous and self.wanted != self.count:
            self.count = self.wanted
            self.use(self.count)

    def free(self, others: float) -> int:
        """Processors that are free beside those that `others` keep busy."""
        return max(1, min(self.most, round(self.processors - others)))
