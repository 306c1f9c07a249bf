"""One process at a time writes the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.system.locks import held

LOCK_FILE = ".lock"


@contextmanager
def claimed(run: Path, first: bool) -> Iterator[None]:
    """Hold the folder of a run, for the `first` rank alone; the system gives it back when the process ends.

    Raises `ValueError` if another process holds it.
    """
    if not first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with held(run / LOCK_FILE, wait=False) as ours:
        if not ours:
            raise ValueError(f"another process is training {run}; wait for its end, or give another --out")
        yield
