"""Locks between processes, on every system that filelock knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(path: Path, wait: bool = True, cure: str = "") -> Iterator[bool]:
    """Hold the lock in the file `path` once it is free; without `wait`, yield False at once if another holds it.

    The system releases it when its process ends, also where that is killed. The empty file stays: were it removed, a
    process that waits for it and one that comes later could each hold a lock of that name. Users who share a folder
    share its locks. Raises `OSError`, with the `cure`, where there can be no such file.
    """
    lock = FileLock(path, timeout=-1 if wait else 0, mode=0o666)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise OSError(
            f"cannot lock {path} ({getattr(error, 'strerror', None) or error}){cure and '; ' + cure}"
        ) from error
    try:
        yield True
    finally:
        lock.release()
