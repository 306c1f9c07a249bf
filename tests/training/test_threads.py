"""Fewer threads where other programs keep processors busy: on a machine whose load the test sets."""

import pytest

from vaekit.training.threads import WINDOW_SEC, ThreadWatch


class Machine:
    """Processors that other programs keep busy, and a training that takes what is left for its threads."""

    def __init__(self, processors):
        self.processors, self.others, self.now, self.threads = processors, 0.0, 0.0, processors
        self.by_all = self.by_us = 0.0
        self.watch = ThreadWatch(processors, processors, self.use, lambda: (self.by_all, self.by_us), self.now)
        self.changes = []

    def use(self, threads):
        self.threads = threads
        self.changes.append(threads)

    def train(self, sec, others):
        """Train for so long beside programs that want so many processors; returns the threads at the end."""
        for _ in range(round(sec / 0.1)):
            share = min(1.0, self.processors / (self.threads + others))  # all get alike where they want too much
            self.now += 0.1
            self.by_us += 0.1 * share * self.threads
            self.by_all += 0.1 * share * (self.threads + others)
            self.watch.look(self.now)
        return self.threads


@pytest.mark.parametrize(
    ("processors", "others", "threads"),
    [(2, 0.3, 2), (2, 1, 1), (2, 5, 1), (4, 1, 3), (16, 1, 15), (8, 3, 5), (8, 100, 1), (1, 1, 1)],
)
def test_threads_are_the_processors_that_others_leave_free_and_all_again_when_they_end(processors, others, threads):
    machine = Machine(processors)
    assert machine.train(20, others=0) == processors
    assert machine.train(20 * WINDOW_SEC, others) == threads
    assert machine.train(20 * WINDOW_SEC, others=0) == processors


def test_a_program_that_is_busy_for_a_moment_changes_nothing():
    machine = Machine(2)
    for _ in range(20):
        machine.train(WINDOW_SEC, others=1)
        machine.train(2 * WINDOW_SEC, others=0)
    assert machine.changes == []


def test_where_there_are_fewer_threads_than_processors_the_others_are_free_for_other_programs():
    """A quota of a container, or OMP_NUM_THREADS."""
    used, taken = [], [0.0, 0.0]
    watch = ThreadWatch(4, 16, used.append, lambda: (taken[0], taken[1]), 0.0)
    for busy, expected in ((8, []), (14, [2]), (0, [2, 4])):
        for _ in range(5):
            taken = [taken[0] + (busy + 4) * WINDOW_SEC, taken[1] + 4 * WINDOW_SEC]
            watch.look(watch.looked_at + WINDOW_SEC)
        assert used == expected


def test_a_machine_that_tells_nothing_keeps_all_its_threads():
    used = []
    watch = ThreadWatch(4, 4, used.append, lambda: (0.0, 0.0), 0.0)
    for now in range(1000):
        watch.look(float(now))
    assert used == []
