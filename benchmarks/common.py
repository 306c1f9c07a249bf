"""What the benchmarks share: fresh processes, the memory of one, tables and JSON."""

import json
import multiprocessing
import os
import re
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vaekit.reports.tables import Table
from vaekit.system.process import own_process


def in_fresh_process(function: Callable[..., Any], *arguments: Any, ours: bool = False) -> Any:
    """The result of a call in a new interpreter, whose peak of memory is its own.

    With `ours`, the process is set up as that of a vaekit command, by `own_process`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, own_process if ours else None, ("auto",) if ours else ()) as pool:
        return pool.submit(function, *arguments).result()


def median_sec(function: Callable[[], Any], repeats: int, warm_up: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(warm_up + repeats):
        started_at = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started_at)
    return statistics.median(seconds[warm_up:])


def resident_mib() -> float:
    """Memory of this process that is resident now, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mib() -> float:
    """The most memory that was ever resident in this process, MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextmanager
def own_memory() -> Iterator[Callable[[], float]]:
    """A call gives the most memory of its own that this process has had since, MiB (Linux), by a look each 0.1 s.

    Pages of mapped files, which the system takes back when it needs them, are not its own.
    """
    most, ended = 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while True:
            anonymous = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            most = max(most, int(anonymous[1]) / 2**10 if anonymous else 0.0)
            if ended.wait(0.1):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        watcher.join()


def open_files() -> int:
    """Open file descriptors of this process (Linux)."""
    return len(os.listdir("/proc/self/fd"))


def write_pictures(folder: Path, count: int, side: int) -> Path:
    """`count` PNG files of noise, 100 to a folder and 100 folders to a folder; returns `folder`."""
    random = np.random.default_rng(0)
    for i in range(count):
        inner = folder / f"{i // 10_000:03d}" / f"{i // 100 % 100:03d}"
        if i % 100 == 0:
            inner.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(inner / f"{i:07d}.png", compress_level=0)
    return folder


def show(title: str, rows: Sequence[Mapping[str, Any]], digits: Mapping[str, str], json_file: Path | None) -> None:
    """Print rows of named values as a Markdown table, numbers with their `digits`; write them as JSON if asked to."""
    cells = [[format(value, digits.get(name, "")) for name, value in row.items()] for row in rows]
    print(Table(title, list(rows[0]), cells).markdown(), end="\n\n")
    if json_file is not None:
        earlier = json.loads(json_file.read_text()) if json_file.is_file() else {}
        json_file.write_text(json.dumps(earlier | {title: list(rows)}, indent=2) + "\n")
